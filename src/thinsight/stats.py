"""Statistics of scores on the same questions: intervals, paired tests, and one bootstrap over the questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import bdtr

from thinsight.errors import UserError

RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int | np.random.Generator = 0) -> np.ndarray:
    """(resamples, runs): the means of ``values`` (questions, runs) over questions drawn with replacement.

    The same draws serve all runs, so that differences of columns are paired.
    """
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return (counts / n) @ values


def percentile_interval(replicates: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile interval of bootstrap ``replicates`` (resamples,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


class ResampledScore(NamedTuple):
    """``estimate`` (tasks,): accuracy on each task; ``replicates`` (resamples, tasks): the same on drawn questions."""

    estimate: np.ndarray
    replicates: np.ndarray

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return float(self.estimate.mean())

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Percentile interval of the mean over tasks."""
        return percentile_interval(self.replicates.mean(1), confidence)

    def minus(self, other: "ResampledScore") -> "ResampledScore":
        """The difference on the same questions."""
        return ResampledScore(self.estimate - other.estimate, self.replicates - other.replicates)

    def over(self, other: "ResampledScore") -> "ResampledScore":
        """The ratio task by task; a task in which ``other`` is never right has none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return ResampledScore(self.estimate / other.estimate, self.replicates / other.replicates)

    def select(self, tasks: Sequence[int]) -> "ResampledScore":
        """The same of some tasks alone, by their numbers."""
        return ResampledScore(self.estimate[tasks], self.replicates[:, tasks])

    def average(self) -> "ResampledScore":
        """The mean over tasks as if it were one task: for ratios of means, where `over` alone gives means of ratios."""
        return ResampledScore(self.estimate.mean(keepdims=True), self.replicates.mean(1, keepdims=True))


class Bootstrap:
    """Accuracies of every run and budget, and of all of them on the same ``resamples`` draws of each task's questions.

    rows  as `load_answers` gives them; runs that were not scored on the same questions are a `UserError`
    """

    def __init__(self, rows: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.tasks: list[Any] = []
        self.counts: list[int] = []  # questions of each task
        self._columns: dict[tuple[str, str], int] = {}
        self._correct: list[np.ndarray] = []  # per task (questions, columns)
        rng, replicates = np.random.default_rng(seed), []
        for task, part in rows.groupby("task", sort=False):
            wide = part.pivot(index="id", columns=["run", "budget"], values="correct")
            if wide.isna().any(axis=None):
                raise UserError(f"the runs were not scored on the same questions of task {task}")
            self._columns = self._columns or {key: number for number, key in enumerate(wide.columns)}
            values = wide[list(self._columns)].to_numpy(float)
            self.tasks.append(task)
            self.counts.append(len(values))
            self._correct.append(values)
            replicates.append(bootstrap_means(values, resamples, rng))
        self._estimates = np.stack([values.mean(0) for values in self._correct], 1)  # (columns, tasks)
        self._replicates = np.stack(replicates, 2)  # (resamples, columns, tasks)

    def score(self, run: str, budgets: Sequence[str]) -> ResampledScore:
        """The mean over ``budgets`` of ``run`` (its seeds)."""
        columns = [self._columns[run, budget] for budget in budgets]
        return ResampledScore(self._estimates[columns].mean(0), self._replicates[:, columns].mean(1))

    def correct(self, run: str, budget: str, tasks: Sequence[int]) -> np.ndarray:
        """(questions,): whether each question of some tasks, given by number, was answered more than half right."""
        column = self._columns[run, budget]
        return np.concatenate([self._correct[task][:, column] for task in tasks]) > 0.5


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


def paired(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
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
    only_first, only_second = discordant(a > 0.5, b > 0.5)
    low, high = percentile_interval(bootstrap_means((a - b)[:, None], resamples, seed)[:, 0], confidence)
    return Paired(
        n=len(ids),
        difference=float((a - b).mean()),
        low=low,
        high=high,
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
    )


def discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """On how many rows only the first, and only the second, is right; both (rows,) bool."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test: the two-sided binomial probability of so uneven a split of the discordant rows."""
    if only_first == only_second:
        return 1.0
    less, rows = min(only_first, only_second), only_first + only_second
    return min(1.0, 2.0 * float(bdtr(less, rows, 0.5)))  # symmetric: both tails are as long


def wilson(correct: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion; it stays inside [0, 1] and is wide, not empty, at 0 and n."""
    if not 0 <= correct <= n or n == 0:
        raise UserError(f"{correct} right answers of {n} is no score.")
    interval = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p, in the order of ``p``; held to a bound, the chance of one false difference is at most that.

    The smallest p is multiplied by the number of comparisons, the next one by one less, and so on, never falling.
    """
    raw = np.asarray(p, float)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    return adjusted
