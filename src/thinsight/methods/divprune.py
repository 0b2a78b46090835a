"""DivPrune (arXiv:2503.02175): the visual tokens stay whose smallest distance to each other is large.

Greedy solution of the max-min diversity problem over the cosine distances D_ij = 1 - cos(v_i, v_j); no prompt needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.reduction.evidence import Evidence
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
    count = distance.shape[-1]
    if keep == 0 or count == 1:
        return torch.zeros(*distance.shape[:-2], keep, dtype=torch.int64, device=distance.device)
    apart = (2 * double(distance).clamp(min=0)).sqrt_()  # of unit vectors, which rounding moves evenly
    apart.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)  # a token is no neighbour of its own
    nearest, rows = apart.amin(-2).reshape(-1, count), apart.reshape(-1, count)
    before = count * torch.arange(len(nearest), device=rows.device)[:, None]
    order = [first_largest(nearest, 1.0)]
    nearest = rows.index_select(0, (before + order[0]).flatten())
    for _ in range(keep - 1):
        nearest.scatter_(-1, order[-1], -torch.inf)
        order.append(first_largest(nearest, 1.0))
        torch.minimum(nearest, rows.index_select(0, (before + order[-1]).flatten()), out=nearest)
    return torch.cat(order, -1).reshape(*distance.shape[:-2], keep)
