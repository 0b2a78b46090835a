"""Where each method stands beside random at equal budgets: the numbers of the methods' page."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from thinsight.errors import UserError
from thinsight.resampled import Resampled, Score
from thinsight.results import cells, drawn

ABOVE, INSIDE, BELOW = "above", "inside", "below"
MEAN = "mean"  # what stands for all tasks among the tasks
COST = "profiler"  # the FLOPs convention


def standing(
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
    sampled, whole, out = Resampled(rows), cells(results, base), []
    curve = _curve(results, sampled, base, control)
    for keep in keeps:
        random = [sampled.score(control, [budget]) for budget in budgets_at(results, control, keep)]
        if not random:
            raise UserError(f"run {control} has no budget keep={keep}, so nothing can be compared with it")
        for run in results["run"].unique():
            budgets = budgets_at(results, run, keep)
            if not budgets:
                continue
            found = cells(results, run)
            found = found[found["budget"].isin(budgets)].groupby("task", sort=False).mean(numeric_only=True)
            own = [sampled.score(run, [budget]) for budget in budgets]
            line = {"keep": keep, "run": run, "budget": drawn(budgets[0])}
            for number, task in enumerate(sampled.tasks):
                low, high = found.loc[task, ["low", "high"]]
                score = _beside([s.task(number) for s in own], [s.task(number) for s in random], low, high)
                out.append({**line, "task": task, **score})
            costs, score = _costs(found, whole), sampled.score(run, budgets)
            line |= {"task": MEAN, **_beside(own, random, *score.interval()), **costs}
            out.append(line | _equal(score, costs["flops"], curve))
    return pd.DataFrame(out)


def points(results: pd.DataFrame, rows: pd.DataFrame, base: str = "plain") -> pd.DataFrame:
    """One line per run and budget, seeds averaged: FLOPs, and the mean over tasks of the score, relative to ``base``.

    run, budget, flops, score, low, high (bootstrap); least, most: the seeds' lowest and highest score.
    """
    sampled, whole = Resampled(rows), cells(results, base)
    reference, out = sampled.score(base, ["fixed"]), []
    for run in results["run"].unique():
        own = cells(results, run)
        for label, part in own.groupby(own["budget"].map(drawn), sort=False):
            budgets = list(part["budget"].unique())
            score = sampled.score(run, budgets).over(reference)
            each = [sampled.score(run, [budget]).over(reference).mean for budget in budgets]
            low, high = score.interval()
            costs = _costs(part.groupby("task", sort=False).mean(numeric_only=True), whole)
            line = {"run": run, "budget": label, "flops": costs["flops"], "score": score.mean}
            out.append(line | {"low": low, "high": high, "least": min(each), "most": max(each)})
    return pd.DataFrame(out)


def budgets_at(results: pd.DataFrame, run: str, keep: float) -> list[str]:
    """The budgets of ``run`` that stand for ``keep``: several are seeds, none means that it has no such budget."""
    own = cells(results, run)
    fields = {
        budget: dict(part.split("=") for part in budget.split(","))
        for budget in own["budget"].unique()
        if "=" in budget
    }
    if any("keep" in of for of in fields.values()):
        return [budget for budget, of in fields.items() if _number(of.get("keep")) == keep]
    layered = [budget for budget, of in fields.items() if set(of) == {"layer"}]
    if not layered:
        return []
    share = own[own["budget"].isin(layered)].assign(share=own["visual"] / own["picture"])
    return [(share.groupby("budget")["share"].mean() - keep).abs().idxmin()]


def shared_budgets(results: pd.DataFrame) -> list[float]:
    """The values of ``keep`` that every run with that field has, largest first."""
    found = []
    for _, own in results.groupby("run"):
        fields = [
            dict(part.split("=") for part in budget.split(",") if "=" in part) for budget in own["budget"].unique()
        ]
        if values := {_number(of["keep"]) for of in fields if "keep" in of} - {None}:
            found.append(values)
    shared = set.intersection(*found) if found else set()
    if not shared:
        raise UserError("the runs have no budget keep=... in common: give them the sweep 'budgets' of one preset")
    return sorted(shared, reverse=True)


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
    found, whole = [(1.0, sampled.score(base, ["fixed"]))], cells(results, base)
    own = cells(results, control)
    for _, part in own.groupby(own["budget"].map(drawn)):
        costs = _costs(part.groupby("task", sort=False).mean(numeric_only=True), whole)
        found.append((costs["flops"], sampled.score(control, list(part["budget"].unique()))))
    return sorted(found, key=lambda pair: pair[0])


def _costs(found: pd.DataFrame, whole: pd.DataFrame) -> dict[str, float]:
    """Means over tasks; ``found`` has a line for each of them."""
    all_of = whole.set_index("task").loc[found.index]
    shares = {"flops": (found[COST] / all_of[COST]).mean(), "kv": (found["kv_bytes"] / all_of["kv_bytes"]).mean()}
    return {name: found[name].mean() for name in ("kept", "visual", "picture", "layer")} | shares


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
