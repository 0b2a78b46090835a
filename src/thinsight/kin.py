"""Runs beside printed scores: which task stands for a benchmark, which budget for a setting, and the differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from thinsight.config import CONF
from thinsight.counting import shape_of
from thinsight.resampled import Resampled, Score
from thinsight.results import cells
from thinsight.standing import budgets_at

POCKET = "pocket"
CONTROLS = {"Random": "random", "Spatial pooling": "pool"}  # what tables call the controls -> the file in conf/method
AVERAGES = ("average", "relative average")


@dataclass(frozen=True)
class Setting:
    """What a printed row sets a method to, as shares: ``keep`` of the visual tokens, ``layer`` of the decoder's depth.

    Both None: the row does not say.
    """

    keep: float | None = None
    layer: float | None = None


@cache
def kin() -> Mapping[str, Sequence[str]]:
    """Published benchmark -> the tasks of ``conf/task`` that are after it."""
    found: dict[str, list[str]] = {}
    for path in sorted((CONF / "task").glob("*.yaml")):
        for benchmark in OmegaConf.load(path).get("after") or ():
            found.setdefault(benchmark, []).append(path.stem)
    return found


@cache
def benchmarks() -> Mapping[str, str]:
    """Published benchmark -> the task of ``conf/task`` that is it: its title."""
    titles = {str(OmegaConf.load(path).get("title")): path.stem for path in sorted((CONF / "task").glob("*.yaml"))}
    return {title: name for title, name in titles.items() if name not in {t for tasks in kin().values() for t in tasks}}


@cache
def methods() -> Mapping[str, str]:
    """Title of a method, without what stands in brackets -> its name in ``conf/method``."""
    paths = sorted((CONF / "method").glob("*.yaml"))
    titles = {str(OmegaConf.load(path).get("title") or path.stem).partition(" (")[0]: path.stem for path in paths}
    return titles | CONTROLS


class Runs:
    """The main runs of one model, as the ledger asks them. ``base``: the run of the whole model."""

    def __init__(self, results: pd.DataFrame, answers: pd.DataFrame, base: str = "plain") -> None:
        main = [run for run in results["run"].unique() if "-" not in run]
        self.results = results[results["run"].isin(main)]
        self.model = str(results["model"].iloc[0]) if "model" in results else POCKET
        self.base = base
        self._sampled = Resampled(answers[answers["run"].isin(main)])
        self._runs = {m: list(part["run"].unique()) for m, part in self.results.groupby("method", sort=False)}
        self._differences: dict[Any, tuple[float, tuple[float, float]]] = {}
        self._budgets: dict[Any, list[str]] = {}

    def run_of(self, method: str) -> str | None:
        """The run of a method of ``conf/method``: the one with its name, or else its first."""
        runs = self._runs.get(method, [])
        return method if method in runs else runs[0] if runs else None

    @property
    def all_tasks(self) -> list[str]:
        """Every task that was run."""
        return self._sampled.tasks

    def tasks(self, benchmark: str) -> list[str]:
        """The tasks that were run and stand for a benchmark, or for an average: all of them."""
        there = self._sampled.tasks
        return there if benchmark in AVERAGES else [task for task in kin().get(benchmark, ()) if task in there]

    def budgets(self, run: str, setting: Setting) -> list[str]:
        """The budgets of ``run`` that stand for a setting; several are seeds, none means that it was not run so."""
        key = (run, setting)
        if key not in self._budgets:
            self._budgets[key] = self._find(run, setting)
        return self._budgets[key]

    def relative(self, run: str, budgets: Sequence[str], tasks: Sequence[str]) -> float:
        """Score as a share of the whole model's, the mean of the tasks' ratios."""
        return self._of(run, budgets, tasks).over(self._of(self.base, ["fixed"], tasks)).mean

    def difference(
        self, one: tuple[str, Sequence[str]], other: tuple[str, Sequence[str]] | None, tasks: Sequence[str]
    ) -> tuple[float, tuple[float, float]]:
        """Of two runs at budgets (None: the whole model) in accuracy, the mean over tasks, and its paired interval."""
        other = other or (self.base, ["fixed"])
        key = tuple((run, tuple(budgets)) for run, budgets in (one, other)), tuple(tasks)
        if key not in self._differences:
            found = self._of(*one, tasks).minus(self._of(*other, tasks))
            self._differences[key] = found.mean, found.interval()
        return self._differences[key]

    def measured(
        self, run: str, budgets: Sequence[str], benchmark: str, task: str
    ) -> tuple[float, tuple[float, float]]:
        """Score in % and Wilson's interval; of several draws the means of both.

        Where the benchmark's own number is another than accuracy (a column ``printed`` of the results: F1, say), the
        interval of accuracy is moved to it.
        """
        found = self.results[(self.results["run"] == run) & (self.results["task"] == task)]
        found = found[found["budget"].isin(budgets)]
        value, moved = 100 * float(found["accuracy"].mean()), 0.0
        own = [said[benchmark] for said in found.get("printed", ()) if isinstance(said, dict) and benchmark in said]
        if own:
            moved = float(np.mean(own)) - value
        return value + moved, (100 * float(found["low"].mean()) + moved, 100 * float(found["high"].mean()) + moved)

    def _find(self, run: str, setting: Setting) -> list[str]:
        if setting.keep is not None:
            return budgets_at(self.results, run, round(setting.keep, 4))
        if setting.layer is None:
            return []
        wanted = f"layer={round(setting.layer * shape_of(self.model).layers)}"
        return [wanted] if wanted in set(cells(self.results, run)["budget"]) else []

    def _of(self, run: str, budgets: Sequence[str], tasks: Sequence[str]) -> Score:
        score, at = self._sampled.score(run, budgets), [self._sampled.tasks.index(task) for task in tasks]
        return Score(score.point[at], np.take(score.boots, at, axis=1))
