"""Schedules that go down in steps as papers publish them; all have ``keep``, so that one sweep fits every method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from thinsight.errors import UserError
from thinsight.schedule import Fixed, Geometric, check_keep, count


@dataclass(frozen=True)
class Tabulated:
    """Published counts for published budgets, and straight lines between them (SparseVLM, arXiv:2410.04417).

    keep    the budget: a count, or a fraction of the visual tokens (the paper's is a mean over layers)
    table   rows (budget, counts after each stage), of ``size`` visual tokens; nothing stays for a budget of 0 and
            everything for one of ``size``
    counts  what is left after each stage, instead of the table's: counts, or fractions of the visual tokens
    always  at least one token leaves at every stage, whatever the budget (released code)

    New tokens come on top. For pictures of other sizes the table is stretched.
    """

    keep: int | float
    table: Sequence[Sequence[int]]
    size: int = 576
    counts: Sequence[int | float] | None = None
    always: bool = False
    inclusive = False

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.counts is not None:
            Fixed(self.counts)
        if len({len(row) for row in self.table}) != 1 or any(max(row) > self.size for row in self.table):
            raise UserError(f"a table has rows of a budget and a count for each layer, none above size={self.size}")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.counts is not None:
            keep = Fixed(self.counts)(present, stage, stages, total)
        else:
            if len(self.table[0]) - 1 != stages:
                raise UserError(f"the table has {len(self.table[0]) - 1} stages, not {stages}: give counts instead")
            keep = min(round(self._between(stage, total) * total / self.size), present)
        return min(keep, max(present - 1, 0)) if self.always else keep

    def _between(self, stage: int, total: int) -> float:
        """The count at the budget, of ``size`` tokens."""
        budget = self.keep * (self.size if isinstance(self.keep, float) else self.size / max(total, 1))
        points = [(0, 0), *sorted((row[0], row[1 + stage]) for row in self.table), (self.size, self.size)]
        for (low, less), (high, more) in pairwise(points):
            if budget <= high:
                return less + (more - less) * (budget - low) / (high - low) if high > low else more
        return self.size


@dataclass(frozen=True)
class Pyramid:
    """Equal ratios down to ``keep``, or the published ``ratios`` (PyramidDrop, arXiv:2410.17247, section 3.1).

    keep    what is left in the end, as in `thinsight.schedule.Once`; stages get there by `Geometric` steps
    ratios  fractions of the original visual tokens left after each stage, rounded down, whatever ``keep`` says
    """

    keep: int | float = 0.125
    ratios: Sequence[float] | None = None
    inclusive = True

    def __post_init__(self) -> None:
        check_keep(self.keep)
        for ratio in self.ratios or ():
            if not 0 <= ratio <= 1:
                raise UserError(f"ratio {ratio} is no fraction between 0 and 1")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.ratios is None:
            return Geometric(self.keep)(present, stage, stages, total)
        if len(self.ratios) != stages:
            raise UserError(f"{len(self.ratios)} ratios do not fit {stages} layers: give one for each")
        return min(int(total * self.ratios[stage]), present)


@dataclass(frozen=True)
class FirstCut:
    """The first of two cuts: the filter decides (keep=None), or ``keep / ratio`` stay, so that the second one keeps
    ``ratio`` of them (arXiv:2409.01162)."""

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

    def __post_init__(self) -> None:
        _check_cut(self.keep, self.ratio)

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        return math.ceil(self.ratio * present) if self.keep is None else min(count(self.keep, total), present)


def _check_cut(keep: int | float | None, ratio: float) -> None:
    if keep is not None:
        check_keep(keep)
    if not 0 < ratio <= 1:
        raise UserError(f"ratio={ratio} is no fraction above 0 and up to 1")
