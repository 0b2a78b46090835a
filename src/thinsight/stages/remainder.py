"""What is left of the leavers when they leave together: their mean, as one new token at the end."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from thinsight.errors import nearest
from thinsight.evidence import Evidence
from thinsight.stages.compress import Compress, Discard
from thinsight.stages.correlate import Correlate
from thinsight.stages.order import Appended, Order, Raster
from thinsight.tokens import Tokens

BEFORE, AFTER = "features", "mean"


class Draft(NamedTuple):
    """A new token that all leavers go into: its ``state`` (1, width)."""

    state: Tensor


@dataclass(frozen=True)
class MeanOfLeavers:
    """The plain mean of all leavers becomes one token.

    of  features: of their features before the projector, which then goes through the projector (TRIM does its whole
        reduction there; since a projector works token by token, the stayers come out the same); mean: of their
        states behind it
    """

    of: str = AFTER

    def __post_init__(self) -> None:
        if self.of not in (BEFORE, AFTER):
            raise nearest("mean of", str(self.of), [BEFORE, AFTER])

    @property
    def needs(self) -> frozenset[str]:
        """Features and projector, where the mean is taken in front of it."""
        return frozenset({"features", "projector"} if self.of == BEFORE else ())

    def adds(self, leave: int, keep: int) -> int:
        """One new token, if any leaves."""
        return int(leave > 0)

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Draft:
        gone = tokens.take(leaving)
        if self.of == BEFORE:
            features = evidence.get("features")[evidence.place(gone.index)]
            mean = features.float().mean(0, keepdim=True).to(features.dtype)
            state = evidence.get("projector")(mean)
        else:
            state = gone.states.float().mean(0, keepdim=True)
        return Draft(state.to(tokens.states.dtype))


@dataclass(frozen=True)
class Append:
    """The stayers as they are, then the drafted token; it goes by the name of the first leaver."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Draft) -> Tokens:
        gone = tokens.take(leaving)
        first = gone.take(gone.index.argmin()[None])
        whole = {"size": gone.size.sum()[None], "sources": gone.sources.sum(0, keepdim=True)}
        return tokens.take(tokens.rest(leaving)).followed(replace(first, states=weights.state, **whole))


def mean_of(what: str) -> Correlate | None:
    """The correlate stage of a field ``merge``: nothing for "none", else `MeanOfLeavers`."""
    return None if what == "none" else MeanOfLeavers(what)


def appended(what: str) -> Compress:
    """The compress stage that goes with it."""
    return Discard() if what == "none" else Append()


def placed(what: str) -> Order:
    """The order that goes with it: the new token comes last."""
    return Raster() if what == "none" else Appended()
