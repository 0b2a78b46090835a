"""How stable the order of methods is, and how much orders agree."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from thinsight.analysis.results import budgets_at
from thinsight.evaluation.budget import FIXED
from thinsight.stats import Bootstrap, percentile_interval

TASKS, BUDGETS = "tasks", "budgets"
COLUMNS = ("keep", "run", "budget", "rank", "mean", "low", "high", "first")
FINE = 9  # digits of a score; less is an error of rounding, not a difference


def rank_stability(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    keeps: Sequence[float],
    runs: Sequence[str],
    base: str = "plain",
    control: str = "random",
) -> pd.DataFrame:
    """One line per budget and run of ``runs``: its rank among them by the mean over tasks of the relative score.

    keep, run, budget, rank   1 is the best; equals share the middle of their ranks
    mean, low, high           over bootstrap resamples of the questions, 95 % interval
    first                     the share of resamples in which it is the best, or one of them

    ``control`` has a line per seed (``budget`` says which): the rank that it would take among ``runs``.
    """
    bootstrap, out = Bootstrap(rows), []
    reference = bootstrap.score(base, [FIXED])
    for keep in keeps:
        lines = {run: budgets for run in runs if (budgets := budgets_at(results, run, keep))}
        scores = [bootstrap.score(run, budgets).over(reference) for run, budgets in lines.items()]
        if not scores:
            continue
        points = np.round([score.mean for score in scores], FINE)
        replicates = np.round(np.stack([score.replicates.mean(1) for score in scores], axis=1), FINE)
        ranks, resampled = rankdata(-points), rankdata(-replicates, axis=1)
        for number, (run, budgets) in enumerate(lines.items()):
            best = replicates[:, number] >= replicates.max(1)
            line = {"keep": keep, "run": run, "budget": budgets[0], "rank": ranks[number]}
            out.append(line | _interval(resampled[:, number]) | {"first": best.mean()})
        for seed in budgets_at(results, control, keep):
            score = bootstrap.score(control, [seed]).over(reference)
            rank = _rank_among(np.array([round(score.mean, FINE)]), points[None])[0]
            resampled = _rank_among(np.round(score.replicates.mean(1), FINE), replicates)
            line = {"keep": keep, "run": control, "budget": seed, "rank": rank}
            out.append(line | _interval(resampled) | {"first": np.nan})
    return pd.DataFrame(out, columns=list(COLUMNS))


def rank_agreement(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], runs: Sequence[str], halves: int = 60
) -> pd.DataFrame:
    """Kendall's tau-b between the orders in which two tasks, or two budgets, put ``runs``.

    of        "tasks" (the mean over budgets of the tau at each) or "budgets" (by the mean over tasks)
    first, second, tau   a task or budget with itself: the mean tau of ``halves`` splits of its questions into halves,
              which is how well so few questions agree about the same thing; NaN if all runs score the same
    """
    right = rows.pivot(index=["task", "id"], columns=["run", "budget"], values="correct").astype(float)
    tasks = list(dict.fromkeys(rows["task"]))
    answered = {keep: _answered(right, results, keep, runs) for keep in keeps}
    means = {keep: {task: wide.loc[[task]].mean().to_numpy() for task in tasks} for keep, wide in answered.items()}
    over_tasks = {keep: np.mean(list(scores.values()), axis=0) for keep, scores in means.items()}
    split = {keep: _halves(wide, tasks, halves) for keep, wide in answered.items()}
    out = []
    for first, second in combinations(tasks, 2):
        taus = [_tau(means[keep][first], means[keep][second]) for keep in keeps]
        out.append({"of": TASKS, "first": first, "second": second, "tau": _mean(taus)})
    for number, task in enumerate(tasks):
        taus = [_tau(*pair[:, number]) for keep in keeps for pair in split[keep]]
        out.append({"of": TASKS, "first": task, "second": task, "tau": _mean(taus)})
    for first, second in combinations(keeps, 2):
        line = {"of": BUDGETS, "first": first, "second": second}
        out.append(line | {"tau": _tau(over_tasks[first], over_tasks[second])})
    for keep in keeps:
        taus = [_tau(*pair.mean(1)) for pair in split[keep]]
        out.append({"of": BUDGETS, "first": keep, "second": keep, "tau": _mean(taus)})
    return pd.DataFrame(out)


def _interval(ranks: np.ndarray) -> dict[str, float]:
    low, high = percentile_interval(ranks)
    return {"mean": ranks.mean(), "low": low, "high": high}


def _rank_among(score: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The rank of ``score`` (draws,) among ``others`` (draws, runs): 1 if it is above all, equals share."""
    return 1 + (others > score[:, None]).sum(1) + 0.5 * (others == score[:, None]).sum(1)


def _answered(right: pd.DataFrame, results: pd.DataFrame, keep: float, runs: Sequence[str]) -> pd.DataFrame:
    """(questions, runs): how right each run is at this budget, seeds averaged; runs without it left out."""
    columns = {run: [(run, budget) for budget in budgets_at(results, run, keep)] for run in runs}
    return pd.DataFrame({run: right[keys].mean(axis=1) for run, keys in columns.items() if keys}, right.index)


def _halves(wide: pd.DataFrame, tasks: Sequence[str], count: int) -> list[np.ndarray]:
    """``count`` times (2, tasks, runs): scores on two halves of each task's questions."""
    rng, out = np.random.default_rng(0), []
    values = [wide.loc[[task]].to_numpy() for task in tasks]
    for _ in range(count):
        orders = [rng.permutation(len(correct)) for correct in values]
        halves = [np.split(correct[order], [len(order) // 2]) for correct, order in zip(values, orders, strict=True)]
        out.append(np.stack([[half.mean(0) for half in pair] for pair in halves], axis=1))
    return out


def _tau(first: np.ndarray, second: np.ndarray) -> float:
    first, second = np.round(first, FINE), np.round(second, FINE)
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):  # no order to agree on
        return np.nan
    return float(kendalltau(first, second).statistic)


def _mean(taus: Sequence[float]) -> float:
    known = [tau for tau in taus if not np.isnan(tau)]
    return float(np.mean(known)) if known else np.nan
