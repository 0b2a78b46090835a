"""Score against tokens and against FLOPs: compression curves and the Pareto front."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pandas as pd

from thinsight.analysis.comparisons import relative_points
from thinsight.analysis.results import budgets_at, finished, without_seed
from thinsight.costs.conventions import Convention
from thinsight.costs.flops import DecoderShape, flops
from thinsight.stats import Resampled


def compression_curve(results: pd.DataFrame, rows: pd.DataFrame, base: str = "plain") -> pd.DataFrame:
    """One line per run and budget, draws averaged, all of it as a share of ``base``'s.

    run, budget
    share         visual tokens entering a decoder layer on average, of those of the picture: what a method that acts in
                  the decoder keeps in the mean, and for the others the tokens kept
    kept          tokens left in the end, the mean over questions; least_kept, most_kept over the tasks' means
    score         mean over tasks of the accuracy's share; low, high: bootstrap over questions
    least, most   lowest and highest score of the draws (seeds, phases)
    flops         prefill FLOPs of the decoder, by a profiler's count
    """
    of = results.assign(budget=results["budget"].map(without_seed))
    of = of.groupby(["run", "budget", "task"], sort=False)[["visual", "picture", "kept"]].mean()
    tokens = (
        of.assign(share=of["visual"] / of["picture"])
        .groupby(["run", "budget"], sort=False)
        .agg(share=("share", "mean"), kept=("kept", "mean"), least_kept=("kept", "min"), most_kept=("kept", "max"))
    )
    return relative_points(results, rows, base).merge(tokens.reset_index(), on=["run", "budget"])


def tokens_needed(points: pd.DataFrame, run: str, score: float) -> float:
    """The smallest share of the tokens from which on ``run`` keeps ``score``, on straight lines between its budgets and
    the whole model; its smallest budget where that is enough already, NaN where the run is not there."""
    own = points[points["run"] == run].sort_values("share", ascending=False)
    if own.empty:
        return float("nan")
    shares, scores = [1.0, *own["share"]], [1.0, *own["score"]]
    for (right, above), (left, below) in zip(
        zip(shares, scores, strict=True), zip(shares[1:], scores[1:], strict=True), strict=False
    ):
        if below < score:
            return float(np.interp(score, [below, max(above, score)], [left, right]))
    return float(shares[-1])


def tokens_needed_by(points: pd.DataFrame, runs: Mapping[str, str], at: float, own: str = "par") -> pd.DataFrame:
    """How many tokens others need for what ``own`` keeps at the share ``at`` of them: one line for each of ``runs``
    (run -> title) that is there, with its ``score`` there, the ``share`` that it needs and ``times``, needed / ``at``.

    A run whose smallest budget is enough already, so that it may need fewer still, has ``least`` True.
    """
    if own not in set(points["run"]):
        return pd.DataFrame()
    ours, out = nearest_share(points, own, at), []
    for run, title in runs.items():
        if run == own or run not in set(points["run"]):
            continue
        there, share = nearest_share(points, run, at), tokens_needed(points, run, ours["score"])
        smallest = points.loc[points["run"] == run, "share"].min()
        line = {"run": run, "title": title, "score": there["score"], "low": there["low"], "high": there["high"]}
        out.append(line | {"share": share, "times": share / ours["share"], "least": share <= smallest + 1e-9})
    return pd.DataFrame(out).sort_values("times", ignore_index=True) if out else pd.DataFrame()


def nearest_share(points: pd.DataFrame, run: str, share: float) -> pd.Series:
    """The budget of ``run`` whose tokens are nearest to ``share``."""
    own = points[points["run"] == run]
    return own.loc[(own["share"] - share).abs().idxmin()]


def kept_counts(folder: Path, run: str) -> pd.DataFrame:
    """One line per budget, task and question of ``run``: how many tokens were kept, of how many (``picture``), and the
    ``lengths`` of all tokens entering each layer. Empty if the run is not there."""
    files = finished(folder, [run], "trace.parquet")
    if not files or not files[0].is_file():
        return pd.DataFrame(columns=["budget", "task", "id", "kept", "picture", "visual", "lengths"])
    table = pd.read_parquet(files[0])
    names = {
        text: ",".join(f"{k}={v}" for k, v in json.loads(text).items()) or "fixed" for text in table["budget"].unique()
    }
    return table.assign(budget=table["budget"].map(names), kept=table["kept"].map(len))


def kept_spread(counts: pd.DataFrame, shape: DecoderShape, convention: Convention) -> pd.DataFrame:
    """One line per budget, by mean: how the kept tokens are spread, and two ways to count what is saved.

    mean, sd, least, most   of the kept tokens over all questions
    flops                   the mean over questions of each one's FLOPs, over the mean of the whole model's
    flops_of_mean           FLOPs of a prompt of mean length, over those of the whole prompt of mean length: less, as
                            the mean of n^2 is more than the square of the mean
    """
    out = []
    for budget, part in counts.groupby("budget", sort=False):
        rows = [list(map(int, lengths)) for lengths in part["lengths"]]
        text = [row[0] - int(seen[0]) for row, seen in zip(rows, part["visual"], strict=True)]
        whole = [[n + int(picture)] * shape.layers for n, picture in zip(text, part["picture"], strict=True)]
        count = [fmean(_flops(shape, row, convention) for row in some) for some in (rows, whole)]
        means = [[fmean(column) for column in zip(*some, strict=True)] for some in (rows, whole)]
        of_mean = [_flops(shape, row, convention) for row in means]
        kept = list(map(int, part["kept"]))
        line = {"budget": budget, "mean": fmean(kept), "sd": pstdev(kept), "least": min(kept), "most": max(kept)}
        line |= {"share": fmean(k / p for k, p in zip(kept, part["picture"], strict=True))}
        out.append(line | {"flops": count[0] / count[1], "flops_of_mean": of_mean[0] / of_mean[1]})
    return pd.DataFrame(out).sort_values("mean", ignore_index=True) if out else pd.DataFrame()


def _flops(shape: DecoderShape, lengths: Sequence[float], convention: Convention) -> float:
    return flops(shape, lengths, convention)


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
    """`thinsight.analysis.comparisons.relative_points` of all runs but ``without``, and for each run and budget

    ``keeps``: of runs with the field ``keep`` these budgets alone, so that none is on the front for having been run
    where the others were not; None: all budgets.

    front        whether it is on the front; FLOPs that are equal to three digits of the share are equal
    frequency    the share of bootstrap resamples of the questions in which it is
    run_frequency  the share in which any budget of its run is; what is cheaper than all else always is, and not counted
    """
    results = results if keeps is None else at_budgets(results, keeps)
    dots = relative_points(results, rows, base)
    dots = dots[~dots["run"].isin(without)].reset_index(drop=True)
    sampled = Resampled(rows)
    reference = sampled.score(base, ["fixed"])
    draws: dict[tuple[str, str], list[str]] = {}
    for run, budget in results[["run", "budget"]].drop_duplicates().itertuples(index=False):
        draws.setdefault((run, without_seed(budget)), []).append(budget)
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
