"""DivPrune (arXiv:2503.02175): the visual tokens stay whose smallest distance to each other is large.

Greedy solution of the max-min diversity problem over the cosine distances D_ij = 1 - cos(v_i, v_j); no prompt needed.
"""

from dataclasses import dataclass

import numpy as np
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
    """(keep,) rows of ``distance`` (N, N) in the order in which they are chosen."""
    if keep == 0:
        return torch.empty(0, dtype=torch.int64)
    if len(distance) == 1:
        return torch.zeros(1, dtype=torch.int64)
    apart = np.sqrt(2 * double(distance).cpu().numpy().clip(min=0))  # of unit vectors, which rounding moves evenly
    # the smallest entry of a column is the token's distance to itself, about 0: the second one is its neighbour's
    order = [first_largest(np.partition(apart, 1, axis=0)[1], scale=1.0)]
    nearest = apart[order[0]].copy()
    for _ in range(keep - 1):
        nearest[order[-1]] = -np.inf
        order.append(first_largest(nearest, scale=1.0))
        np.minimum(nearest, apart[order[-1]], out=nearest)
    return torch.tensor(order, dtype=torch.int64)
