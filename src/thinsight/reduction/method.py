"""`Reduction` and `Method`: what a method is, as values, and one reduction applied to one sample."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Geometric, Keep, Schedule, of_pictures
from thinsight.reduction.sites import BeforeProjector, Projected, Site
from thinsight.reduction.stages import Compress, Correlate, Discard, Filter, Order, Raster
from thinsight.reduction.tokens import Tokens, places


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

    @property
    def decides(self) -> bool:
        """Whether the filter says of several samples at once how many leave of each (`Filter.decides`)."""
        return self._adapts and hasattr(self.filter, "decides")

    @property
    def alone(self) -> bool:
        """Whether it takes one sample at a time, because the filter finds out how many leave, because text may, or
        because a stage says so (``alone``)."""
        adapts = self._adapts and not hasattr(self.filter, "decides")
        stages = (self.filter, self.correlate, self.compress, self.order)
        return adapts or self.filter.among == "prompt" or any(getattr(stage, "alone", False) for stage in stages)

    @property
    def _adapts(self) -> bool:
        open_ = getattr(self.filter, "adaptive", False) and getattr(self.schedule, "keep", 0) is None
        return open_ and not getattr(self.filter, "spares", False)

    def leaving(self, tokens: Tokens, evidence: Evidence) -> list[int]:
        """How many leave of each sample, which is read off the device; only where the filter `decides`."""
        with torch.no_grad():
            return self.filter.decides(tokens.shown(visual=True), evidence).tolist()

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None = None) -> Tokens:
        """The tokens that stay, in their order; the very same object when none leaves. ``leave``: how many do, where
        the filter has decided it."""
        present, protected, pictures = tokens.patches, len(tokens) - tokens.patches, evidence.counted.pictures
        if leave is None:
            whole = replace(self, schedule=of_pictures(self.schedule, len(pictures)))
            counts = whole.tokens_left(present, evidence.stage, evidence.stages, sum(pictures))
            leave = None if counts is None else present - counts[0]
        if leave == 0 and self.filter.among != "prompt":  # text may leave all the same
            return tokens
        with torch.no_grad():  # a choice has no gradient
            leaving = for_all(self.filter(tokens, evidence, leave), tokens)
        if leaving.shape[-1] == 0:
            return tokens
        assert leave is None or leaving.shape[-1] == leave or protected, (self.filter, leaving.shape, leave)
        weights = None if self.correlate is None else self.correlate(tokens, leaving, evidence)
        after = self.compress(tokens, leaving, weights)
        if self.filter.among == "prompt":
            after = replace(after, count=None)  # text may be among those that left
        after = after.take(for_all(self.order(after, evidence), after), after.count)
        raster = isinstance(self.order, Raster) or getattr(self.order, "order", "") == "raster"
        return after if raster else after.in_given_order()


def for_all(rows: Tensor, tokens: Tokens) -> Tensor:
    """Rows (n,) that a stage chose for all samples alike, for each of them."""
    return rows.to(tokens.index.device).expand(*tokens.index.shape[:-1], rows.shape[-1])


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


def apply_reduction(
    reduction: Reduction, tokens: Tokens, evidence: Evidence, columns: int, leave: int | None = None
) -> Tokens:
    """All tokens of samples over ``columns`` columns, with states -> those that are left, by ascending index; the very
    same where none leaves. ``leave``: as for `Reduction`."""
    every = tokens.with_sources(columns) if reduction.merges else tokens
    if reduction.filter.among == "all" or (reduction.filter.among == "visual" and tokens.patches == len(tokens)):
        after = reduction(every, evidence, leave)
        return tokens if after is every else after
    if reduction.filter.among == "visual":
        shown = every.shown(visual=True)
        after = reduction(shown, evidence, leave)
        return tokens if after is shown else after.union(every.shown(visual=False))
    shown = every.visual | (every.index < evidence.last)  # which has to answer; one sample at a time
    count = len(evidence.sequence) - 1
    own = every.take(places(shown, count), tokens.patches)
    after = reduction(own, evidence)
    if after is own:
        return tokens
    after = after.union(every.take(places(~shown, len(tokens) - count), 0))
    return replace(after, count=after.patches)  # how many of each kind have left has to be counted
