"""What a rule on a claim takes and gives: evidence from runs, and a finding in one of a few words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pandas as pd

AGREES, DISAGREES, UNDECIDED = WORDS = ("agrees", "disagrees", "cannot tell")
RECOMPUTED, INFERRED, DIFFERS = COST_WORDS = ("recomputed", "recomputed, convention inferred", "differs")
NEEDS_MODEL, NOT_RUN = "needs the model", "not run"


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    word                        one of the words above
    statistic                   what was measured, in words
    value, low, high, smallest  it, its 95 % interval, and the smallest difference the test could have seen
    p                           McNemar's, where two runs were compared row by row
    chance, of, draws           the same by chance: the share of ``of`` draws (shuffles of methods) that
                                agree at least as much
    n                           questions (pictures, leavers)
    scale                       "points" (hundredths), "share" (per cent) or "number"
    why                         instead of numbers: why there are none, or what stands beside them
    """

    word: str
    statistic: str = ""
    value: float = nan
    low: float = nan
    high: float = nan
    smallest: float = nan
    p: float = nan
    chance: float = nan
    of: int = 0
    draws: str = "shuffles"
    n: int = 0
    scale: str = "points"
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """Finished runs of a claim as frames (`analysis.results`), and what a page measured by itself, by name:

    ``layer``      an integer, the layer that VTW's criterion chooses; None if none
    ``attention``  number, rows, layer, group, share: attention of single questions (`papers.vtw.analysis`)
    ``prompt``     method, n, difference, low, high, p: answers with another question's tokens (`papers.par.prompts`)
    ``edges``      point, layer, edges: targets of a leaver, one line a leaver (`papers.ficoco.internals`)
    """

    results: pd.DataFrame
    answers: pd.DataFrame
    extra: Mapping[str, Any] = field(default_factory=dict)


class NotRunError(Exception):
    """What a rule needs was not run; the message says what."""
