"""PyramidDrop: a constant share of the visual tokens leaves at the end of each decoder stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinsight.errors import UserError
from thinsight.reduction.schedules import Geometric, check_keep


@dataclass(frozen=True)
class PyramidRates:
    """Equal ratios down to ``keep``, or the published ``ratios`` (PyramidDrop, arXiv:2410.17247, section 3.1).

    keep    what is left in the end, as in `thinsight.reduction.schedules.Once`; stages get there by `Geometric` steps
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
