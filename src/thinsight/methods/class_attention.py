"""Scores of patches by the class token's attention, or by substitutes where a tower has no class token.

Shared by FasterVLM (arXiv:2412.01818 v1, `ClassAttention` alone), VisPruner, VisionZip, EViT, PruMerge, MustDrop and
others, each in its own module.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.reduction.attention import LayerAttention
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import descending
from thinsight.reduction.tokens import Tokens

CLASS_SCORES = ("token", "received", "key_mean")


@dataclass(frozen=True)
class ClassScore:
    """How much each patch matters to the picture as a whole: a score, larger for more.

    cls     token: attention that the class token pays to it; received: the mean attention that all patches pay to it;
            key_mean: minus the cosine of its key and the mean key (FiCoCo, arXiv:2411.17686, equations 9-13)
    source  attention: in the last layer that ran (inside a layer: in this one); next: in the layer to come
    single  all heads as one of the full width, scaled by its root, instead of the mean over heads (PruMerge)
    """

    cls: str = "token"
    source: str = "attention"
    single: bool = False

    def __post_init__(self) -> None:
        if self.cls not in CLASS_SCORES:
            raise nearest("substitute for the class token", self.cls, CLASS_SCORES)
        if self.source not in ("attention", "next"):
            raise nearest("layer of attention", self.source, ("attention", "next"))

    @property
    def needs(self) -> frozenset[str]:
        """The layer it looks at, and the class token, unless a substitute is named."""
        return frozenset({self.source, "cls"} if self.cls == "token" else {self.source})

    def __call__(self, evidence: Evidence, index: Tensor) -> Tensor:
        """(n,) fp32 of the patches ``index``."""
        if self.source == "next" and evidence.layer >= evidence.depth:
            raise UserError(
                "the projector reads the last block of this vision tower, so that there is none behind it to look at: "
                "take the last one, attention, instead of next"
            )
        if self.cls == "key_mean":
            keys = self.keys(evidence, index)
            mean = self.keys(evidence, _patches(evidence)).mean(-2, keepdim=True)
            return -torch.cosine_similarity(mean, keys, dim=-1)
        rows = evidence.cls if self.cls == "token" else _patches(evidence)
        if self.single:
            return as_one_head(evidence.layer_attention(self.source)).mean_attention(rows, index).mean(-2)
        return evidence.attention(rows, index, source=self.source).mean(-2)

    def weights(self, evidence: Evidence, index: Tensor) -> Tensor:
        """The same where it has to be attention, to weigh states with."""
        if self.cls == "key_mean":
            raise UserError("cls=key_mean ranks patches but is no attention to weigh them with: take cls=received")
        return self(evidence, index)

    def keys(self, evidence: Evidence, index: Tensor) -> Tensor:
        """(n, width) fp32: keys of the patches ``index``, the mean over heads or all heads in a row."""
        keys = evidence.keys(index, source=self.source).float()
        return keys.transpose(-3, -2).flatten(-2) if self.single else keys.mean(-3)


class UsesClassScore:
    """Base of stages that use `ClassScore`: they have a field ``cls``, and may set ``source`` and ``single``."""

    cls: str
    source = "attention"
    single = False
    attention_rows = "one"

    @property
    def class_score(self) -> ClassScore:
        """The score."""
        return ClassScore(self.cls, self.source, self.single)

    @property
    def needs(self) -> frozenset[str]:
        """What the score needs."""
        return self.class_score.needs


@dataclass(frozen=True)
class ClassAttention(UsesClassScore):
    """The patches with the lowest `ClassScore` leave (FasterVLM, arXiv:2412.01818; VisionZip's dominant tokens; EViT's
    attentive ones). Those that stay are noted for `thinsight.reduction.stages.ScoreOrder`, highest score first.

    cls    see `ClassScore`
    among  "visual", or "all" if a later stage needs the class token as well
    """

    cls: str = "token"
    among: str = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        patches = tokens.rows(visual=True)
        order = descending(self.class_score(evidence, take_at(tokens.index, patches)))
        order, keep = take_at(patches, order), tokens.patches - leave
        evidence.notes.ranked = take_at(tokens.index, order[..., :keep])
        return order[..., keep:]


def as_one_head(layer: LayerAttention) -> LayerAttention:
    """All heads as one of the full width."""
    width = layer.keys.shape[-3] * layer.keys.shape[-1]

    def queries(at: Tensor) -> Tensor:
        return _one_head(layer.queries(at))

    return replace(layer, queries=queries, keys=_one_head(layer.keys), scaling=width**-0.5, _mean=[])


def _one_head(states: Tensor) -> Tensor:
    return states.transpose(-3, -2).flatten(-2)[..., None, :, :]


def _patches(evidence: Evidence) -> Tensor:
    """(n,) index of all patches that are left."""
    return evidence.sequence.shown(visual=True).index
