"""Runs compared on the same questions: with the whole model, with random tokens at the same budget, with one another.

`compare` is the comparison of lines with a base. `compare_methods` puts every method at every budget together,
corrected for many tests; `scores_by_kind` goes by kinds of questions; `against_random` adds the spread of random's
draws; `relative_points` has score and cost as shares of the whole model's.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from thinsight.analysis.results import FLOPS, budgets_at, score_cells, without_seed
from thinsight.errors import UserError
from thinsight.evaluation.budget import FIXED
from thinsight.stats import Bootstrap, ResampledScore, discordant, holm, mcnemar

MEAN = "mean"  # what stands for all tasks among the tasks
COST = "profiler"  # the FLOPs convention
ABOVE, INSIDE, BELOW = "above", "inside", "below"
SPREAD_MARKS = {INSIDE: "○", BELOW: "▾"}
LEVEL = 0.05  # the chance of a false difference that a comparison, or all of them together, may have
OPPONENTS = ("random", "whole")
SINGLE = "single tasks"
Line = tuple[str, Sequence[str]]
"""A run and its budgets; several budgets are draws (seeds, phases) and are averaged."""


def compare(
    results: pd.DataFrame | None,
    rows: pd.DataFrame,
    lines: Mapping[Hashable, Line],
    base: Hashable | Mapping[Hashable, Hashable],
) -> pd.DataFrame:
    """Each of ``lines`` (label -> run and budgets) with a base: a row per label and task, and for the mean over tasks.

    base     the label that all lines are compared with, or for each label its own
    results  where the costs are read; None: no costs

    line, task, n                        what is compared, on how many questions; task `MEAN` for all of them
    accuracy, spread                     the mean over draws, and the highest draw less the lowest
    accuracy_low, accuracy_high          95 % bootstrap interval over questions
    difference, low, high                of accuracies, line less base, with a paired interval
    p                                    McNemar's exact p on the same questions: with several draws the largest of all
                                         pairs, and 1 if they do not agree in direction
    share, share_low, share_high         the accuracy as a share of the base's, the mean of the tasks' shares
    fastv, profiler, kv_bytes, visual    costs, means over draws
    """
    bootstrap, out = Bootstrap(rows), []
    tasks = {task: [number] for number, task in enumerate(bootstrap.tasks)}
    tasks[MEAN] = list(range(len(tasks)))
    for label, line in lines.items():
        other = lines[base[label] if isinstance(base, Mapping) else base]
        score, reference = bootstrap.score(*line), bootstrap.score(*other)
        draws = [bootstrap.score(line[0], [budget]) for budget in line[1]]
        for task, numbers in tasks.items():
            part = score.select(numbers)
            compared = {
                "n": sum(bootstrap.counts[number] for number in numbers),
                "accuracy": part.mean,
                "spread": float(np.ptp([draw.select(numbers).mean for draw in draws])),
                **_named_interval(part, "accuracy_low", "accuracy_high"),
                **_difference(part, reference.select(numbers), "difference", "low", "high"),
                "p": _mcnemar(bootstrap, line, other, numbers),
                **_difference(part.over(reference.select(numbers)), None, "share", "share_low", "share_high"),
            }
            costs = {} if results is None else _line_costs(results, line, task)
            out.append({"line": label, "task": task, **compared, **costs})
    return pd.DataFrame(out)


def compare_methods(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain", control: str = "random"
) -> pd.DataFrame:
    """`compare` of every run with the whole model and with random tokens, corrected: one line per budget, run and task.

    keep, run, budget, task, n  what is compared, on how many questions; task "mean" for all of them together
    accuracy                    the mean over seeds, and over tasks
    relative, low, high         the score as a share of ``base``'s, the mean of the tasks' shares; paired bootstrap
    random, whole               difference of accuracies to ``control`` at the same ``keep``, and to ``base``, with
    ..._low, ..._high, ..._p    its interval and p
    ..._fdr, ..._holm           p adjusted by Benjamini and Hochberg, and by Holm, for all comparisons of this table
                                that are of its kind: those of all questions, or those of single tasks
    """
    lines: dict[Hashable, Line] = {base: (base, [FIXED])}
    for keep, run in product(keeps, results["run"].unique()):
        if run != base and (budgets := budgets_at(results, run, keep)):
            lines[keep, run] = (run, budgets)
    opponents = {"random": {label: label if label == base else (label[0], control) for label in lines}, "whole": base}
    out = None
    for name, opponent in opponents.items():
        table = compare(None, rows, lines, opponent)
        table = table[table["line"] != base].reset_index(drop=True)
        keep, run = (pd.Series([label[at] for label in table["line"]]) for at in (0, 1))
        if out is None:
            budgets = [without_seed(lines[label][1][0]) for label in table["line"]]
            out = pd.DataFrame({"keep": keep, "run": run, "budget": budgets}).join(table[["task", "n", "accuracy"]])
        columns = {"difference": name, "low": f"{name}_low", "high": f"{name}_high", "p": f"{name}_p"}
        itself = run.eq(control) if name == "random" else run.eq(base)
        out = out.join(table[list(columns)].rename(columns=columns).mask(itself))
    shares = table[["share", "share_low", "share_high"]].set_axis(["relative", "low", "high"], axis=1)
    first = ["keep", "run", "budget", "task", "n", "accuracy"]
    return _corrected(pd.concat([out[first], shares, out.drop(columns=first)], axis=1))


def survivors(table: pd.DataFrame) -> pd.DataFrame:
    """How many differences of `compare_methods` are left: a line per kind ("mean", "single tasks") and opponent.

    kind, against, comparisons; nominal, fdr, holm: those below `LEVEL` without and with correction; better, worse: of
    those that survive Holm, the method's direction.
    """
    out = []
    for (kind, part), name in product(_kinds(table), OPPONENTS):
        part = part[part[f"{name}_p"].notna()]
        nominal, fdr = (int((part[f"{name}_{ending}"] < LEVEL).sum()) for ending in ("p", "fdr"))
        sure = part.loc[part[f"{name}_holm"] < LEVEL, name]
        counts = {"nominal": nominal, "fdr": fdr, "holm": len(sure)}
        counts |= {"better": int((sure > 0).sum()), "worse": int((sure < 0).sum())}
        out.append({"kind": kind, "against": name, "comparisons": len(part), **counts})
    return pd.DataFrame(out)


def scores_by_kind(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain"
) -> pd.DataFrame:
    """One line per budget, run, task and kind of its questions.

    keep, run, task, kind, n   what was asked, and how many questions
    whole, accuracy            the score of ``base`` and of the run, seeds averaged
    change, low, high          their difference on the same questions, with a paired bootstrap interval
    """
    bootstrap, out = Bootstrap(rows.assign(task=list(zip(rows["task"], rows["kind"], strict=True)))), []
    whole = bootstrap.score(base, [FIXED])
    scores = {
        (keep, run): bootstrap.score(run, budgets)
        for keep, run in product(keeps, results["run"].unique())
        if run != base and (budgets := budgets_at(results, run, keep))
    }
    for number, ((task, kind), n) in enumerate(zip(bootstrap.tasks, bootstrap.counts, strict=True)):
        reference = whole.select([number])
        for (keep, run), score in scores.items():
            part = score.select([number])
            line = {"keep": keep, "run": run, "task": task, "kind": kind, "n": n, "whole": reference.mean}
            out.append(line | {"accuracy": part.mean} | _difference(part, reference, "change", "low", "high"))
    return pd.DataFrame(out)


def kind_changes(table: pd.DataFrame) -> pd.DataFrame:
    """Mean change by task and kind over the runs of a `scores_by_kind` frame, the largest loss first."""
    means = table.groupby(["task", "kind"], sort=False, as_index=False)["change"].mean()
    return means.sort_values("change", kind="stable", ignore_index=True)


def against_random(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain", control: str = "random"
) -> pd.DataFrame:
    """One line per budget, run and task, and for the mean over tasks: the score beside the ``control``'s.

    keep, run, budget, task; accuracy, low, high (Wilson; bootstrap for the mean)
    difference, least, most   to the control's mean over seeds, with a paired 95 % bootstrap interval over questions
    verdict                   "inside" random's spread: between its seeds' lowest and highest score, or an interval that
                              holds zero; else "above" or "below"; a run of several draws is outside if all of them are
    equal_flops, equal_least, equal_most   the mean's difference to the control at the same FLOPs, end to end, instead
                              of the same ``keep``: straight lines between its budgets and the whole model; NaN out of
                              its range
    kept, visual, picture     visual tokens left in the end, entering a layer on average, in the prompt
    layer                     the first one that the picture does not reach whole, if it is the same for all rows
    flops, end_to_end, kv     prefill FLOPs of the decoder, those from pixels on with the method's choice, and cache, as
                              shares of ``base``'s

    Where a budget was run with several seeds, low and high are their lowest and highest score. A run without the field
    ``keep`` that was swept over layers stands with the layer whose average is nearest.
    """
    bootstrap, whole, out = Bootstrap(rows), score_cells(results, base), []
    curve = _control_curve(results, bootstrap, base, control)
    for keep in keeps:
        random = [bootstrap.score(control, [budget]) for budget in budgets_at(results, control, keep)]
        if not random:
            raise UserError(f"run {control} has no budget keep={keep}, so nothing can be compared with it")
        for run in results["run"].unique():
            budgets = budgets_at(results, run, keep)
            if not budgets:
                continue
            cells = score_cells(results, run)
            cells = cells[cells["budget"].isin(budgets)].groupby("task", sort=False).mean(numeric_only=True)
            bounds = {task: (low, high) for task, low, high in cells[["low", "high"]].itertuples()}
            draws = [bootstrap.score(run, [budget]) for budget in budgets]
            line = {"keep": keep, "run": run, "budget": without_seed(budgets[0])}
            for number, task in enumerate(bootstrap.tasks):
                at_task = ([draw.select([number]) for draw in some] for some in (draws, random))
                out.append({**line, "task": task, **_beside_draws(*at_task, *bounds[task])})
            costs, score = _relative_costs(cells, whole), bootstrap.score(run, budgets)
            line |= {"task": MEAN, **_beside_draws(draws, random, *score.interval()), **costs}
            out.append(line | _at_equal_flops(score, costs["end_to_end"], curve))
    return pd.DataFrame(out)


def relative_points(results: pd.DataFrame, rows: pd.DataFrame, base: str = "plain") -> pd.DataFrame:
    """One line per run and budget, seeds averaged: FLOPs, and the mean over tasks of the score, relative to ``base``.

    run, budget, flops (decoder), end_to_end, score, low, high (bootstrap); least, most: the seeds' lowest and highest
    score.
    """
    bootstrap, whole = Bootstrap(rows), score_cells(results, base)
    reference, out = bootstrap.score(base, [FIXED]), []
    for run in results["run"].unique():
        for label, budgets, costs in _relative_flops(results, run, whole):
            score = bootstrap.score(run, budgets).over(reference)
            draws = [bootstrap.score(run, [budget]).over(reference).mean for budget in budgets]
            line = {"run": run, "budget": label, **costs, "score": score.mean}
            out.append(line | _named_interval(score, "low", "high") | {"least": min(draws), "most": max(draws)})
    return pd.DataFrame(out)


def _relative_flops(
    results: pd.DataFrame, run: str, whole: pd.DataFrame
) -> Iterator[tuple[str, list[str], dict[str, float]]]:
    """Each budget of ``run``: its label, the budgets that are draws of it, its FLOPs as shares of ``whole``'s, the
    decoder's and end to end."""
    cells = score_cells(results, run)
    for label, part in cells.groupby(cells["budget"].map(without_seed), sort=False):
        costs = _relative_costs(part.groupby("task", sort=False).mean(numeric_only=True), whole)
        yield label, list(part["budget"].unique()), {name: costs[name] for name in ("flops", "end_to_end")}


