"""LLaVA-PruMerge (arXiv:2403.15388): outliers of the class attention stay, and each takes up its nearest keys.

With p_j the class token's attention to patch j, those above Q3 + 1.5 (Q3 - Q1) stay, and survivor i
becomes x_i + sum of p_j x_j over the patches whose keys are nearest to its own. PruMerge+ samples others as
well.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.methods.class_attention import UsesClassScore
from thinsight.methods.controls import spread
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import Blend, copied, copies, count_outliers
from thinsight.reduction.ties import cosines, descending, distances, largest, top
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class KeyNeighbours(UsesClassScore):
    """Each survivor takes up the patches with the most similar keys, and all leavers together make one new token.

    With p the class token's attention, all heads as one: a survivor becomes x_i + sum of p_j x_j over the ``count``
    patches whose keys are most like its own (cosine), whether they stay or leave; the new token becomes the sum of
    p_j x_j over those that leave, and stands where the most attended of them stood. No weight is scaled.

    Goes with `Blended`, and with `AttentionOutliers`, which notes those that stay. A patch noted twice is handed on
    twice, and is a neighbour twice, of itself too: its copy takes the first free place, and as many leavers, the first
    ones in raster order, are neither neighbours nor in the extra token (released code, whose complement does not expect
    duplicates).

    cls   token | received, and ``source``: see `ClassScore`
    """

    count: int = 32
    cls: str = "token"
    source: str = "next"
    single = True

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise UserError(f"neighbours={self.count} is no number of tokens")

    def adds(self, leave: int, keep: int) -> int:
        """The extra token, if any leaves; also where none stays, so that at least one is left."""
        return int(leave > 0)

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Blend:
        weights = self.class_score.weights(evidence, tokens.index)
        parts, staying = copied(tokens, leaving)
        leaving, twice = leaving.sort(dim=-1).values, evidence.notes.repeated
        several = 0 if twice is None else len(twice)
        if several >= leaving.shape[-1]:
            raise UserError("there are more duplicates than free places for them: take a lower ratio")
        survivors, gone = staying, leaving[..., several:]
        if several:
            ranked = torch.searchsorted(tokens.index, evidence.notes.ranked)
            survivors = torch.cat([staying, ranked[twice]])
            parts = torch.cat([parts, copies(ranked[twice], len(tokens))], -1)
        near = similar_keys(self.class_score.keys(evidence, tokens.index), survivors, gone, self.count)
        parts = parts + near.transpose(-2, -1) * weights[..., None]
        lost = weights.gather(-1, gone)
        extra = torch.zeros_like(weights).scatter_(-1, gone, lost)[..., None]
        best = gone.gather(-1, largest(lost)[..., None])
        parts = torch.cat([parts, extra], -1)
        if not several:
            return Blend(parts, torch.cat([staying, best], -1))
        free = leaving[leaving != best][:several]
        noted = evidence.notes.ranked.clone()
        noted[twice] = tokens.index[free]
        evidence.notes.ranked = noted
        return Blend(parts, torch.cat([staying, free, best]), torch.cat([survivors, best]))


def similar_keys(keys: Tensor, survivors: Tensor, gone: Tensor, count: int) -> Tensor:
    """keys (n, width), rows (s,) and (g,) -> (s, n): how often each row is among the ``count`` survivors and
    leavers whose keys are most similar to each survivor's."""
    pool = torch.cat([survivors, gone], -1)
    apart = distances(cosines(take_at(keys, survivors), take_at(keys, pool)))
    itself = torch.eye(*apart.shape[-2:], dtype=torch.bool, device=apart.device)
    near = top(-apart.masked_fill_(itself, torch.inf), min(count, pool.shape[-1] - 1), scale=1.0)
    none = torch.zeros(*survivors.shape, keys.shape[-2], dtype=torch.float32, device=keys.device)
    return none.scatter_add_(-1, pool[..., None, :].expand(near.shape), near.float())


def _repeated(rows: Tensor) -> Tensor:
    """Where in ``rows`` a row stands that has stood before."""
    seen, repeated = set(), []
    for at, row in enumerate(rows.tolist()):
        if row in seen:
            repeated.append(at)
        seen.add(row)
    return torch.tensor(repeated, dtype=torch.int64)


SAMPLES = ("none", "thirds", "training")


@dataclass(frozen=True)
class AttentionOutliers(UsesClassScore):
    """The floor(rho * n) patches with the highest class-token attention stay, at least one; all heads count as one.

    rho is the share of patches whose score is above Q3 + ``fence`` (Q3 - Q1), with the quartiles of the picture's
    scores. With ``sample`` others stay as well, taken evenly from the raster:

        none      no others: PruMerge
        thirds    every step-th patch but the last, step = floor(floor(1/rho) / 3): PruMerge+
        training  every step-th patch, step = floor(1/rho), from step/2 on, patches that stay anyway counted twice: what
                  the released code trains with

    Where a schedule says how many stay, these are the highest scores; with a sample they are a quarter (the extra token
    of PruMerge counted), and the rest an even sample of the other patches.

    Those that stay are noted for `ScoreOrder`: outliers by descending score, then the sample.

    ratio    rho itself, instead of the share of outliers
    cls, of  see `ClassScore`
    """

    sample: str = "none"
    fence: float = 1.5
    ratio: float | None = None
    cls: str = "token"
    source: str = "next"
    single = True
    among = "visual"
    adaptive = True

    def __post_init__(self) -> None:
        if self.sample not in SAMPLES:
            raise nearest("sample", self.sample, SAMPLES)
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise UserError(f"ratio={self.ratio} is no fraction above 0 and up to 1")

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        scores = self.class_score(evidence, tokens.index)
        picked = self.picked(scores) if leave is None else self.fixed(scores, len(tokens) - leave)
        evidence.notes.ranked = take_at(tokens.index, picked)
        if leave is None and self.sample == "training":
            evidence.notes.repeated = _repeated(picked)
            picked = picked.unique()
        return tokens.rest(picked)

    def picked(self, scores: Tensor) -> Tensor:
        """Rows that stay as the picture wants it, a row twice where it is sampled twice."""
        n, order = len(scores), descending(scores)
        ratio = count_outliers(scores, self.fence) / n if self.ratio is None else self.ratio
        top = order[: max(int(n * ratio + 1e-9), 1)]
        if self.sample == "none":
            return top
        step = int(1 / max(ratio, 1 / n))
        if self.sample == "training":
            return torch.cat([top, torch.arange(step // 2, n, step, device=top.device)])
        others = torch.arange(0, max(n - 1, 1), max(step // 3, 1), device=top.device)
        return torch.cat([top, others[~torch.isin(others, top)]])

    def fixed(self, scores: Tensor, keep: int) -> Tensor:
        """``keep`` rows that stay."""
        order = descending(scores)
        first = keep if self.sample == "none" else (keep + 1) // 4
        others = order[..., first:].sort(dim=-1).values
        even = torch.tensor(spread(others.shape[-1], keep - first), dtype=torch.int64, device=order.device)
        return torch.cat([order[..., :first], others[..., even]], -1)
