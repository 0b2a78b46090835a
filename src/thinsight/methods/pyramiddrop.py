"""PyramidDrop (arXiv:2410.17247): a constant share of the visual tokens leaves at the end of each decoder stage.

With ratio lambda, lambda^s of the N tokens are left after stage s (section 3.1). The score is FastV's, asked one layer
later: `thinsight.methods.fastv.TextAttention` with ``source="next"``, the attention of the layer to come (section 3.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from thinsight.errors import UserError
from thinsight.reduction.schedules import Geometric


@dataclass(frozen=True)
class PyramidRates(Geometric):
    """Equal ratios down to ``keep``, or the published ``ratios``.

    ratios  fractions of the original visual tokens left after each stage, rounded down, whatever ``keep`` says
    """

    ratios: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for ratio in self.ratios or ():
            if not 0 <= ratio <= 1:
                raise UserError(f"ratio {ratio} is no fraction between 0 and 1")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.ratios is None:
            return super().__call__(present, stage, stages, total)
        if len(self.ratios) != stages:
            raise UserError(f"{len(self.ratios)} ratios do not fit {stages} layers: give one for each")
        return min(int(total * self.ratios[stage]), present)
