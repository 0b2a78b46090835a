"""The front of score against FLOPs: what nothing cheaper reaches, and how often it is so on other questions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thinsight.resampled import Resampled
from thinsight.results import drawn
from thinsight.standing import budgets_at, points

FINE = 3  # digits of a share of FLOPs; less is no saving


def front(flops: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Which points are on the front: (..., points) bool, for ``flops`` (points,) and ``scores`` (..., points).

    A point is off it if another costs no more and scores no less, and is better in one of the two. Equal points share
    their place.
    """
    order = np.argsort(flops, kind="stable")
    cost, ordered = flops[order], scores[..., order]
    best = np.maximum.accumulate(ordered, axis=-1)
    cheaper, as_cheap = np.searchsorted(cost, cost, "left"), np.searchsorted(cost, cost, "right")
    before = np.where(cheaper > 0, best[..., cheaper - 1], -np.inf)
    found = np.empty(scores.shape, bool)
    found[..., order] = (ordered > before) & (ordered >= best[..., as_cheap - 1])
    return found


def pareto(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    keeps: Sequence[float] | None = None,
    base: str = "plain",
    without: Sequence[str] = ("blind",),
) -> pd.DataFrame:
    """`thinsight.standing.points` of all runs but ``without``, and for each run and budget

    ``keeps``: of runs with the field ``keep`` these budgets alone, so that none is on the front for having been run
    where the others were not; None: all budgets.

    front        whether it is on the front; FLOPs that are equal to three digits of the share are equal
    frequency    the share of bootstrap resamples of the questions in which it is
    run_frequency  the share in which any budget of its run is; what is cheaper than all else always is, and not counted
    """
    results = results if keeps is None else at_budgets(results, keeps)
    dots = points(results, rows, base)
    dots = dots[~dots["run"].isin(without)].reset_index(drop=True)
    sampled = Resampled(rows)
    reference = sampled.score(base, ["fixed"])
    draws: dict[tuple[str, str], list[str]] = {}
    for run, budget in results[["run", "budget"]].drop_duplicates().itertuples(index=False):
        draws.setdefault((run, drawn(budget)), []).append(budget)
    keys = list(zip(dots["run"], dots["budget"], strict=True))
    boots = np.stack([sampled.score(run, draws[run, of]).over(reference).boots.mean(1) for run, of in keys], axis=1)
    flops = dots["flops"].round(FINE).to_numpy()
    there = front(flops, boots)
    forced = (flops[:, None] > flops[None]).sum(1) == 0  # nothing is cheaper
    forced &= forced.sum() == 1
    any_of = {run: there[:, (dots["run"] == run).to_numpy() & ~forced].any(1).mean() for run in dots["run"].unique()}
    return dots.assign(
        front=front(flops, dots["score"].to_numpy()),
        frequency=there.mean(0),
        run_frequency=dots["run"].map(any_of),
    )


def at_budgets(results: pd.DataFrame, keeps: Sequence[float]) -> pd.DataFrame:
    """``results`` at the budgets ``keeps``; those of another field are left as they are."""
    named = results["budget"].str.contains(r"(?:^|,)keep=")
    asked = [
        (run, budget)
        for run in results.loc[named, "run"].unique()
        for keep in keeps
        for budget in budgets_at(results, run, keep)
    ]
    keys = pd.MultiIndex.from_frame(results[["run", "budget"]])
    return results[~named | keys.isin(asked)]
