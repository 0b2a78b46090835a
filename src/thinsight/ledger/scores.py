"""A printed score beside a run on the same or on another model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from thinsight.analysis.results import budgets_at, score_cells, without_seed
from thinsight.ledger.counting import shape_of
from thinsight.ledger.lines import (
    AVERAGES,
    POCKET,
    VANILLA,
    PrintedNumber,
    PrintedTable,
    SettingKey,
    benchmark_tasks,
    slug,
    task_benchmarks,
)
from thinsight.ledger.verdicts import NOT_RUN, Verdict, direction, order, score, sign
from thinsight.stats import Resampled, Score


class RunScores:
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
        return (
            there if benchmark in AVERAGES else [task for task in benchmark_tasks().get(benchmark, ()) if task in there]
        )

    def budgets(self, run: str, setting: SettingKey) -> list[str]:
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

    def _find(self, run: str, setting: SettingKey) -> list[str]:
        if setting.keep is not None:
            return budgets_at(self.results, run, round(setting.keep, 4))
        if setting.layer is None:
            return []
        wanted = f"layer={round(setting.layer * shape_of(self.model).layers)}"
        return [wanted] if wanted in set(score_cells(self.results, run)["budget"]) else []

    def _of(self, run: str, budgets: Sequence[str], tasks: Sequence[str]) -> Score:
        score, at = self._sampled.score(run, budgets), [self._sampled.tasks.index(task) for task in tasks]
        return Score(score.point[at], np.take(score.boots, at, axis=1))


SHARES = ("%", "fraction", "F1")
"""Units of a share of right answers."""


class ScoreComparison:
    """What can be said of the scores among ``prints`` from ``runs``."""

    def __init__(self, prints: PrintedTable, runs: RunScores) -> None:
        self.prints, self.runs = prints, runs

    def finding(self, line: PrintedNumber) -> Verdict | None:
        """The verdict on a printed score; None if the line is none."""
        if not line.is_score:
            return None
        if line.number != line.number:
            return Verdict(NOT_RUN, "no single number is printed")
        if self.runs.model == POCKET:
            return self._beside_pocket(line)
        if slug(line.model) != self.runs.model:
            return Verdict(NOT_RUN, f"{line.model or 'its model'} was not run; {self.runs.model} was")
        return self._of_the_model(line)

    def _of_the_model(self, line: PrintedNumber) -> Verdict:
        """That very model was run: printed against measured."""
        task = task_benchmarks().get(line.column)
        if task is None or task not in self.runs.all_tasks:
            return Verdict(NOT_RUN, f"{line.column} was not run")
        if line.unit not in SHARES:
            return Verdict(NOT_RUN, f"{task} was run, but there is no interval of a number in {line.unit}")
        place = self._place(line)
        if isinstance(place, str):
            return Verdict(NOT_RUN, place)
        run, budgets = place
        value, interval = self.runs.measured(run, budgets, line.column, task)
        span = self.prints.span(line, hundred=True)
        said = score(line.hundred, value, interval, span)
        why = f"measured {value:.1f} ({interval[0]:.1f} to {interval[1]:.1f}) on {task}; {span.text}"
        return Verdict(said, why, measured=value, measure=f"% of {task}, {without_seed(budgets[0])}", run=run)

    def _beside_pocket(self, line: PrintedNumber) -> Verdict:
        """Another model was run: only the direction."""
        if line.method == VANILLA:
            return Verdict(NOT_RUN, "the whole model itself was not run, and pocket's score is no match for its own")
        tasks = self.runs.tasks(line.column)
        if not tasks:
            short = "was not run" if benchmark_tasks().get(line.column) else "has no kin among pocket's tasks"
            return Verdict(NOT_RUN, f"{line.column} {short}")
        place = self._place(line)
        if isinstance(place, str):
            return Verdict(NOT_RUN, place)
        run, budgets = place
        same, told = self._sign(line, place, tasks)
        pairs = self._orders(line, place, tasks)
        decided = [pair for pair in pairs if pair is not None]
        order = f"order as printed in {sum(decided)} of {len(decided)} decided pairs" if decided else "no pair decided"
        order = order if pairs else "no other method of the table was run"
        relative = 100 * self.runs.relative(run, budgets, tasks)
        on = "all tasks" if line.column in AVERAGES else " and ".join(tasks)
        measure = f"% of pocket's whole model, {on}, {without_seed(budgets[0])}"
        said = direction(same, pairs)
        why = f"pocket decides too little: {told}; {order}" if said == NOT_RUN else f"{told}; {order}"
        return Verdict(said, why, measured=relative, measure=measure, run=run)

    def _sign(
        self, line: PrintedNumber, place: tuple[str, Sequence[str]], tasks: Sequence[str]
    ) -> tuple[bool | None, str]:
        """`verdicts.sign` and its sentence."""
        mean, interval = self.runs.difference(place, None, tasks)
        pocket = f"pocket {100 * mean:+.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
        whole = self.prints.whole(line)
        if whole is None:
            return None, f"no whole model in the table, {pocket} points to its own"
        change = line.hundred - whole
        same = sign(change, interval)
        word = {True: "same sign", False: "other sign", None: "sign undecided"}[same]
        return same, f"{word}: print {change:+.1f} points to the whole model, {pocket}"

    def _orders(self, line: PrintedNumber, place: tuple[str, Sequence[str]], tasks: Sequence[str]) -> list[bool | None]:
        """`verdicts.order` with each line of the block whose method was run."""
        found = []
        for other in self.prints.block(line):
            beside = self._place(other)
            if not isinstance(beside, str) and other.number == other.number:
                _, interval = self.runs.difference(place, beside, tasks)
                found.append(order(line.hundred - other.hundred, interval))
        return found

    def _place(self, line: PrintedNumber) -> tuple[str, list[str]] | str:
        """The run and the budgets that stand for a line, or why there are none."""
        if line.method != VANILLA and not line.name:
            return f"{line.method} has no file in conf/method"
        if line.label:
            return f"a variant of {line.method}, not the method as it is"
        if line.method == VANILLA:
            return self.runs.base, ["fixed"]
        run = self.runs.run_of(line.name)
        if run is None:
            return f"no run of {line.method}"
        setting = line.setting
        if setting.keep is None and setting.layer is None:
            return "the setting's tokens are not stated, or not those of a picture of this model"
        budgets = self.runs.budgets(run, setting)
        if budgets:
            return run, budgets
        share = f"keep={setting.keep:.4g}" if setting.keep is not None else f"layer {setting.layer:.2g} of the depth"
        return f"{line.method} was not run at {share}"
