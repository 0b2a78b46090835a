"""The rules by which a printed number gets a verdict. Start here to learn what a verdict means.

Nothing here reads a file: numbers come in, one of `VERDICTS` goes out. A number answers one of two questions, and an
average of printed scores a third one besides:

    score    of a benchmark, or an average of such: was it obtained on the paper's model?      `score_verdict`
    cost     FLOPs, bytes, seconds: does the formula, counted as the paper does, give it?      `cost_verdict`
    average  does it follow from the cells that are printed beside it?                         `average_verdict`

What pocket shows is no verdict on a number; `same_order` serves what a page says of it beside print. `rules` says the
verdicts in sentences, for the pages.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

SCORE, COST, AVERAGE = "score", "cost", "average"
OBTAINED, RANGE, NEEDS = "obtained", "within printed range", "needs the model"
RECOMPUTED, INFERRED, NOT_RUN = "recomputed", "recomputed, convention inferred", "not run"
DIFFERS = "differs"
ADDS, ADDS_NOT = "adds up", "does not add up"
VERDICTS = {
    SCORE: (OBTAINED, RANGE, DIFFERS, NEEDS),
    COST: (RECOMPUTED, INFERRED, DIFFERS, NOT_RUN),
    AVERAGE: (ADDS, ADDS_NOT),
}
"""Question -> its verdicts."""
KINDS = {
    SCORE: ("obtained", "range", "missed", "needs"),
    COST: ("recomputed", "inferred", "differs", "notrun"),
    AVERAGE: ("adds", "addsnot"),
}
BADGES: Mapping[str, Mapping[str, str]] = {
    question: dict(zip(verdicts, KINDS[question], strict=True)) for question, verdicts in VERDICTS.items()
}
"""Question -> verdict -> the last part of its style class, badge-..."""

TOLERANCE = 0.01  # of the printed value: so far may a computed one be off
POINT = 1.0  # on a scale to 100: a printed difference below it decides nothing
CONFIDENCE = 0.95  # of every interval of a measured score or difference
DIGITS = 9  # of a difference of printed numbers; less is an error of rounding


@dataclass(frozen=True)
class PrintedRange:
    """The lowest and highest number that papers print for one cell, and how many documents (``papers``) print it."""

    low: float
    high: float
    papers: int = 1

    @property
    def text(self) -> str:
        """For a sentence."""
        who = "1 document prints" if self.papers == 1 else f"{self.papers} documents print"
        return f"{who} {self.low:g}" + (f" to {self.high:g}" if self.high > self.low else "")


@dataclass(frozen=True)
class Verdict:
    """What the ledger says of a printed number that answers ``question``.

    computed     what a formula gives, or the mean of the row, and ``how``
    computation  what was counted: numbers that share it are one computation
    mark         why a cost that is met says little: see `thinsight.ledger.ledger`
    measured     of the run ``run``, on the scale that ``measure`` names
    """

    question: str
    verdict: str
    why: str
    computed: float | None = None
    how: str = ""
    computation: str = ""
    mark: str = ""
    measured: float | None = None
    measure: str = ""
    run: str = ""


def cost_verdict(printed: str, computed: float, reading: str) -> str:
    """Of a number that a formula gives; ``reading``: of the way of counting, as `thinsight.ledger.counting` has it.

    A way that is not known was looked for: that it misses says nothing.
    """
    if meets(printed, computed):
        return RECOMPUTED if reading == "stated" else INFERRED
    return NOT_RUN if reading == "unknown" else DIFFERS


def meets(printed: str, computed: float) -> bool:
    """Whether ``computed`` is the number ``printed``: rounded to its digits, or cut to them, or within `TOLERANCE`."""
    number, unit = float(printed.replace(",", "")), 10.0 ** -len(printed.partition(".")[2])
    forms = (round(computed / unit), math.floor(computed / unit + 1e-9))
    return round(number / unit) in forms or abs(computed - number) <= TOLERANCE * abs(number)


def score_verdict(printed: float, measured: float, interval: tuple[float, float], span: PrintedRange) -> str:
    """Of a score of the very model that was run, all four on the printed scale."""
    if interval[0] <= printed <= interval[1]:
        return OBTAINED
    return RANGE if span.low <= measured <= span.high else DIFFERS


def average_verdict(printed: str, low: float, high: float) -> str:
    """Of an average, from the ends that the rounding of its row's cells leaves open; rounded to its digits or cut."""
    number, unit = float(printed.replace(",", "")), 10.0 ** -len(printed.partition(".")[2])
    return ADDS if number - unit / 2 <= high + 1e-9 and low <= number + unit + 1e-9 else ADDS_NOT


def same_order(printed: float, interval: tuple[float, float]) -> bool | None:
    """Whether print and pocket put two methods in the same order; None if either of them is undecided.

    printed   the difference in points on a scale to 100;  interval  of the same difference on pocket
    """
    low, high = interval
    if round(abs(printed), DIGITS) <= POINT or low <= 0 <= high:
        return None
    return (printed > 0) == (low > 0)


def rules() -> Mapping[str, list[tuple[str, str]]]:
    """Question -> (verdict, when it is given), in order."""
    sentences = {
        SCORE: (
            "That very model was run here on that benchmark, by the protocol that the number is known to be printed "
            f"under, and the printed number lies in the measured {CONFIDENCE:.0%} interval.",
            "Run so, and what was measured lies between the lowest and the highest number that papers print for the "
            "same cell under the same protocol.",
            "Run so, and neither.",
            "It was not run so: the model, the benchmark, the method at that setting, or the protocol is another or is "
            "not known. What the model in the box scores is no verdict on it.",
        ),
        COST: (
            "The formula, counted as the document says, gives the printed number: rounded or cut to its digits, or "
            f"within {TOLERANCE:.0%}. Numbers that share convention, model and lengths are one computation.",
            "The same by a way of counting that the document does not say: one that was fitted to several of its "
            "numbers, or only looked for.",
            "A way of counting is stated or fitted, and gives another number, which stands beside it; or the number is "
            "a setting's label and not the method's own cost.",
            "It is read off a clock or a memory meter of a GPU, or nothing here computes it; the reason is given.",
        ),
        AVERAGE: (
            "The mean of the scores that are printed in the same row is the printed average, as far as their rounding "
            "lets one say. It shows that a table agrees with itself, and no more.",
            "It is not, though another average of the same column of the table is; ours stands beside it. Where none "
            "is, nothing is said: the table may have columns that are not stored here.",
        ),
    }
    return {question: list(zip(VERDICTS[question], sentences[question], strict=True)) for question in VERDICTS}
