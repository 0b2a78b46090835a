"""A printed score beside a run: of that very model, or of pocket, which can only say which way it goes."""

from collections.abc import Sequence

from thinsight import verdict as rule
from thinsight.kin import AVERAGES, POCKET, Runs, benchmarks, kin
from thinsight.lines import VANILLA, Line, Prints
from thinsight.results import drawn
from thinsight.verdict import NOT_RUN, Finding

SHARES = ("%", "fraction", "F1")
"""Units of a share of right answers."""


class Scored:
    """What can be said of the scores among ``prints`` from ``runs``."""

    def __init__(self, prints: Prints, runs: Runs) -> None:
        self.prints, self.runs = prints, runs

    def finding(self, line: Line) -> Finding | None:
        """The verdict on a printed score; None if the line is none."""
        if not line.is_score:
            return None
        if line.number != line.number:
            return Finding(NOT_RUN, "no single number is printed")
        if self.runs.model == POCKET:
            return self._beside_pocket(line)
        if slug(line.model) != self.runs.model:
            return Finding(NOT_RUN, f"{line.model or 'its model'} was not run; {self.runs.model} was")
        return self._of_the_model(line)

    def _of_the_model(self, line: Line) -> Finding:
        """That very model was run: printed against measured."""
        task = benchmarks().get(line.column)
        if task is None or task not in self.runs.all_tasks:
            return Finding(NOT_RUN, f"{line.column} was not run")
        if line.unit not in SHARES:
            return Finding(NOT_RUN, f"{task} was run, but there is no interval of a number in {line.unit}")
        place = self._place(line)
        if isinstance(place, str):
            return Finding(NOT_RUN, place)
        run, budgets = place
        value, interval = self.runs.measured(run, budgets, line.column, task)
        span = self.prints.span(line, hundred=True)
        said = rule.score(line.hundred, value, interval, span)
        why = f"measured {value:.1f} ({interval[0]:.1f} to {interval[1]:.1f}) on {task}; {span.text}"
        return Finding(said, why, measured=value, measure=f"% of {task}, {drawn(budgets[0])}", run=run)

    def _beside_pocket(self, line: Line) -> Finding:
        """Another model was run: only the direction."""
        if line.method == VANILLA:
            return Finding(NOT_RUN, "the whole model itself was not run, and pocket's score is no match for its own")
        tasks = self.runs.tasks(line.column)
        if not tasks:
            short = "was not run" if kin().get(line.column) else "has no kin among pocket's tasks"
            return Finding(NOT_RUN, f"{line.column} {short}")
        place = self._place(line)
        if isinstance(place, str):
            return Finding(NOT_RUN, place)
        run, budgets = place
        same, told = self._sign(line, place, tasks)
        pairs = self._orders(line, place, tasks)
        decided = [pair for pair in pairs if pair is not None]
        order = f"order as printed in {sum(decided)} of {len(decided)} decided pairs" if decided else "no pair decided"
        order = order if pairs else "no other method of the table was run"
        relative = 100 * self.runs.relative(run, budgets, tasks)
        on = "all tasks" if line.column in AVERAGES else " and ".join(tasks)
        measure = f"% of pocket's whole model, {on}, {drawn(budgets[0])}"
        said = rule.direction(same, pairs)
        why = f"pocket decides too little: {told}; {order}" if said == NOT_RUN else f"{told}; {order}"
        return Finding(said, why, measured=relative, measure=measure, run=run)

    def _sign(self, line: Line, place: tuple[str, Sequence[str]], tasks: Sequence[str]) -> tuple[bool | None, str]:
        """`verdict.sign` and its sentence."""
        mean, interval = self.runs.difference(place, None, tasks)
        pocket = f"pocket {100 * mean:+.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
        whole = self.prints.whole(line)
        if whole is None:
            return None, f"no whole model in the table, {pocket} points to its own"
        change = line.hundred - whole
        same = rule.sign(change, interval)
        word = {True: "same sign", False: "other sign", None: "sign undecided"}[same]
        return same, f"{word}: print {change:+.1f} points to the whole model, {pocket}"

    def _orders(self, line: Line, place: tuple[str, Sequence[str]], tasks: Sequence[str]) -> list[bool | None]:
        """`verdict.order` with each line of the block whose method was run."""
        found = []
        for other in self.prints.block(line):
            beside = self._place(other)
            if not isinstance(beside, str) and other.number == other.number:
                _, interval = self.runs.difference(place, beside, tasks)
                found.append(rule.order(line.hundred - other.hundred, interval))
        return found

    def _place(self, line: Line) -> tuple[str, list[str]] | str:
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


def slug(model: str) -> str:
    """A printed model's name as a file of ``conf/model`` would be called."""
    return model.lower().replace("-", "_").replace(".", "_")
