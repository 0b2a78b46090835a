"""A printed score beside a run on the same or on another model."""

from collections.abc import Sequence
from functools import cache
from statistics import fmean

import pandas as pd

from thinsight.analysis.comparisons import Line
from thinsight.analysis.results import budgets_at, score_cells, without_seed
from thinsight.analysis.runs import MAIN
from thinsight.evaluation.budget import FIXED
from thinsight.ledger.counting import shape_of
from thinsight.ledger.lines import (
    AVERAGES,
    VANILLA,
    PrintedNumber,
    PrintedTable,
    SettingKey,
    benchmark_tasks,
    judges,
    slug,
    task_benchmarks,
)
from thinsight.ledger.protocols import RunProtocol, both, difference
from thinsight.ledger.published import POCKET
from thinsight.ledger.verdicts import NOT_RUN, Verdict, direction_verdict, same_order, same_sign, score_verdict
from thinsight.stats import Bootstrap, ResampledScore

SHARES = ("%", "fraction", "F1")
"""Units of a share of right answers."""
Interval = tuple[float, float]


class RunScores:
    """The runs of the group main of one model; what a table of many lines asks again and again is kept.

    budgets     (run, `SettingKey`) -> the budgets that stand for a setting: several are seeds, none means not run so
    score       (line, tasks) -> its `ResampledScore`
    difference  (line, other line, tasks) -> of accuracy, the mean over tasks, and its paired interval
    """

    def __init__(self, results: pd.DataFrame, answers: pd.DataFrame) -> None:
        results = results[results["run"].isin(answers["run"])]  # a run without its answers counts as not run
        self.results = results[results["group"] == MAIN] if "group" in results else results
        self.model = str(results["model"].iloc[0]) if len(results) else POCKET
        self.whole: Line = ("plain", (FIXED,))
        rows = answers[answers["run"].isin(self.results["run"])]
        self._bootstrap = Bootstrap(rows) if len(rows) else None
        self._runs = {m: list(part["run"].unique()) for m, part in self.results.groupby("method", sort=False)}
        self.budgets, self.difference, self.score = cache(self._budgets), cache(self._difference), cache(self._score)

    def run_of(self, method: str) -> str | None:
        """The run of a method of ``conf/method``: the one with its name, or else its first."""
        runs = self._runs.get(method, [])
        return method if method in runs else runs[0] if runs else None

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """Every task that was run."""
        return tuple(self._bootstrap.tasks) if self._bootstrap else ()

    def tasks(self, benchmark: str) -> tuple[str, ...]:
        """The tasks that were run and stand for a benchmark, or for an average: all of them."""
        if benchmark in AVERAGES:
            return self.all_tasks
        return tuple(task for task in benchmark_tasks().get(benchmark, ()) if task in self.all_tasks)

    def relative(self, line: Line, tasks: Sequence[str]) -> float:
        """Score as a share of the whole model's, the mean of the tasks' ratios."""
        return self.score(line, tasks).over(self.score(self.whole, tasks)).mean

    def measured(self, line: Line, benchmark: str, task: str) -> tuple[float, Interval]:
        """Score in % and Wilson's interval; of several draws the means of both.

        Where the benchmark's own number is another than accuracy (a column ``printed`` of the results: F1, say), the
        interval of accuracy is moved to it.
        """
        run, budgets = line
        cells = self.results[(self.results["run"] == run) & (self.results["task"] == task)]
        cells = cells[cells["budget"].isin(budgets)]
        accuracy, low, high = (100 * float(cells[name].mean()) for name in ("accuracy", "low", "high"))
        printed = [numbers for numbers in cells.get("printed", ()) if isinstance(numbers, dict)]
        numbers = [numbers[benchmark] for numbers in printed if benchmark in numbers]
        moved = fmean(numbers) - accuracy if numbers else 0.0
        return accuracy + moved, (low + moved, high + moved)

    def protocol(self, run: str, task: str) -> RunProtocol:
        """How ``run`` asked and scored ``task``, by its card (the columns ``protocol`` and ``n`` of the results)."""
        (cell, *_) = self.results[(self.results["run"] == run) & (self.results["task"] == task)].to_dict("records")
        return RunProtocol(task, cell.get("protocol", ""), cell.get("n", 0))

    def _difference(self, line: Line, other: Line, tasks: Sequence[str]) -> tuple[float, Interval]:
        change = self.score(line, tasks).minus(self.score(other, tasks))
        return change.mean, change.interval()

    def _budgets(self, run: str, setting: SettingKey) -> tuple[str, ...]:
        if setting.keep is not None:
            return tuple(budgets_at(self.results, run, round(setting.keep, 4)))
        if setting.layer is None:
            return ()
        budget = f"layer={round(setting.layer * shape_of(self.model).layers)}"
        return (budget,) if budget in set(score_cells(self.results, run)["budget"]) else ()

    def _score(self, line: Line, tasks: Sequence[str]) -> ResampledScore:
        return self._bootstrap.score(*line).select([self._bootstrap.tasks.index(task) for task in tasks])


