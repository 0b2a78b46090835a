"""PruMerge's filter (arXiv:2403.15388): patches whose attention stands out stay, and in PruMerge+ an even sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.evidence import Evidence
from thinsight.stages.cls import Interested
from thinsight.stages.filter import spread
from thinsight.tokens import Tokens

SAMPLES = ("none", "thirds", "training")


@dataclass(frozen=True)
class Outliers(Interested):
    """The floor(rho * n) patches stay that interest the class token most, at least one; all heads count as one.

    rho is the share of patches whose score is above Q3 + ``fence`` (Q3 - Q1), with the quartiles of the picture's
    scores. With ``sample`` others stay as well, taken evenly from the raster:

        none      no others: PruMerge
        thirds    every step-th patch but the last, step = floor(floor(1/rho) / 3): PruMerge+
        training  every step-th patch, step = floor(1/rho), from step/2 on, patches that stay anyway counted twice: what
                  the released code trains with

    Where a schedule says how many stay, these are the highest scores; with a sample they are a quarter (the extra token
    of PruMerge counted), and the rest an even sample of the other patches.

    Who stays is noted for `thinsight.stages.handed.Ranked`: outliers by descending score, then the sample.

    ratio    rho itself, instead of the share of outliers
    cls, of  see `Interest`
    """

    sample: str = "none"
    fence: float = 1.5
    ratio: float | None = None
    cls: str = "token"
    of: str = "next"
    single = True
    among = "visual"

    def __post_init__(self) -> None:
        if self.sample not in SAMPLES:
            raise nearest("sample", self.sample, SAMPLES)
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise UserError(f"ratio={self.ratio} is no fraction above 0 and up to 1")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        scores = self.interest(evidence, tokens.index)
        picked = self.picked(scores) if leave is None else self.fixed(scores, len(scores) - leave)
        evidence.notes["ranked"] = tokens.index[picked]
        return tokens.rest(picked)

    def picked(self, scores: Tensor) -> Tensor:
        """Rows that stay as the picture wants it, a row twice where it is sampled twice."""
        n, order = len(scores), scores.argsort(descending=True, stable=True)
        ratio = share_above(scores, self.fence) if self.ratio is None else self.ratio
        top = order[: max(int(n * ratio + 1e-9), 1)]
        if self.sample == "none":
            return top
        step = int(1 / max(ratio, 1 / n))
        if self.sample == "training":
            return torch.cat([top, torch.arange(step // 2, n, step)])
        others = torch.arange(0, max(n - 1, 1), max(step // 3, 1))
        return torch.cat([top, others[~torch.isin(others, top)]])

    def fixed(self, scores: Tensor, keep: int) -> Tensor:
        """``keep`` rows that stay."""
        order = scores.argsort(descending=True, stable=True)
        top = order[: keep if self.sample == "none" else (keep + 1) // 4]
        others = order[len(top) :].sort().values
        return torch.cat([top, others[spread(len(others), keep - len(top))]])


def share_above(scores: Tensor, fence: float) -> float:
    """Share of the scores above Q3 + fence (Q3 - Q1), quartiles interpolated linearly."""
    low, high = scores.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
    return int((scores > high + fence * (high - low)).sum()) / len(scores)
