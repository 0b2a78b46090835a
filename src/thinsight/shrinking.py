"""Schedules of the methods in front of the projector; all have ``keep``, so that one sweep fits every method."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinsight.errors import UserError
from thinsight.schedule import Even, Geometric, Rate, check_keep, count


@dataclass(frozen=True)
class Open:
    """``keep`` visual tokens stay, as in `Once`, or in several stages in equal ratios; None: the filter decides."""

    keep: int | float | None = None
    inclusive = True

    def __post_init__(self) -> None:
        if self.keep is not None:
            check_keep(self.keep)

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int | None:
        return None if self.keep is None else Geometric(self.keep)(present, stage, stages, total)


@dataclass(frozen=True)
class Pairwise:
    """ToMe's merging of pairs (arXiv:2210.09461): at most half of those present leave at a block.

    keep        what is left after the last block; equal numbers leave everywhere, more in the first blocks only where
                halving could not make up for it later. A budget below all halvings is missed by as little as possible
    r           published schedule, whatever ``keep`` says: so many leave at every block (int), or a list of numbers,
                one for each block, zeros where it ends
    inflection  with an int r: from floor(r (1 - inflection)) in the first block in a straight line to 2r less that in
                the last one (-1: the paper's decreasing schedule, 0: constant)
    """

    keep: int | float = 0.5
    r: int | Sequence[int] | None = None
    inflection: float = 0.0
    inclusive = True

    def __post_init__(self) -> None:
        check_keep(self.keep)
        several = isinstance(self.r, Sequence) and not isinstance(self.r, str)
        if several:
            object.__setattr__(self, "r", tuple(self.r))
        for one in self.r if several else () if self.r is None else (self.r,):
            if isinstance(one, bool) or not isinstance(one, int) or one < 0:
                raise UserError(f"r={self.r} is neither a number of pairs (0, 1, 2, ...) nor a list of them")
        if not -1 <= self.inflection <= 1:
            raise UserError(f"inflection={self.inflection} is no number between -1 and 1")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.r is not None:
            leave = self.removed(stages)[stage]
        else:
            last, later = count(self.keep, total), stages - stage - 1
            even = present - Even(self.keep)(present, stage, stages, total)
            leave = max(even, present - last * 2**later)
        return present - min(leave, present // 2)

    def removed(self, stages: int) -> list[int]:
        """The published schedule: pairs merged at each of ``stages`` blocks."""
        if isinstance(self.r, tuple):
            if len(self.r) > stages:
                raise UserError(f"r names {len(self.r)} blocks, and there are {stages}")
            return [*self.r, *[0] * (stages - len(self.r))]
        first = int(self.r * (1.0 - self.inflection))
        slope = (2 * self.r - 2 * first) / max(stages - 1, 1)
        return [int(first + slope * stage) for stage in range(stages)]


@dataclass(frozen=True)
class Fading:
    """EViT's schedule (arXiv:2202.07800): the same ratio at every stage.

    keep  what is left after the last stage, the last fused token included: the ratio is solved for it
    rate  published ratio, whatever ``keep`` says: of those present that fraction stays, rounded up, and a fused one
          joins them
    """

    keep: int | float = 0.3333
    rate: float | None = None

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.rate is not None:
            Rate(self.rate)

    @property
    def inclusive(self) -> bool:
        """Whether the fused token is one of those that stay."""
        return self.rate is None

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        schedule = Geometric(self.keep) if self.rate is None else Rate(self.rate)
        return schedule(present, stage, stages, total)


@dataclass(frozen=True)
class Split:
    """VisionZip's budget (arXiv:2412.04467): dominant tokens stay, contextual ones are made of the rest.

    keep         both together
    share        of it is contextual (30 of 192, 20 of 128, 10 of 64)
    dominant     how many, with ``contextual`` how many, whatever ``keep`` says
    class_token  one of the dominant ones is the class token, if there are any
    """

    keep: int | float = 0.3333
    share: float = 0.15625
    dominant: int | None = None
    contextual: int | None = None
    class_token: bool = False
    inclusive = False

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if not 0 <= self.share <= 1:
            raise UserError(f"contextual_share={self.share} is no fraction between 0 and 1")
        if (self.dominant is None) != (self.contextual is None):
            raise UserError("dominant and contextual go together: give both numbers, or neither")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        parts = self.parts(total)
        return present if sum(parts) >= present else parts[0]

    def parts(self, total: int) -> tuple[int, int, int]:
        """Of ``total`` patches: how many stay, contextual tokens, copies of the class token (0 or 1)."""
        if self.dominant is None:
            both = count(self.keep, total)
            contextual = round(self.share * both)
            dominant = both - contextual
        else:
            dominant, contextual = self.dominant, self.contextual
        handed = int(self.class_token and dominant > 0)
        return dominant - handed, contextual, handed
