"""All runs' scores on the same resampled questions, so that whatever is computed from them keeps its pairing."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

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

    rows  as `thinsight.results.answers` gives them; runs that were not scored on the same questions are a `UserError`
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