class ScoreComparison:
    """What can be said of the scores in ``table`` from ``runs``."""

    def __init__(self, table: PrintedTable, runs: RunScores) -> None:
        self.table, self.runs = table, runs

    def verdict(self, line: PrintedNumber) -> Verdict | None:
        """The verdict on a printed score; None if the line is none."""
        if not line.is_score:
            return None
        if not line.is_number:
            return Verdict(NOT_RUN, "no single number is printed")
        if self.runs.model == POCKET:
            return self._beside_pocket(line)
        if slug(line.model) != self.runs.model:
            return Verdict(NOT_RUN, f"{line.model or 'its model'} was not run; {self.runs.model} was")
        return self._of_the_model(line)

    def _of_the_model(self, line: PrintedNumber) -> Verdict:
        """That very model was run: printed against measured, if both went by the same protocol as far as is known."""
        named = task_benchmarks().get(line.column)
        task = line.made_under.tasks.get(line.column, named)
        if task not in self.runs.all_tasks:
            task = named
        if judge := judges().get(line.column):
            return Verdict(
                NOT_RUN, f"{line.column} is scored by a judge, {judge}: only answers are written for it here"
            )
        if task is None or task not in self.runs.all_tasks:
            return Verdict(NOT_RUN, f"{line.column} was not run")
        if line.unit not in SHARES:
            return Verdict(NOT_RUN, f"{task} was run, but there is no interval of a number in {line.unit}")
        run = self._run_line(line)
        if isinstance(run, str):
            return Verdict(NOT_RUN, run)
        under = self.runs.protocol(run[0], task)
        if differs := difference(line.made_under, line.column, under):
            return Verdict(NOT_RUN, f"other protocol: {differs}")
        value, interval = self.runs.measured(run, line.column, task)
        span = self.table.span(
            line, hundred=True, like=lambda other: not difference(other.made_under, other.column, under)
        )
        verdict = score_verdict(line.hundred, value, interval, span)
        why = f"measured {value:.1f} ({interval[0]:.1f} to {interval[1]:.1f}) on {task}; {span.text}"
        why += f"; {both(line.made_under, under)}"
        return Verdict(verdict, why, measured=value, measure=f"% of {task}, {without_seed(run[1][0])}", run=run[0])

    def _beside_pocket(self, line: PrintedNumber) -> Verdict:
        """Another model was run: only the direction."""
        if line.method == VANILLA:
            return Verdict(NOT_RUN, "the whole model itself was not run, and pocket's score is no match for its own")
        tasks = self.runs.tasks(line.column)
        if not tasks:
            short = "was not run" if benchmark_tasks().get(line.column) else "has no counterpart among pocket's tasks"
            return Verdict(NOT_RUN, f"{line.column} {short}")
        run = self._run_line(line)
        if isinstance(run, str):
            return Verdict(NOT_RUN, run)
        sign, sign_text = self._sign(line, run, tasks)
        orders = self._orders(line, run, tasks)
        decided = [order for order in orders if order is not None]
        order_text = (
            f"order as printed in {sum(decided)} of {len(decided)} decided pairs" if decided else "no pair decided"
        )
        why = f"{sign_text}; {order_text if orders else 'no other method of the table was run'}"
        verdict = direction_verdict(sign, orders)
        if verdict == NOT_RUN:
            why = f"pocket decides too little: {why}"
        share = 100 * self.runs.relative(run, tasks)
        which = "all tasks" if line.column in AVERAGES else " and ".join(tasks)
        measure = f"% of pocket's whole model, {which}, {without_seed(run[1][0])}"
        return Verdict(verdict, why, measured=share, measure=measure, run=run[0])

    def _sign(self, line: PrintedNumber, run: Line, tasks: Sequence[str]) -> tuple[bool | None, str]:
        """`same_sign` and its sentence."""
        mean, (low, high) = self.runs.difference(run, self.runs.whole, tasks)
        pocket = f"pocket {100 * mean:+.1f} ({100 * low:.1f} to {100 * high:.1f})"
        whole = self.table.whole(line)
        if whole is None:
            return None, f"no whole model in the table, {pocket} points to its own"
        change = line.hundred - whole
        same = same_sign(change, (low, high))
        word = {True: "same sign", False: "other sign", None: "sign undecided"}[same]
        return same, f"{word}: print {change:+.1f} points to the whole model, {pocket}"

    def _orders(self, line: PrintedNumber, run: Line, tasks: Sequence[str]) -> list[bool | None]:
        """`same_order` with each line of the block whose method was run."""
        orders = []
        for other in self.table.block(line):
            other_run = self._run_line(other)
            if not isinstance(other_run, str) and other.is_number:
                _, interval = self.runs.difference(run, other_run, tasks)
                orders.append(same_order(line.hundred - other.hundred, interval))
        return orders

    def _run_line(self, line: PrintedNumber) -> Line | str:
        """The run and the budgets that stand for a printed line, or why there are none."""
        if line.method != VANILLA and not line.name:
            return f"{line.method} has no file in conf/method"
        if line.label:
            return f"a variant of {line.method}, not the method as it is"
        if line.method == VANILLA:
            return self.runs.whole
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
