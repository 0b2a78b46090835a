"""How many tokens leave at each place: schedules as values.

A schedule is asked at each stage (layer of its site) how many of the ``present`` visual tokens stay, and so can be
simulated without a model: that is what `thinsight.solve` does. Where the stages of a reduction make new tokens (a
merged or recycled one), ``inclusive`` says whether they count among those that stay.

A fraction is of the visual tokens, wherever a method acts. A count is of each picture in front of the projector, and of
the whole prompt behind it; where a method shares one budget between both places, its schedule behind the projector says
that it counts for each picture there, too (``each_picture``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from thinsight.errors import UserError


class Schedule(Protocol):
    """``schedule(present, stage, stages, total)`` -> how many stay; None: the filter decides, sample by sample.

    present  visual tokens before this stage;  total  those that the picture came with
    stage    which of the ``stages`` layers of the site this is, counted from 0
    """

    inclusive: bool

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int | None: ...


@dataclass(frozen=True)
class Keep:
    """``keep`` visual tokens stay, or as many as the filter decides.

    keep       a count (int, see above), or a fraction of those the picture or prompt came with (float in 0..1), the
               same at every stage; None: the filter decides, which only one that is ``adaptive`` can do
    down       a fraction is rounded down, not to the nearest count
    inclusive  whether a new token that the stages make counts among those that stay
    """

    keep: int | float | None = 0
    down: bool = False
    inclusive: bool = True

    def __post_init__(self) -> None:
        if self.keep is not None:
            check_keep(self.keep)

    def __call__(self, present: int, stage: int = 0, stages: int = 1, total: int | None = None) -> int | None:
        if self.keep is None:
            return None
        total = present if total is None else total
        keep = int(self.keep * total) if self.down and isinstance(self.keep, float) else count(self.keep, total)
        return min(keep, present)


@dataclass(frozen=True)
class Even:
    """An equal number leaves at every stage, so that ``keep`` (as in `Keep`) are left after the last; the first
    stages take one more where it does not come out even.

    half          at most half of those present leave at a stage (ToMe's pairs)
    share         only this share of those that have to leave does so here; the rest is another reduction's (FiCoCo-VL)
    each          this many leave at every stage, whatever ``keep`` says; None: as many as it takes
    each_picture  a count for ``keep`` is of each picture of a prompt, also behind the projector
    """

    keep: int | float = 0.5
    half: bool = False
    share: float = 1.0
    each: int | None = None
    each_picture: bool = False
    inclusive = True

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.each is not None and (isinstance(self.each, bool) or not isinstance(self.each, int) or self.each < 0):
            raise UserError(f"leave={self.each} is no number of tokens: 0, 1, 2, ... at every stage, or null")
        if not 0 <= self.share <= 1:
            raise UserError(f"share={self.share} is no fraction between 0 and 1")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        last = total - round(self.share * max(total - count(self.keep, total), 0))
        leave = math.ceil(max(present - last, 0) / (stages - stage)) if self.each is None else self.each
        return max(present - (min(leave, present // 2) if self.half else leave), 0)


@dataclass(frozen=True)
class Geometric:
    """After stage s of S, floor(total * keep^((s + 1) / S)) are left: equal ratios from stage to stage.

    keep  what is left after the last stage, as in `Keep`; None: the filter decides
    """

    keep: int | float | None = 0.125
    inclusive = True

    def __post_init__(self) -> None:
        if self.keep is not None:
            check_keep(self.keep)

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int | None:
        if self.keep is None:
            return None
        last = count(self.keep, total)
        if stage + 1 == stages:
            return min(last, present)
        return min(int(total * (last / max(total, 1)) ** ((stage + 1) / stages) + 1e-9), present)


@dataclass(frozen=True)
class Fixed:
    """After stage s ``counts[s]`` are left, or that fraction of ``total`` (float; rounded down)."""

    counts: Sequence[int | float]
    inclusive = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", tuple(self.counts))
        for keep in self.counts:
            check_keep(keep)

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if len(self.counts) != stages:
            raise UserError(f"{len(self.counts)} counts do not fit {stages} layers: give one for each")
        keep = self.counts[stage]
        return min(int(keep * total + 1e-9) if isinstance(keep, float) else keep, present)


@dataclass(frozen=True)
class Times:
    """After stage s ``times[s]`` times as many are left as ``keep`` says (as in `Keep`), which is what other reductions
    leave in the end.

    each_picture  a count for ``keep`` is of each picture of a prompt, also behind the projector
    """

    keep: int | float
    times: Sequence[int]
    each_picture: bool = True
    inclusive = True

    def __post_init__(self) -> None:
        check_keep(self.keep)
        object.__setattr__(self, "times", tuple(self.times))
        for many in self.times:
            if isinstance(many, bool) or not isinstance(many, int) or many < 1:
                raise UserError(f"times={many} is no whole number from 1 on")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if len(self.times) != stages:
            raise UserError(f"{len(self.times)} multiples do not fit {stages} layers: give one for each")
        return min(count(self.keep, total) * self.times[stage], present)


def of_pictures(schedule: Schedule, pictures: int) -> Schedule:
    """``schedule`` for a prompt of so many pictures: a count for each picture becomes one for all of them."""
    keep = getattr(schedule, "keep", None)
    if keep is None or isinstance(keep, float) or not getattr(schedule, "each_picture", False):
        return schedule
    return replace(schedule, keep=keep * pictures)


def check_keep(keep: int | float) -> None:
    """Refuse what is neither a count nor a fraction."""
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise UserError(f"keep is a count or a fraction of the visual tokens, not {keep!r}")
    if keep < 0 or (isinstance(keep, float) and not keep <= 1):
        raise UserError(f"keep={keep} is neither a count (0, 1, 2, ...) nor a fraction between 0.0 and 1.0")


def count(keep: int | float, total: int) -> int:
    """A count as it is; a fraction of ``total``, rounded."""
    return round(keep * total) if isinstance(keep, float) else keep
