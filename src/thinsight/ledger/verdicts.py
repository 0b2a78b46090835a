"""The rules by which a printed number is called reproduced or not. Start here to learn what a verdict means.

Nothing here reads a file: numbers come in, one of `VERDICTS` goes out.

    a cost (FLOPs, bytes) that a formula gives            `cost_verdict`
    a score of the very model that was run                `score_verdict`
    a score of another model, held against pocket's runs  `direction_verdict`, of `same_sign` and `same_order`

`rules` says the same in sentences, for the pages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

REPRODUCED = "reproduced"
RANGE = "within range of printed values"
DIRECTION = "direction only"
MISSED = "not reproduced"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, RANGE, DIRECTION, MISSED, NOT_RUN)
BADGES = dict(zip(VERDICTS, ("reproduced", "range", "direction", "missed", "notrun"), strict=True))
"""The last part of a verdict's style class, badge-..."""

TOLERANCE = 0.01  # of the printed value: so far may a computed one be off
POINT = 1.0  # on a scale to 100: a printed difference below it decides nothing
AGREEING = Fraction(2, 3)  # of the decided pairs of methods must stand in the same order
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
    """What the ledger says of a printed number; ``measured`` on the scale that ``measure`` names."""

    verdict: str
    why: str
    computed: float | None = None
    how: str = ""
    measured: float | None = None
    measure: str = ""
    run: str = ""


def cost_verdict(printed: str, computed: float, span: PrintedRange, *, known: bool) -> str:
    """Of a number that a formula gives.

    span   what papers print for the same cell, this number among them
    known  whether the way of counting is stated or documented; one that was only looked for reproduces nothing
    """
    if meets(printed, computed):
        return REPRODUCED if known else RANGE
    ends = [meets(_with_decimals(end, printed), computed) for end in (span.low, span.high)]
    return RANGE if known and (span.low <= computed <= span.high or any(ends)) else MISSED


def meets(printed: str, computed: float) -> bool:
    """Whether ``computed`` is the number ``printed``: rounded to its digits, or cut to them, or within `TOLERANCE`."""
    number, unit = float(printed.replace(",", "")), 10.0 ** -len(printed.partition(".")[2])
    forms = (round(computed / unit), math.floor(computed / unit + 1e-9))
    return round(number / unit) in forms or abs(computed - number) <= TOLERANCE * abs(number)


def score_verdict(printed: float, measured: float, interval: tuple[float, float], span: PrintedRange) -> str:
    """Of a score of the very model that was run, all four on the printed scale."""
    if interval[0] <= printed <= interval[1]:
        return REPRODUCED
    return RANGE if span.low <= measured <= span.high else MISSED


def direction_verdict(sign: bool | None, orders: Sequence[bool | None]) -> str:
    """Of a score that pocket alone can say something of.

    sign    `same_sign`; None: undecided, or no whole model in print
    orders  `same_order` for each other method of the block that was run; empty: the sign has to do alone

    Where other methods were run and no pair is decided, or nothing at all is, the run is no evidence either way.
    """
    decided = [order for order in orders if order is not None]
    if sign is False or (decided and sum(decided) < AGREEING * len(decided)):
        return MISSED
    return DIRECTION if decided or (sign and not orders) else NOT_RUN


def same_sign(change: float, interval: tuple[float, float]) -> bool | None:
    """Whether print and pocket agree that a method loses or does not.

    change    printed, in points on a scale to 100: the method less the whole model of the same table
    interval  of the same difference on pocket

    A loss is one of more than `POINT` in print, and on pocket one whose interval lies below zero. None: print has a
    loss and pocket's interval holds zero, so that it can neither confirm nor deny it.
    """
    low, high = interval
    if round(change, DIGITS) < -POINT:
        return True if high < 0 else False if low > 0 else None
    return not high < 0


def same_order(printed: float, interval: tuple[float, float]) -> bool | None:
    """Whether print and pocket put two methods in the same order; None if either of them is undecided.

    printed   the difference in points on a scale to 100;  interval  of the same difference on pocket
    """
    low, high = interval
    if round(abs(printed), DIGITS) <= POINT or low <= 0 <= high:
        return None
    return (printed > 0) == (low > 0)


def rules() -> list[tuple[str, str]]:
    """(verdict, when it is given), in order."""
    sentences = (
        "A cost: the formula, counted as the paper says, as is documented of it, or as fits its numbers (its line then "
        f"says fitted), gives the printed number, rounded or cut to its digits, or within {TOLERANCE:.0%}. A score: "
        f"that very model was run here, and the printed number lies in the measured {CONFIDENCE:.0%} interval; it was "
        "run under the protocol that it was printed under, or nobody says which that was, and then its line does.",
        "Not that, but what was computed or measured lies between the lowest and the highest number that papers print "
        "for the same cell. Also where the printed number is met, but by a way of counting that was only looked for.",
        "A score of a model that was not run here, beside pocket's on its tasks of that kind, with the method's own "
        "knob at the same share of tokens. Sign: they do not contradict each other on whether the method loses to the "
        f"whole model (in print by more than {POINT:g} point of 100, on pocket by a paired {CONFIDENCE:.0%} interval "
        "below zero). Order: of the method's pairs with others of the same table and budget, those that are decided on "
        f"both sides (more than {POINT:g} point; an interval without zero) stand the same way round in {AGREEING} of "
        "them or more, and there is one at least. Where no other method of the table was run, the sign alone decides: "
        "a loss for both, or for neither.",
        "Something was computed or run that could have met the number or its direction, and did not.",
        "Nothing here computes or runs it, or not under the protocol that it was printed under; or what pocket ran "
        "decides too little: no pair of methods and, where no other method of the table was run, not the sign either. "
        "The reason is given.",
    )
    return list(zip(VERDICTS, sentences, strict=True))


def _with_decimals(number: float, like: str) -> str:
    """``number`` with as many decimals as ``like``."""
    return f"{number:.{len(like.partition('.')[2])}f}"
