"""CDPruner (arXiv:2506.10967): tokens stay that are relevant to the question and unlike each other.

Greedy MAP inference of a determinantal point process with the kernel L_ij = r_i cos(v_i, v_j) r_j, r the relevance of
each visual token to the question.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.methods.prompt_relevance import Relevance
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.ties import above, cosines, descending, double, first_largest
from thinsight.reduction.tokens import Tokens

SPENT = 1e-6
"""A token is spent when less than this share of its kernel's diagonal is left: it is a mix of the chosen ones, and what
is left of it is rounding of the states."""


@dataclass(frozen=True)
class ConditionalDpp:
    """The tokens stay whose kernel r_i cos(v_i, v_j) r_j has the largest determinant, chosen greedily.

    relevance  its mean over the chunks of the question, scaled to 0..1 and never quite 0 (`scale_relevance`)
    theta      r becomes exp(alpha r), alpha = theta / (2 (1 - theta)); None: r itself, as the released code runs
    bounds     least and largest relevance to scale by; None: the sample's own (the released code: the whole batch's)

    Where all are equally relevant, as for a question without a word, r is 1 and the tokens' diversity alone decides.
    """

    relevance: Relevance = field(default_factory=lambda: Relevance(space="clip", aggregate="mean"))
    theta: float | None = None
    bounds: tuple[float, float] | None = None
    among = "visual"

    def __post_init__(self) -> None:
        if self.theta is not None and not 0 <= self.theta < 1:
            raise UserError(f"theta={self.theta} is no number from 0 to below 1")

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs."""
        return self.relevance.needs

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        weight = scale_relevance(double(self.relevance(tokens, evidence)), self.bounds)
        if self.theta is not None:
            weight = (weight * self.theta / (2 * (1 - self.theta))).exp()
        kernel = weight[..., :, None] * cosines(tokens.states) * weight[..., None, :]
        return tokens.rest(greedy_map(kernel, len(tokens) - leave))


def scale_relevance(relevance: Tensor, bounds: tuple[float, float] | None = None) -> Tensor:
    """(..., N) -> (r - least + 1e-6) / (largest - least): the least is not quite 0, the largest a little above 1."""
    low, high = (relevance.amin(-1, True), relevance.amax(-1, True)) if bounds is None else bounds
    differ = above(relevance, low).any(-1, keepdim=True)
    return torch.where(differ, (relevance - low + 1e-6) / (high - low), 1.0)


def greedy_map(kernel: Tensor, keep: int) -> Tensor:
    """(..., keep) rows of ``kernel`` (..., N, N), in the order in which each adds most to the determinant of those
    chosen.

    Cholesky's factor grows by a row for each choice (Chen et al., arXiv:1709.05135): with d_i^2 = K_ii at first,
    e_i = (K_ji - sum_u c_uj c_ui) / d_j and d_i^2 -= e_i^2. When every token is spent, the rest is filled up by K_ii.
    All in float64, since every step subtracts. What is compared is d_i, a distance, and of equal ones the first counts.
    """
    lead, count = kernel.shape[:-2], kernel.shape[-1]
    numbers = double(kernel).reshape(-1, count, count)
    diagonal, rows = numbers.diagonal(dim1=-2, dim2=-1), numbers.reshape(-1, count)
    before = count * torch.arange(len(numbers), device=rows.device)[:, None]
    left, floor, scale = diagonal.clone(), SPENT * diagonal, diagonal.amax(-1, keepdim=True).clamp(min=0).sqrt()
    # the place of each token in the end: its step, or behind all of them its rank; one column for steps without a gain
    place = torch.nn.functional.pad(keep + descending(kernel.diagonal(dim1=-2, dim2=-1)).argsort(dim=-1), (0, 1))
    place = place.reshape(len(numbers), count + 1)
    factor = numbers.new_zeros(len(numbers), keep, count)
    for step in range(keep):
        usable = torch.where(left > floor, left, 0.0).sqrt_()
        best = first_largest(usable, scale)
        gain = usable.gather(-1, best)
        row = rows.index_select(0, (before + best).flatten())
        if step:
            own = factor[:, :step].gather(-1, best[:, None].expand(-1, step, 1))
            row = row - (own.transpose(-2, -1) @ factor[:, :step]).squeeze(-2)
        factor[:, step] = row = row / gain  # no number where nothing is left, nor is it asked for from then on
        left = torch.addcmul(left, row, row, value=-1.0).scatter_(-1, best, -torch.inf)
        place.scatter_(-1, torch.where(gain > 0, best, count), step)
    return place[:, :count].argsort(dim=-1)[:, :keep].reshape(*lead, keep)
