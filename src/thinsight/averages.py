"""What a printed average should be: the mean of the scores that stand beside it in its own row."""

from collections.abc import Sequence

from thinsight.counting import Computed
from thinsight.kin import AVERAGES
from thinsight.lines import Line, Prints

LEAST = 3  # scores that a row must have for its mean to say something


def averaged(line: Line, prints: Prints) -> Computed | None:
    """The mean of the row's scores, or of their shares of the whole model's; None if the line is no such average.

    A relative average is sometimes the mean of the ratios and sometimes the ratio of the means: the nearer one is
    taken. It shows whether a table agrees with itself and no more. Nothing was reproduced by it, and the table may
    have had columns that are not stored.
    """
    if line.column not in AVERAGES or line.number != line.number:
        return None
    scores = [
        one for one in prints.row(line) if one.column not in AVERAGES and one.is_score and one.number == one.number
    ]
    if len(scores) < LEAST:
        return None
    own = f"the row's {len(scores)} scores"
    if line.column == "average":
        even = all(one.unit == "%" for one in scores)
        return Computed(_mean([one.number for one in scores]), f"mean of {own}") if even else None
    wholes = [prints.whole(one) for one in scores]
    if not all(wholes):
        return None
    pairs = [(one.hundred, whole) for one, whole in zip(scores, wholes, strict=True)]
    ways = {
        f"mean of {own}, each as a share of the whole model's": 100 * _mean([one / whole for one, whole in pairs]),
        f"mean of {own} as a share of the whole model's mean": 100 * _mean([p[0] for p in pairs]) / _mean(wholes),
    }
    how = min(ways, key=lambda name: abs(ways[name] - line.number))
    return Computed(ways[how], how)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
