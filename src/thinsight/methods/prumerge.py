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
from thinsight.reduction.stages import Blend, copied, count_outliers
from thinsight.reduction.ties import cosines, descending, distances, largest
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
        ranked = torch.searchsorted(tokens.index, evidence.notes.ranked)
        twice = _repeated(ranked)
        leaving = leaving.sort().values
        if len(twice) >= len(leaving):
            raise UserError("there are more duplicates than free places for them: take a lower ratio")
        survivors = torch.cat([staying, ranked[twice]])
        gone = leaving[len(twice) :]
        near = similar_keys(self.class_score.keys(evidence, tokens.index), survivors, gone, self.count)
        copies = torch.eye(len(tokens), dtype=torch.float32)[:, ranked[twice]]
        parts = torch.cat([parts, copies], 1) + near.T * weights[:, None]
        extra = torch.zeros(len(tokens), 1, dtype=torch.float32)
        extra[gone, 0] = weights[gone]
        best = gone[largest(weights[gone])][None]
        free = leaving[leaving != best][: len(twice)]
        place = torch.cat([staying, free, best])
        noted = evidence.notes.ranked.clone()
        noted[twice] = tokens.index[free]
        evidence.notes.ranked = noted
        return Blend(torch.cat([parts, extra], 1), place, torch.cat([survivors, best]))


def similar_keys(keys: Tensor, survivors: Tensor, gone: Tensor, count: int) -> Tensor:
    """keys (n, width), rows (s,) and (g,) -> (s, n) on the CPU: how often each row is among the ``count`` survivors and
    leavers whose keys are most similar to each survivor's."""
    keys, pool = keys.cpu(), torch.cat([survivors, gone])
    apart = distances(cosines(keys[survivors], keys[pool])).fill_diagonal_(torch.inf)
    near = pool[descending(-apart, scale=1.0)[:, : min(count, len(pool) - 1)]]
    none = torch.zeros(len(survivors), len(keys), dtype=torch.float32)
    return none.scatter_add_(1, near, torch.ones(near.shape, dtype=torch.float32))


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
        picked = self.picked(scores) if leave is None else self.fixed(scores, len(scores) - leave)
        evidence.notes.ranked = tokens.index[picked]
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
            return torch.cat([top, torch.arange(step // 2, n, step)])
        others = torch.arange(0, max(n - 1, 1), max(step // 3, 1))
        return torch.cat([top, others[~torch.isin(others, top)]])

    def fixed(self, scores: Tensor, keep: int) -> Tensor:
        """``keep`` rows that stay."""
        order = descending(scores)
        top = order[: keep if self.sample == "none" else (keep + 1) // 4]
        others = order[len(top) :].sort().values
        return torch.cat([top, others[spread(len(others), keep - len(top))]])
