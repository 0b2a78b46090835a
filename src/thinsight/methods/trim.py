"""TRIM (arXiv:2409.10994): patches whose CLIP similarity to the question stands out stay; the others' mean is appended.

With s = softmax over patches of <patch, question>, those above Q3 + 1.5 (Q3 - Q1) stay, and one token, the mean of all
others, joins them at the end.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from thinsight.errors import nearest
from thinsight.methods.prompt_relevance import Relevance, grid_if_wordless
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import Merged, take_at
from thinsight.reduction.stages import Appended, Compress, Correlate, Discard, Order, Raster, outliers
from thinsight.reduction.ties import descending, double
from thinsight.reduction.tokens import Tokens

BEFORE, AFTER = "features", "mean"


class MeanToken(NamedTuple):
    """A new token that all leavers go into: its ``state`` (1, width)."""

    state: Tensor


@dataclass(frozen=True)
class MeanOfLeavers:
    """The plain mean of all leavers becomes one token.

    source  features: of their features before the projector, which then goes through the projector (TRIM does its whole
            reduction there; since a projector works token by token, the stayers come out the same); mean: of their
            states behind it
    """

    source: str = AFTER

    def __post_init__(self) -> None:
        if self.source not in (BEFORE, AFTER):
            raise nearest("mean of", str(self.source), [BEFORE, AFTER])

    @property
    def needs(self) -> frozenset[str]:
        """Features and projector, where the mean is taken in front of it."""
        return frozenset({"features", "projector"} if self.source == BEFORE else ())

    def adds(self, leave: int, keep: int) -> int:
        """One new token, if any leaves."""
        return int(leave > 0)

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> MeanToken:
        gone = tokens.take(leaving)
        if self.source == BEFORE:
            features = take_at(evidence.get("features"), evidence.place(gone.index))
            mean = features.float().mean(-2, keepdim=True).to(features.dtype)
            state = evidence.get("projector")(mean)
        else:
            state = gone.states.float().mean(-2, keepdim=True)
        return MeanToken(state.to(tokens.states.dtype))


@dataclass(frozen=True)
class AppendMean:
    """The stayers as they are, then the token made of the leavers, named after the first of them."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: MeanToken) -> Tokens:
        gone = tokens.take(leaving, leaving.shape[-1])
        first = gone.take(gone.index.argmin(-1, keepdim=True))
        made = Merged(tokens.made, leaving, torch.ones_like(gone.size)[..., None])
        mean = replace(first, states=weights.state, size=gone.size.sum(-1, keepdim=True), made=made)
        return tokens.stayers(leaving).concat(mean)


def mean_correlate(merge: str) -> Correlate | None:
    """The correlate stage of a field ``merge``: nothing for "none", else `MeanOfLeavers`."""
    return None if merge == "none" else MeanOfLeavers(merge)


def mean_compress(merge: str) -> Compress:
    """The compress stage that goes with it."""
    return Discard() if merge == "none" else AppendMean()


def mean_order(merge: str) -> Order:
    """The order that goes with it: the new token comes last."""
    return Raster() if merge == "none" else Appended()


@dataclass(frozen=True)
class SimilarityOutliers:
    """Patches stay whose similarity to the text stands out: a softmax over patches of their products with it.

    As many stay as the schedule says, or, where it leaves that open, those above Q3 + ``reach`` (Q3 - Q1). ``down``:
    their number goes through a ratio and is rounded down again, as in the released code; now and then one is lost.
    Where the question has no word an even grid stays (`thinsight.methods.controls.Grid`), or, without a schedule, all.
    """

    relevance: Relevance = field(default_factory=lambda: Relevance(space="clip", aggregate="mean", unit=False))
    reach: float = 1.5
    down: bool = False
    among = "visual"
    adaptive = True

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs."""
        return self.relevance.needs

    def decides(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """How many leave of each sample: all that do not stand out; none where the question has no word."""
        embedded, count = self.relevance.embed(tokens, evidence), len(tokens)
        keep = outliers(self.relevance.scores(embedded).softmax(-1), self.reach)
        if self.down:
            keep = (count * (double(keep) / count)).long()
        wordless = torch.tensor(embedded.wordless, device=keep.device)
        return (count - keep).masked_fill(wordless, 0)

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        leave = int(self.decides(tokens, evidence)) if leave is None else leave
        embedded = self.relevance.embed(tokens, evidence)
        score, keep = self.relevance.scores(embedded).softmax(-1), len(tokens) - leave
        return grid_if_wordless(descending(score)[..., keep:], embedded, tokens, evidence)
