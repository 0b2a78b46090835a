"""CDPruner (arXiv:2506.10967): tokens stay that are relevant to the question and unlike each other.

Greedy MAP inference of a determinantal point process with the kernel L_ij = r_i cos(v_i, v_j) r_j, r the relevance of
each visual token to the question.
"""

from dataclasses import dataclass, field

import numpy as np
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
        kernel = weight[:, None] * cosines(tokens.states).to(weight.device) * weight
        return tokens.rest(greedy_map(kernel, len(tokens) - leave))


def scale_relevance(relevance: Tensor, bounds: tuple[float, float] | None = None) -> Tensor:
    """(..., N) -> (r - least + 1e-6) / (largest - least): the least is not quite 0, the largest a little above 1."""
    low, high = bounds if bounds is not None else (relevance.amin(), relevance.amax())
    if not bool(above(relevance, low).any()):
        return torch.ones_like(relevance)
    return (relevance - low + 1e-6) / (high - low)


def greedy_map(kernel: Tensor, keep: int) -> Tensor:
    """(keep,) rows of ``kernel`` (N, N), in the order in which each adds most to the determinant of those chosen.

    Cholesky's factor grows by a row for each choice (Chen et al., arXiv:1709.05135): with d_i^2 = K_ii at first,
    e_i = (K_ji - sum_u c_uj c_ui) / d_j and d_i^2 -= e_i^2. When every token is spent, the rest is filled up by K_ii.
    All in float64, since every step subtracts. What is compared is d_i, a distance, and of equal ones the first counts.
    """
    numbers = double(kernel).cpu().numpy()
    diagonal = numbers.diagonal()
    left, floor, largest = diagonal.copy(), SPENT * diagonal, float(np.sqrt(diagonal.max(initial=0)))
    factor = np.zeros((keep, len(numbers)))
    order: list[int] = []
    for step in range(keep):
        usable = np.where(left > floor, left, 0.0)
        best = first_largest(np.sqrt(usable), largest)
        if usable[best] == 0:
            break
        order.append(best)
        row = (numbers[best] - factor[:step, best] @ factor[:step]) / np.sqrt(left[best])
        factor[step] = row
        left -= row**2
        left[best] = -np.inf
    if len(order) < keep:
        chosen = set(order)
        ranked = descending(kernel.diagonal()).tolist()
        order += [row for row in ranked if row not in chosen][: keep - len(order)]
    return torch.tensor(order, dtype=torch.int64)
