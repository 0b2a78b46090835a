"""Statistics of scores on the same questions: intervals, paired tests, and one bootstrap over questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from thinsight.errors import UserError


class Score(NamedTuple):
    """``point`` (tasks,): accuracy on each task; ``boots`` (resamples, tasks): the same on resampled questions."""

    point: np.ndarray
    boots: np.ndarray

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval of the mean over tasks."""
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.boots.mean(1), [tail, 1 - tail])
        return float(low), float(high)

    def minus(self, other: "Score") -> "Score":
        """The difference on the same questions."""
        return Score(self.point - other.point, self.boots - other.boots)

    def over(self, other: "Score") -> "Score":
        """The ratio task by task; a task in which ``other`` is never right has none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return Score(self.point / other.point, self.boots / other.boots)

    def task(self, number: int) -> "Score":
        """The same of one task alone."""
        return Score(self.point[number : number + 1], self.boots[:, number : number + 1])

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return float(self.point.mean())


class Resampled:
    """Accuracies of every run and budget, and of all of them on the same ``resamples`` draws of each task's questions.

    rows  as `thinsight.analysis.results.load_answers` gives them; runs that were not scored on the same questions are a `UserError`
    """

    def __init__(self, rows: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> None:
        self.tasks = list(dict.fromkeys(rows["task"]))
        self.lines: list[tuple[str, str]] = []
        rng, points, boots = np.random.default_rng(seed), [], []
        for task in self.tasks:
            wide = rows[rows["task"] == task].pivot(index="id", columns=["run", "budget"], values="correct")
            if wide.isna().any(axis=None):
                raise UserError(f"the runs were not scored on the same questions of task {task}")
            wide = wide.astype(float)
            self.lines = self.lines or list(wide.columns)
            n = len(wide)
            drawn = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n  # how often each question is drawn
            values = wide[self.lines].to_numpy()
            points.append(values.mean(0))
            boots.append(drawn @ values)
        self._point, self._boots = np.stack(points, 1), np.stack(boots, 2)  # (lines, tasks), (resamples, lines, tasks)

    def score(self, run: str, budgets: Sequence[str]) -> Score:
        """The mean over ``budgets`` of ``run`` (its seeds)."""
        at = [self.lines.index((run, budget)) for budget in budgets]
        return Score(self._point[at].mean(0), self._boots[:, at].mean(1))


@dataclass(frozen=True)
class Paired:
    """Two runs on the same ``n`` rows: ``difference`` of their accuracies (first minus second) with a bootstrap
    interval ``low`` to ``high``; rows that only the first (``only_first``) or only the second got right; and McNemar's
    exact two-sided ``p`` that the two are equally good."""

    n: int
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; it stays inside [0, 1] and is wide, not empty, at 0 and n."""
    if not 0 <= correct <= n or n == 0:
        raise UserError(f"{correct} right answers of {n} is no score.")
    interval = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def paired(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Paired:
    """Compare two runs row by row; the mappings go from row id to "was right", or to a score from 0 to 1.

    A score counts as right above one half, where rows are counted (``only_first``, ``only_second``, ``p``). Rows are
    resampled in pairs, which removes the noise of the rows themselves; most published differences are smaller than the
    unpaired interval. Different row ids are a `UserError`.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise UserError(f"the two runs were not scored on the same rows: {odd[0]} is only in one ({len(odd)} in all).")
    if not first:
        raise UserError("there are no rows to compare.")
    ids = sorted(first)
    a, b = (np.array([float(run[i]) for i in ids]) for run in (first, second))
    only_first, only_second = int(((a > 0.5) & (b <= 0.5)).sum()), int(((b > 0.5) & (a <= 0.5)).sum())
    low, high = _interval(a - b, confidence, resamples, seed)
    return Paired(
        n=len(ids),
        difference=float((a - b).mean()),
        low=low,
        high=high,
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test: the two-sided binomial probability of so uneven a split of the discordant rows."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p, in the order given; held to a bound, the chance of even one false difference is at most that.

    The smallest p is multiplied by the number of comparisons, the next one by one less, and so on, never falling.
    """
    given = np.asarray(p, float)
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)))
    return adjusted


def _interval(differences: np.ndarray, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of ``differences`` (n,).

    They take few values, so resampling n rows with replacement is one multinomial draw of how often each value comes:
    the bootstrap without its n x resamples array.
    """
    values, counts = np.unique(differences, return_counts=True)
    n = len(differences)
    means = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples) @ values / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
