"""DivPrune (arXiv:2503.02175): the visual tokens stay whose smallest distance to each other is large.

Greedy solution of the max-min diversity problem over the cosine distances D_ij = 1 - cos(v_i, v_j); no prompt needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class MaxMin:
    """Greedy p-dispersion over the cosine distances D_ij = 1 - cos(v_i, v_j).

    First the token whose nearest neighbour is farthest, argmax_i min_{j != i} D_ij; then again and again
    argmax_i min_{j chosen} D_ij. Ties go to the lower row.
    """

    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        units = normalize(tokens.states.float(), dim=-1)
        return tokens.rest(dispersed(1 - units @ units.T, len(tokens) - leave).cpu())


def dispersed(distance: Tensor, keep: int) -> Tensor:
    """(keep,) rows of ``distance`` (N, N) in the order in which they are chosen."""
    if keep == 0:
        return torch.empty(0, dtype=torch.int64)
    if len(distance) == 1:
        return torch.zeros(1, dtype=torch.int64)
    # the smallest entry of a column is the token's distance to itself, about 0: the second one is its neighbour's
    nearest = distance.topk(2, dim=0, largest=False).values[1]
    order = [nearest.argmax()]
    nearest = distance[order[0]].clone()
    for _ in range(keep - 1):
        nearest[order[-1]] = -torch.inf
        order.append(nearest.argmax())
        nearest = torch.minimum(nearest, distance[order[-1]])
    return torch.stack(order)
