"""Runs compared: with the whole model, with random tokens at the same budget, corrected for many tests."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from thinsight.analysis.results import FLOPS, budgets_at, score_cells, without_seed
from thinsight.errors import UserError
from thinsight.stats import Resampled, Score, holm, mcnemar, paired


def compare(
    results: pd.DataFrame, rows: pd.DataFrame, lines: Mapping[str, tuple[str, Sequence[str]]], base: str
) -> pd.DataFrame:
    """The table of a page. ``lines``: label -> (run, its budgets); several budgets are seeds and are averaged.

    One row per label and task: accuracy, its spread over seeds, its difference to the line ``base`` on the same
    questions with a paired interval (means over seeds) and McNemar's p (the median seed's), and the costs.
    """
    out = []
    for label, (run, budgets) in lines.items():
        for task in results["task"].unique():
            found = [_one(results, run, budget, task) for budget in budgets]
            ours = [_correct(rows, run, budget, task) for budget in budgets]
            whole = _correct(rows, lines[base][0], lines[base][1][0], task)
            against = [paired(own, whole) for own in ours]
            out.append(
                {
                    "line": label,
                    "task": task,
                    "accuracy": np.mean([f["accuracy"] for f in found]),
                    "spread": np.ptp([f["accuracy"] for f in found]),
                    "difference": np.mean([a.difference for a in against]),
                    "low": np.mean([a.low for a in against]),
                    "high": np.mean([a.high for a in against]),
                    "p": np.median([a.p for a in against]),
                    **{name: np.mean([f[name] for f in found]) for name in (*FLOPS, "kv_bytes", "visual")},
                }
            )
    return pd.DataFrame(out)


def score_flops_frontier(results: pd.DataFrame, rows: pd.DataFrame, base: str, resamples: int = 1000) -> pd.DataFrame:
    """Score and FLOPs of every run and budget relative to the run ``base``, the mean over tasks of the ratios, seeds
    averaged; intervals by a paired bootstrap over the questions of each task."""
    rng = np.random.default_rng(0)
    right = {key: part.set_index("id")["correct"] for key, part in rows.groupby(["run", "budget", "task"])}
    tasks = list(results["task"].unique())
    ids = {task: sorted(right[base, "fixed", task].index) for task in tasks}
    draws = {task: rng.integers(len(ids[task]), size=(resamples, len(ids[task]))) for task in tasks}
    whole = {task: right[base, "fixed", task].loc[ids[task]].to_numpy(float) for task in tasks}
    out = []
    for (run, label), group in results.assign(label=results["budget"].map(without_seed)).groupby(["run", "label"]):
        ratios, boots, costs = [], [], []
        for (budget, task), line in group.groupby(["budget", "task"]):
            own = right[run, budget, task].loc[ids[task]].to_numpy(float)
            ratios.append(own.mean() / whole[task].mean())
            boots.append(own[draws[task]].mean(1) / whole[task][draws[task]].mean(1))
            all_of = results[(results["run"] == base) & (results["task"] == task)]
            costs.append(line["profiler"].iloc[0] / all_of["profiler"].iloc[0])
        low, high = np.quantile(np.mean(boots, axis=0), [0.025, 0.975])
        line = {
            "run": run,
            "budget": label,
            "flops": np.mean(costs),
            "score": np.mean(ratios),
            "low": low,
            "high": high,
        }
        out.append(line)
    return pd.DataFrame(out)


def _one(results: pd.DataFrame, run: str, budget: str, task: str) -> pd.Series:
    part = score_cells(results, run, budget)
    return part[part["task"] == task].iloc[0]


def _correct(rows: pd.DataFrame, run: str, budget: str, task: str) -> dict[str, bool]:
    part = score_cells(rows, run, budget)
    part = part[part["task"] == task]
    return dict(zip(part["id"], part["correct"], strict=True))


ABOVE, INSIDE, BELOW = "above", "inside", "below"


MEAN = "mean"  # what stands for all tasks among the tasks


COST = "profiler"  # the FLOPs convention


def against_random(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain", control: str = "random"
) -> pd.DataFrame:
    """One line per budget, run and task, and for the mean over tasks: the score beside the ``control``'s.

    keep, run, budget, task; accuracy, low, high (Wilson; bootstrap for the mean)
    difference, least, most   to the control's mean over seeds, with a paired 95 % bootstrap interval over questions
    verdict                   "inside" random's spread: between its seeds' lowest and highest score, or an interval that
                              holds zero; else "above" or "below"; a run of several draws is outside if all of them are
    equal_flops, equal_least, equal_most   the mean's difference to the control at the same FLOPs instead of the same
                              ``keep``: straight lines between its budgets and the whole model; NaN out of its range
    kept, visual, picture     visual tokens left in the end, entering a layer on average, in the prompt
    layer                     the first one that the picture does not reach whole, if it is the same for all rows
    flops, kv                 prefill FLOPs and cache as shares of ``base``

    Where a budget was run with several seeds, low and high are their lowest and highest score. A run without the field
    ``keep`` that was swept over layers stands with the layer whose average is nearest.
    """
    sampled, whole, out = Resampled(rows), score_cells(results, base), []
    curve = _curve(results, sampled, base, control)
    for keep in keeps:
        random = [sampled.score(control, [budget]) for budget in budgets_at(results, control, keep)]
        if not random:
            raise UserError(f"run {control} has no budget keep={keep}, so nothing can be compared with it")
        for run in results["run"].unique():
            budgets = budgets_at(results, run, keep)
            if not budgets:
                continue
            found = score_cells(results, run)
            found = found[found["budget"].isin(budgets)].groupby("task", sort=False).mean(numeric_only=True)
            own = [sampled.score(run, [budget]) for budget in budgets]
            line = {"keep": keep, "run": run, "budget": without_seed(budgets[0])}
            for number, task in enumerate(sampled.tasks):
                low, high = found.loc[task, ["low", "high"]]
                score = _beside([s.task(number) for s in own], [s.task(number) for s in random], low, high)
                out.append({**line, "task": task, **score})
            costs, score = _costs(found, whole), sampled.score(run, budgets)
            line |= {"task": MEAN, **_beside(own, random, *score.interval()), **costs}
            out.append(line | _equal(score, costs["flops"], curve))
    return pd.DataFrame(out)


def relative_points(results: pd.DataFrame, rows: pd.DataFrame, base: str = "plain") -> pd.DataFrame:
    """One line per run and budget, seeds averaged: FLOPs, and the mean over tasks of the score, relative to ``base``.

    run, budget, flops, score, low, high (bootstrap); least, most: the seeds' lowest and highest score.
    """
    sampled, whole = Resampled(rows), score_cells(results, base)
    reference, out = sampled.score(base, ["fixed"]), []
    for run in results["run"].unique():
        own = score_cells(results, run)
        for label, part in own.groupby(own["budget"].map(without_seed), sort=False):
            budgets = list(part["budget"].unique())
            score = sampled.score(run, budgets).over(reference)
            each = [sampled.score(run, [budget]).over(reference).mean for budget in budgets]
            low, high = score.interval()
            costs = _costs(part.groupby("task", sort=False).mean(numeric_only=True), whole)
            line = {"run": run, "budget": label, "flops": costs["flops"], "score": score.mean}
            out.append(line | {"low": low, "high": high, "least": min(each), "most": max(each)})
    return pd.DataFrame(out)


def _beside(own: Sequence[Score], random: Sequence[Score], low: float, high: float) -> dict[str, object]:
    """A run's seeds beside the control's, on one task or on the mean of all; ``low`` and ``high`` for a single seed."""
    if len(own) > 1:
        low, high = min(s.mean for s in own), max(s.mean for s in own)
    score, other = _seeds(own), _seeds(random)
    difference = score.minus(other)
    least, most = difference.interval()
    verdict = INSIDE
    if least > 0 and min(s.mean for s in own) > max(s.mean for s in random):
        verdict = ABOVE
    elif most < 0 and max(s.mean for s in own) < min(s.mean for s in random):
        verdict = BELOW
    found = {"accuracy": score.mean, "low": low, "high": high}
    return found | {"difference": difference.mean, "least": least, "most": most, "verdict": verdict}


def _seeds(scores: Sequence[Score]) -> Score:
    """Their mean."""
    return Score(*(np.mean(parts, axis=0) for parts in zip(*scores, strict=True)))


def _equal(score: Score, flops: float, curve: Sequence[tuple[float, Score]]) -> dict[str, float]:
    """The difference to the control at ``flops``, between the two of its budgets that lie around."""
    for (less, first), (more, then) in pairwise(curve):
        if less <= flops <= more:
            part = (flops - less) / (more - less)
            between = Score(*(a + part * (b - a) for a, b in zip(first, then, strict=True)))
            found = score.minus(between)
            least, most = found.interval()
            return {"equal_flops": found.mean, "equal_least": least, "equal_most": most}
    return dict.fromkeys(("equal_flops", "equal_least", "equal_most"), np.nan)


def _curve(results: pd.DataFrame, sampled: Resampled, base: str, control: str) -> list[tuple[float, Score]]:
    """FLOPs and score of the control at each of its budgets, and of the whole model, by FLOPs."""
    found, whole = [(1.0, sampled.score(base, ["fixed"]))], score_cells(results, base)
    own = score_cells(results, control)
    for _, part in own.groupby(own["budget"].map(without_seed)):
        costs = _costs(part.groupby("task", sort=False).mean(numeric_only=True), whole)
        found.append((costs["flops"], sampled.score(control, list(part["budget"].unique()))))
    return sorted(found, key=lambda pair: pair[0])


def _costs(found: pd.DataFrame, whole: pd.DataFrame) -> dict[str, float]:
    """Means over tasks; ``found`` has a line for each of them."""
    all_of = whole.set_index("task").loc[found.index]
    shares = {"flops": (found[COST] / all_of[COST]).mean(), "kv": (found["kv_bytes"] / all_of["kv_bytes"]).mean()}
    return {name: found[name].mean() for name in ("kept", "visual", "picture", "layer")} | shares


LEVEL = 0.05  # the chance of a false difference that a comparison, or all of them together, may have


OPPONENTS = ("random", "whole")


SINGLE = "single tasks"


def comparisons(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain", control: str = "random"
) -> pd.DataFrame:
    """One line per budget, run and task, and for all questions together (task "mean").

    keep, run, budget, task, n  what is compared, on how many questions
    accuracy                    the mean over seeds, and over tasks
    relative, low, high         the score as a share of ``base``'s, the mean of the tasks' shares; paired bootstrap
    random, whole               difference of accuracies to ``control`` at the same ``keep``, and to ``base``, with
    ..._low, ..._high           a paired bootstrap interval over questions,
    ..._p                       McNemar's exact p on the same questions: with several seeds the largest of all pairs,
                                and 1 if they do not agree in direction
    ..._fdr, ..._holm           p adjusted by Benjamini and Hochberg, and by Holm, for all comparisons of this table
                                that are of its kind: those of all questions, or those of single tasks
    """
    sampled, right = Resampled(rows), _right(rows)
    whole, out = sampled.score(base, ["fixed"]), []
    for keep, run in product(keeps, results["run"].unique()):
        budgets = budgets_at(results, run, keep)
        if not budgets or run == base:
            continue
        others = {"random": (control, budgets_at(results, control, keep)), "whole": (base, ["fixed"])}
        score = sampled.score(run, budgets)
        for task in (*sampled.tasks, MEAN):
            at = slice(None) if task == MEAN else [sampled.tasks.index(task)]
            part = right[task]
            own = type(score)(score.point[at], score.boots[:, at])
            share = score.over(whole)
            share = type(score)(share.point[at], share.boots[:, at])
            low, high = share.interval()
            line = {
                "keep": keep,
                "run": run,
                "budget": without_seed(budgets[0]),
                "task": task,
                "n": len(part[base, "fixed"]),
            }
            line |= {"accuracy": own.mean, "relative": share.mean, "low": low, "high": high}
            for name, (other, theirs) in others.items():
                if other == run:
                    line |= dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_p"), np.nan)
                    continue
                beside = sampled.score(other, theirs)
                difference = own.minus(type(score)(beside.point[at], beside.boots[:, at]))
                low, high = difference.interval()
                p = _p([_split(part, (run, a), (other, b)) for a, b in product(budgets, theirs)])
                line |= {name: difference.mean, f"{name}_low": low, f"{name}_high": high, f"{name}_p": p}
            out.append(line)
    return _corrected(pd.DataFrame(out))


def survivors(table: pd.DataFrame) -> pd.DataFrame:
    """How many differences of `comparisons` are left: a line per kind ("mean", "single tasks") and opponent.

    kind, against, comparisons; nominal, fdr, holm: those below `LEVEL` without and with correction; better, worse: of
    those that survive Holm, the method's direction.
    """
    out = []
    for (kind, part), name in product(_kinds(table), OPPONENTS):
        part = part[part[f"{name}_p"].notna()]
        sure = part[part[f"{name}_holm"] < LEVEL]
        line = {"kind": kind, "against": name, "comparisons": len(part)}
        line |= {"nominal": int((part[f"{name}_p"] < LEVEL).sum()), "fdr": int((part[f"{name}_fdr"] < LEVEL).sum())}
        line |= {"holm": len(sure), "better": int((sure[name] > 0).sum()), "worse": int((sure[name] < 0).sum())}
        out.append(line)
    return pd.DataFrame(out)


def _kinds(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(MEAN, table[table["task"] == MEAN]), (SINGLE, table[table["task"] != MEAN])]


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    columns = [f"{name}_p" for name in OPPONENTS]
    for _, part in _kinds(table):
        asked = part[columns].to_numpy()
        there = ~np.isnan(asked)
        for ending, adjust in {"fdr": false_discovery_control, "holm": holm}.items():
            adjusted = np.full(asked.shape, np.nan)
            if there.any():
                adjusted[there] = adjust(asked[there])
            for number, name in enumerate(OPPONENTS):
                table.loc[part.index, f"{name}_{ending}"] = adjusted[:, number]
    return table


def _right(rows: pd.DataFrame) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """task, or "mean" for all -> (run, budget) -> for each question whether its answer is more than half right."""
    wide = rows.pivot(index=["task", "id"], columns=["run", "budget"], values="correct") > 0.5
    parts = dict(list(wide.groupby(level="task", sort=False))) | {MEAN: wide}
    return {task: dict(zip(wide.columns, part.to_numpy().T, strict=True)) for task, part in parts.items()}


def _split(
    right: dict[tuple[str, str], np.ndarray], first: tuple[str, str], second: tuple[str, str]
) -> tuple[int, int]:
    """On how many questions only the first, and only the second, is right."""
    a, b = right[first], right[second]
    return int((a & ~b).sum()), int((b & ~a).sum())


def _p(splits: Sequence[tuple[int, int]]) -> float:
    """The largest p of several draws: what is said to differ must differ from each of them, in one direction."""
    if len({np.sign(first - second) for first, second in splits}) > 1:
        return 1.0
    return max(mcnemar(first, second) for first, second in splits)


def scores_by_kind(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    keeps: Sequence[float],
    base: str = "plain",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One line per budget, run, task and kind of its questions.

    keep, run, task, kind, n   what was asked, and how many questions
    whole, accuracy            the score of ``base`` and of the run, seeds averaged
    change, low, high          their difference on the same questions, with a paired bootstrap interval
    """
    rng, out = np.random.default_rng(seed), []
    lines = [(keep, run, of) for keep in keeps for run in results["run"].unique()
             if (of := budgets_at(results, run, keep)) and run != base]  # fmt: skip
    for (task, kind), part in rows.groupby(["task", "kind"], sort=False):
        right = part.pivot(index="id", columns=["run", "budget"], values="correct").astype(float)
        n, whole = len(right), right[base, "fixed"].to_numpy()
        answered = dict(zip(right.columns, right.to_numpy().T, strict=True))
        draws = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
        for keep, run, budgets in lines:
            own = np.mean([answered[run, budget] for budget in budgets], axis=0)
            low, high = np.quantile(draws @ (own - whole), [0.025, 0.975])
            line = {"keep": keep, "run": run, "task": task, "kind": kind, "n": n, "whole": whole.mean()}
            line |= {"accuracy": own.mean(), "change": (own - whole).mean(), "low": low, "high": high}
            out.append(line)
    return pd.DataFrame(out)


def kind_changes(table: pd.DataFrame) -> pd.DataFrame:
    """Mean change by task and kind over the runs of a `scores_by_kind` frame, the largest loss first."""
    means = table.groupby(["task", "kind"], sort=False, as_index=False)["change"].mean()
    return means.sort_values("change", kind="stable", ignore_index=True)


SPREAD_MARKS = {INSIDE: "○", BELOW: "▾"}
