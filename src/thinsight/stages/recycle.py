"""SparseVLM's recycling: the best of the leavers go on in clusters (arXiv:2410.04417, section 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.evidence import Evidence
from thinsight.stages.correlate import Routes
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Recycle:
    """The first q = floor(share * leaving) + 1 leavers make floor(q / members) + 1 new tokens; the rest goes nowhere.

    ``leaving`` has to name the best one first, as the filters do that rank by a score. Clusters are found by density
    peaks (`clusters`) among the states, and a new token stands where its cluster's centre stood. Where nothing stays
    nothing is recycled, so that a budget of zero is one.
    """

    share: float = 0.3
    members: int = 10
    lossy = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.members < 1:
            raise UserError(
                f"recycling takes a share between 0 and 1 and at least 1 member, not {self.share} and {self.members}"
            )

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Routes:
        keep, count = len(tokens) - len(leaving), self.pool(len(leaving))
        stay = torch.zeros(len(leaving), keep)
        if keep == 0:
            return Routes(stay)
        states = tokens.states[leaving[:count].to(tokens.states.device)]
        centre, cluster = clusters(states, self.adds(len(leaving), keep))
        new = torch.zeros(len(leaving), len(centre))
        new[torch.arange(count), cluster] = 1.0
        return Routes(stay, new, centre)

    def pool(self, leave: int) -> int:
        """How many of ``leave`` leavers are recycled."""
        return min(int(self.share * leave) + 1, leave)

    def adds(self, leave: int, keep: int) -> int:
        """How many new tokens that makes."""
        pool = self.pool(leave)
        return min(pool // self.members + 1, pool) if keep else 0


def clusters(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``count`` clusters of states (n, width) by density peaks -> centres (count,) and each state's cluster (n,).

        D = L2 / sqrt(width);  rho_i = exp(-mean of the count smallest D_ij^2, its own 0 among them)
        delta_i = distance to the nearest denser state (of the densest: the largest distance there is)

    The centres are those with the largest rho * delta, in that order; all others go to the nearest centre. Of states
    that are equally dense the earlier counts as denser; the released code adds random noise to tell them apart.
    """
    points = states.float()
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").cpu() / states.shape[-1] ** 0.5
    density = torch.exp(-distance.topk(count, largest=False).values.square().mean(-1))
    row = torch.arange(len(density))
    denser = (density > density[:, None]) | ((density == density[:, None]) & (row < row[:, None]))
    peak = torch.where(denser, distance, distance.max()).amin(1)
    centre = (density * peak).argsort(descending=True, stable=True)[:count]
    cluster = distance[:, centre].argmin(1)
    cluster[centre] = torch.arange(count)  # a centre that coincides with an earlier one stays its own
    return centre, cluster
