"""DivPrune (arXiv:2503.02175): the visual tokens stay whose smallest distance to each other is large.

Greedy solution of the max-min diversity problem over the cosine distances D_ij = 1 - cos(v_i, v_j); no prompt needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import cosines, double, first_largest
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class MaxMin:
    """Greedy p-dispersion over the cosine distances D_ij = 1 - cos(v_i, v_j).

    First the token whose nearest neighbour is farthest, argmax_i min_{j != i} D_ij; then again and again
    argmax_i min_{j chosen} D_ij. Of equal ones the first counts (`thinsight.reduction.ties`).
    """

    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return tokens.rest(dispersed(1 - cosines(tokens.states), len(tokens) - leave))


def dispersed(distance: Tensor, keep: int) -> Tensor:
    """(..., keep) rows of ``distance`` (..., N, N) in the order in which they are chosen."""
    if keep == 0 or distance.shape[-1] == 1:
        return torch.zeros(*distance.shape[:-2], keep, dtype=torch.int64, device=distance.device)
    apart = (2 * double(distance).clamp(min=0)).sqrt_()  # of unit vectors, which rounding moves evenly
    # the smallest entry of a column is the token's distance to itself, about 0: the second one is its neighbour's
    nearest = apart.kthvalue(2, dim=-2).values
    order = [first_largest(nearest, scale=1.0)[..., None]]
    nearest = _row(apart, order[0]).clone()
    for _ in range(keep - 1):
        nearest.scatter_(-1, order[-1], -torch.inf)
        order.append(first_largest(nearest, scale=1.0)[..., None])
        nearest = torch.minimum(nearest, _row(apart, order[-1]))
    return torch.cat(order, -1)


def _row(matrix: Tensor, row: Tensor) -> Tensor:
    """matrix (..., N, N), row (..., 1) -> (..., N)."""
    return take_at(matrix, row).squeeze(-2)
