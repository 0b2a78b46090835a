"""A method is a tuple of reductions, each three stages at a site under a schedule. All is frozen: repr is record."""

from dataclasses import dataclass, field, replace
from typing import Any

from thinsight.evidence import Evidence
from thinsight.schedule import Once
from thinsight.site import Decoder, Projected, RandomDecoder, Site
from thinsight.stages.compress import Compress, Discard
from thinsight.stages.correlate import Correlate
from thinsight.stages.filter import Filter
from thinsight.tokens import Tokens

__all__ = ["Decoder", "Method", "Once", "Projected", "RandomDecoder", "Reduction"]


@dataclass(frozen=True)
class Reduction:
    """Which tokens leave (filter), where their information goes (correlate), what the stayers become (compress)."""

    filter: Filter
    correlate: Correlate | None = None
    compress: Compress = field(default_factory=Discard)
    site: Site = field(default_factory=Projected)
    schedule: Once = field(default_factory=Once)

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tokens:
        """The tokens that stay, in raster order; the very same object when none leaves."""
        leave = self.schedule(tokens)
        if leave == 0:
            return tokens
        leaving = self.filter(tokens, evidence, leave)
        weights = None if self.correlate is None else self.correlate(tokens, leaving, evidence)
        return self.compress(tokens, leaving, weights)


@dataclass(frozen=True)
class Method:
    """A named tuple of reductions; ``fields`` are the knobs it was made with, as its paper publishes them."""

    name: str
    reductions: tuple[Reduction, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    def resolve(self, depth: int) -> "Method":
        """The method in a decoder of ``depth`` layers: defaults become numbers, impossible layers a `UserError`."""
        reductions = tuple(replace(r, site=r.site.resolve(depth)) for r in self.reductions)
        return replace(self, reductions=reductions)