def _named_interval(score: ResampledScore, low: str, high: str) -> dict[str, float]:
    return dict(zip((low, high), score.interval(), strict=True))


def _difference(
    score: ResampledScore, other: ResampledScore | None, name: str, low: str, high: str
) -> dict[str, float]:
    """The mean of ``score``, less that of ``other`` if there is one, and its interval, under these names."""
    change = score if other is None else score.minus(other)
    return {name: change.mean, **_named_interval(change, low, high)}


def _mcnemar(bootstrap: Bootstrap, line: Line, other: Line, tasks: Sequence[int]) -> float:
    """The largest p of several draws: what is said to differ must differ from each of them, in one direction."""
    (run, budgets), (base, others) = line, other
    right = {budget: bootstrap.correct(base, budget, tasks) for budget in others}
    splits = [discordant(bootstrap.correct(run, a, tasks), right[b]) for a, b in product(budgets, others)]
    if len({np.sign(first - second) for first, second in splits}) > 1:
        return 1.0
    return max(mcnemar(first, second) for first, second in splits)


def _line_costs(results: pd.DataFrame, line: Line, task: Any) -> dict[str, float]:
    """Costs of a line on one task or, for `MEAN`, the mean over all."""
    cells = score_cells(results, line[0])
    cells = cells[cells["budget"].isin(line[1]) & ((cells["task"] == task) | (task == MEAN))]
    return {name: cells[name].mean() for name in (*FLOPS, "end_to_end", "kv_bytes", "visual")}


