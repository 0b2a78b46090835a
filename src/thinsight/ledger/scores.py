"""A printed score beside a run of the same model."""

from dataclasses import replace
from functools import cache
from statistics import fmean

import pandas as pd

from thinsight.analysis.comparisons import Line
from thinsight.analysis.results import budgets_at, score_cells, without_seed
from thinsight.analysis.runs import MAIN
from thinsight.evaluation.budget import FIXED
from thinsight.ledger.counting import shape_of
from thinsight.ledger.lines import (
    VANILLA,
    PrintedNumber,
    PrintedTable,
    SettingKey,
    judges,
    slug,
    task_benchmarks,
)
from thinsight.ledger.protocols import RunProtocol, both, difference, same
from thinsight.ledger.published import POCKET
from thinsight.ledger.verdicts import NEEDS, SCORE, Verdict, score_verdict

SHARES = ("%", "fraction", "F1")
"""Units of a share of right answers."""
Interval = tuple[float, float]


class RunScores:
    """The runs of the group main of one model.

    budgets  (run, `SettingKey`) -> the budgets that stand for a setting: several are seeds, none means not run so
    """

    def __init__(self, results: pd.DataFrame, answers: pd.DataFrame) -> None:
        results = results[results["run"].isin(answers["run"])]  # a run without its answers counts as not run
        self.results = results[results["group"] == MAIN] if "group" in results else results
        self.model = str(results["model"].iloc[0]) if len(results) else POCKET
        self.whole: Line = ("plain", (FIXED,))
        self._runs = {m: list(part["run"].unique()) for m, part in self.results.groupby("method", sort=False)}
        self.budgets = cache(self._budgets)

    def run_of(self, method: str) -> str | None:
        """The run of a method of ``conf/method``: the one with its name, or else its first."""
        runs = self._runs.get(method, [])
        return method if method in runs else runs[0] if runs else None

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """Every task that was run."""
        return tuple(self.results["task"].unique())

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

    def _budgets(self, run: str, setting: SettingKey) -> tuple[str, ...]:
        if setting.keep is not None:
            return tuple(budgets_at(self.results, run, round(setting.keep, 4)))
        if setting.layer is None:
            return ()
        budget = f"layer={round(setting.layer * shape_of(self.model).layers)}"
        return (budget,) if budget in set(score_cells(self.results, run)["budget"]) else ()


class ScoreComparison:
    """What can be said of the scores in ``table`` from ``runs``."""

    def __init__(self, table: PrintedTable, runs: RunScores) -> None:
        self.table, self.runs = table, runs

    def verdict(self, line: PrintedNumber) -> Verdict:
        """The verdict on a printed score: printed against measured, if that very model was run by the same protocol."""
        if slug(line.model) != self.runs.model:
            return _needs(f"{line.model or 'its model'} was not run")
        if not line.is_score:
            return _needs(f"{line.column} was not measured")
        if not line.is_number:
            return _needs("no single number is printed")
        named = task_benchmarks().get(line.column)
        task = line.made_under.tasks.get(line.column, named)
        if task not in self.runs.all_tasks:
            task = named
        if judge := judges().get(line.column):
            return _needs(f"{line.column} is scored by a judge, {judge}: only answers are written for it here")
        if task is None or task not in self.runs.all_tasks:
            return _needs(f"{line.column} was not run")
        if line.unit not in SHARES:
            return _needs(f"{task} was run, but there is no interval of a number in {line.unit}")
        run = self._run_line(line)
        if isinstance(run, str):
            return _needs(run)
        under = self.runs.protocol(run[0], task)
        if differs := difference(line.made_under, line.column, under):
            return _needs(f"other protocol: {differs}")
        value, interval = self.runs.measured(run, line.column, task)
        found = f"measured {value:.1f} ({interval[0]:.1f} to {interval[1]:.1f}) on {task}"
        verdict = Verdict(
            SCORE, NEEDS, found, measured=value, measure=f"% of {task}, {without_seed(run[1][0])}", run=run[0]
        )
        if not same(line.made_under, under):
            return replace(verdict, why=f"{found}, {both(line.made_under, under)}: no verdict")
        span = self.table.span(line, lambda other: same(other.made_under, under))
        why = f"{found}; {span.text}; {both(line.made_under, under)}"
        return replace(verdict, verdict=score_verdict(line.hundred, value, interval, span), why=why)

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


def _needs(why: str) -> Verdict:
    return Verdict(SCORE, NEEDS, why)
