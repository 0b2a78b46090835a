"""`Reduction` and `Method`: what a method is, as values, and one reduction applied to one sample."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Geometric, Keep, Schedule, of_pictures
from thinsight.reduction.sites import BeforeProjector, Projected, Site
from thinsight.reduction.stages import Compress, Correlate, Discard, Filter, Order, Raster
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Reduction:
    """Which tokens leave (filter), where their information goes (correlate), what the stayers become (compress)."""

    filter: Filter
    correlate: Correlate | None = None
    compress: Compress = field(default_factory=Discard)
    site: Site = field(default_factory=Projected)
    schedule: Schedule = field(default_factory=Keep)
    order: Order = field(default_factory=Raster)

    def __post_init__(self) -> None:
        is_open = isinstance(self.schedule, Keep | Geometric) and self.schedule.keep is None
        if is_open and not getattr(self.filter, "adaptive", False):
            name = type(self.filter).__name__
            raise UserError(f"keep is a count or a fraction of the visual tokens: {name} does not decide it by itself")

    @property
    def needs(self) -> frozenset[str]:
        """What its stages need of the model (see `thinsight.reduction.evidence.NEEDS`)."""
        stages = (self.filter, self.correlate, self.compress, self.order)
        return frozenset().union(*(getattr(stage, "needs", ()) for stage in stages))

    @property
    def merges(self) -> bool:
        """Whether anything of a leaver lives on, so that sources have to be followed."""
        return self.correlate is not None

    def tokens_left(self, present: int, stage: int, stages: int, total: int) -> tuple[int, int] | None:
        """How many of ``present`` visual tokens stay at a stage of the site, and how many new ones join them.

        None where that depends on the picture.
        """
        keep = self.schedule(present, stage, stages, total)
        if keep is None:
            return None
        adds = getattr(self.correlate, "adds", None)
        if keep >= present:
            return present, 0
        if adds is not None and self.schedule.inclusive:
            keep = next((k for k in range(keep, -1, -1) if k + adds(present - k, k) <= keep), 0)
        keep = min(getattr(self.filter, "reaches", lambda k, _: k)(keep, present), present)
        return keep, 0 if adds is None or keep == present else adds(present - keep, keep)

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tokens:
        """The tokens that stay, in their order; the very same object when none leaves."""
        present, protected = int(tokens.visual.sum()), int((~tokens.visual).sum())
        pictures = len(evidence.image[evidence.image >= 0].unique())
        whole = replace(self, schedule=of_pictures(self.schedule, pictures))
        counts = whole.tokens_left(present, evidence.stage, evidence.stages, evidence.total)
        leave = None if counts is None else present - counts[0]
        if leave == 0 and self.filter.among != "prompt":  # text may leave all the same
            return tokens
        with torch.no_grad():  # a choice has no gradient
            leaving = self.filter(tokens, evidence, leave)
        if len(leaving) == 0:
            return tokens
        assert leave is None or len(leaving) == leave or protected, (self.filter, len(leaving), leave)
        weights = None if self.correlate is None else self.correlate(tokens, leaving, evidence)
        after = self.compress(tokens, leaving, weights)
        return after.take(self.order(after, evidence)).in_given_order()


@dataclass(frozen=True)
class Method:
    """A named tuple of reductions; ``fields`` are the knobs it was made with, as its paper publishes them."""

    name: str
    reductions: tuple[Reduction, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def before_projector(self) -> tuple[Reduction, ...]:
        """The reductions in the vision tower, or between it and the projector."""
        return tuple(r for r in self.reductions if isinstance(r.site, BeforeProjector))

    @property
    def after_projector(self) -> tuple[Reduction, ...]:
        """The reductions behind the projector, in front of the decoder or in it."""
        return tuple(r for r in self.reductions if not isinstance(r.site, BeforeProjector))

    def one_length(self, depth: int) -> bool:
        """Whether all ``depth`` layers of a decoder hold the same tokens. Sites are numbers already (`resolve`)."""
        later = [layer for r in self.after_projector for layer in r.site.layers if layer > 0 or r.site.inside]
        return all(layer >= depth for layer in later)

    @property
    def needs(self) -> frozenset[str]:
        """What any of its stages needs of the model."""
        return frozenset().union(*(r.needs for r in self.reductions))

    def resolve(self, depth: int) -> "Method":
        """The method in a decoder of ``depth`` layers: defaults become numbers, impossible layers a `UserError`."""
        reductions = tuple(
            r if isinstance(r.site, BeforeProjector) else replace(r, site=r.site.resolve(depth))
            for r in self.reductions
        )
        return replace(self, reductions=reductions)


def apply_reduction(reduction: Reduction, tokens: Tokens, evidence: Evidence, columns: int) -> Tokens:
    """All tokens of a sample over ``columns`` columns, with states -> those that are left, by ascending index."""
    if reduction.merges:
        tokens = tokens.with_sources(columns)
    shown = tokens.visual.clone()
    if reduction.filter.among == "prompt":
        shown |= tokens.index < evidence.last  # which has to answer
    elif reduction.filter.among == "all":
        shown[:] = True
    return reduction(tokens.take(shown), evidence).union(tokens.take(~shown))