def _beside_draws(
    draws: Sequence[ResampledScore], random: Sequence[ResampledScore], low: float, high: float
) -> dict[str, Any]:
    """A run's draws beside the control's, on one task or on the mean of all; ``low`` and ``high`` for a single draw."""
    means, others = ([draw.mean for draw in some] for some in (draws, random))
    if len(draws) > 1:
        low, high = min(means), max(means)
    score = _mean_of(draws)
    change = score.minus(_mean_of(random))
    least, most = change.interval()
    above, below = least > 0 and min(means) > max(others), most < 0 and max(means) < min(others)
    verdict = ABOVE if above else BELOW if below else INSIDE
    line = {"accuracy": score.mean, "low": low, "high": high}
    return line | {"difference": change.mean, "least": least, "most": most, "verdict": verdict}


def _mean_of(draws: Sequence[ResampledScore]) -> ResampledScore:
    return ResampledScore(*(np.mean(parts, axis=0) for parts in zip(*draws, strict=True)))


def _control_curve(
    results: pd.DataFrame, bootstrap: Bootstrap, base: str, control: str
) -> list[tuple[float, ResampledScore]]:
    """FLOPs and score of the control at each of its budgets, and of the whole model, by FLOPs."""
    costs = _relative_flops(results, control, score_cells(results, base))
    points = [(flops["end_to_end"], bootstrap.score(control, budgets)) for _, budgets, flops in costs]
    return sorted([(1.0, bootstrap.score(base, [FIXED])), *points], key=lambda pair: pair[0])


