"""Sparsity Meets Similarity (arXiv:2409.01162), reconstructed: two cuts, by a long-tailed score and by correlation.

In front of the projector the head of the sorted cosines of patches and class token stays, up to the inflection point
of the curve (`LongTailHead`, `FirstCut`). In the decoder those visual tokens leave, and text tokens if asked for, whose
mean cosine with the other modality is lowest (`CrossModalCorrelation`, `SecondCut`). No code was published.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError
from thinsight.methods.class_attention import ClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import check_keep, count
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import lowest
from thinsight.reduction.ties import above, double, largest
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class FirstCut:
    """The first of two cuts: the filter decides (keep=None), or ``keep / ratio`` stay, so that the second one keeps
    ``ratio`` of them."""

    keep: int | float | None
    ratio: float
    inclusive = True

    def __post_init__(self) -> None:
        _check_cut(self.keep, self.ratio)

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int | None:
        if self.keep is None:
            return None
        return min(math.ceil(count(self.keep, total) / self.ratio), present)


@dataclass(frozen=True)
class SecondCut:
    """The second of two cuts: ``ratio`` of those present stay, rounded up (keep=None), or ``keep`` of all."""

    keep: int | float | None
    ratio: float
    inclusive = True
    each_picture = True

    def __post_init__(self) -> None:
        _check_cut(self.keep, self.ratio)

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        return math.ceil(self.ratio * present) if self.keep is None else min(count(self.keep, total), present)


def _check_cut(keep: int | float | None, ratio: float) -> None:
    if keep is not None:
        check_keep(keep)
    if not 0 < ratio <= 1:
        raise UserError(f"ratio={ratio} is no fraction above 0 and up to 1")


@dataclass(frozen=True)
class LongTailHead:
    """The patches least similar to the class token leave; where nobody says how many, all behind the inflection point.

    cls  token: the cosine of a patch's features and the class token's; for towers without one the substitutes of
         `ClassScore`, received or key_mean
    """

    cls: str = "token"
    among = "visual"
    adaptive = True

    def __post_init__(self) -> None:
        ClassScore(self.cls)

    @property
    def needs(self) -> frozenset[str]:
        """A class token, or the attention of the layer that the projector reads."""
        return frozenset({"cls" if self.cls == "token" else "attention"})

    def decides(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """How many leave of each picture: all behind the inflection point."""
        return len(tokens) - head_length(self.scores(tokens.index, evidence))

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        scores = self.scores(tokens.index, evidence)
        leave = len(tokens) - int(head_length(scores)) if leave is None else leave
        return lowest(scores, leave, scale=1.0 if self.cls == "token" else None)

    def scores(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(n,) fp32: similarity of the patches ``index`` to the class token."""
        if self.cls != "token":
            return ClassScore(self.cls)(evidence, index)
        patches, token = evidence.states(index).float(), evidence.states(evidence.cls).float()
        return (normalize(patches, dim=-1) @ normalize(token, dim=-1).transpose(-2, -1))[..., 0]


def head_length(scores: Tensor) -> Tensor:
    """(...,) int64: how many scores (..., n) stand before the inflection point of their descending curve, at least one.

    The point is the one farthest below the straight line from the largest to the smallest score: where the steep head
    turns into the flat tail. A curve that nowhere runs below that line has no tail, and all of it is head.
    """
    curve = double(scores).sort(descending=True).values
    count = curve.shape[-1]
    place = torch.linspace(0, 1, count, dtype=curve.dtype, device=curve.device)
    line = torch.lerp(curve[..., :1], curve[..., -1:], place)
    below, scale = line - curve, curve.abs().amax(-1, keepdim=True)
    return torch.where(above(below, 0.0, scale).any(-1), largest(below, scale).clamp(min=1), count)


@dataclass(frozen=True)
class CrossModalCorrelation:
    """The visual tokens with the lowest mean correlation to the text leave, and text tokens with the lowest to them.

    With C_it the cosine of the states of visual token i and text token t behind the picture: visual tokens are ranked
    by the mean of C over t, text tokens by its mean over i.

    text  the fraction that stays of the text tokens between picture and last token, rounded up; 1: none leaves. The
          last token always stays, and so does what stands before the picture
    """

    text: float = 1.0
    needs = frozenset({"text"})

    def __post_init__(self) -> None:
        if not 0 <= self.text <= 1:
            raise UserError(f"text={self.text} is no fraction between 0 and 1")

    @property
    def among(self) -> str:
        """Text is looked at only if some of it has to leave."""
        return "visual" if self.text == 1 else "prompt"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        image = tokens.rows(visual=True)
        question = evidence.question if evidence.question.shape[-1] else evidence.last
        cosines = correlation(take_at(tokens.index, image), question, evidence)
        leaving = take_at(image, lowest(cosines.mean(-1), leave, scale=1.0))
        if self.text == 1:
            return leaving
        text = torch.searchsorted(tokens.index, question[question != evidence.last])
        if len(text) == 0:
            return leaving
        least = lowest(cosines.mean(0)[: len(text)], len(text) - math.ceil(self.text * len(text)), 1.0)
        return torch.cat([leaving, text[least]])


def correlation(visual: Tensor, text: Tensor, evidence: Evidence) -> Tensor:
    """(visual, text) fp32: cosines of the states of the tokens with these indices."""
    of_image, of_text = (normalize(evidence.states(index).float(), dim=-1) for index in (visual, text))
    return of_image @ of_text.transpose(-2, -1)