def _at_equal_flops(
    score: ResampledScore, flops: float, curve: Sequence[tuple[float, ResampledScore]]
) -> dict[str, float]:
    """The difference to the control at ``flops``, between the two of its budgets that lie around."""
    names = ("equal_flops", "equal_least", "equal_most")
    for (less, first), (more, second) in pairwise(curve):
        if less <= flops <= more:
            part = (flops - less) / (more - less)
            between = ResampledScore(*(a + part * (b - a) for a, b in zip(first, second, strict=True)))
            return _difference(score, between, *names)
    return dict.fromkeys(names, np.nan)


def _relative_costs(cells: pd.DataFrame, whole: pd.DataFrame) -> dict[str, float]:
    """Means over tasks; ``cells`` has a line for each of them, as ``whole`` has for the whole model."""
    reference = whole.set_index("task").loc[cells.index]
    columns = {"flops": COST, "end_to_end": "end_to_end", "kv": "kv_bytes"}
    shares = {name: (cells[column] / reference[column]).mean() for name, column in columns.items()}
    return {name: cells[name].mean() for name in ("kept", "visual", "picture", "layer")} | shares


def _kinds(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(MEAN, table[table["task"] == MEAN]), (SINGLE, table[table["task"] != MEAN])]


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    columns = [f"{name}_p" for name in OPPONENTS]
    for _, part in _kinds(table):
        p = part[columns].to_numpy()
        known = ~np.isnan(p)
        for ending, adjust in {"fdr": false_discovery_control, "holm": holm}.items():
            adjusted = np.full(p.shape, np.nan)
            if known.any():
                adjusted[known] = adjust(p[known])
            for number, name in enumerate(OPPONENTS):
                table.loc[part.index, f"{name}_{ending}"] = adjusted[:, number]
    return table
