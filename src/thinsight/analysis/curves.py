"""Score against tokens and against FLOPs: compression curves and the Pareto front."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pandas as pd

from thinsight.analysis.comparisons import relative_points
from thinsight.analysis.results import budgets_at, with_budget_labels, without_seed
from thinsight.analysis.runs import finished
from thinsight.costs.conventions import Convention
from thinsight.costs.flops import DecoderShape, flops
from thinsight.evaluation.budget import FIXED, Budget
from thinsight.stats import Bootstrap

FINE = 3  # digits of a share of FLOPs; less is no saving


def compression_curve(results: pd.DataFrame, rows: pd.DataFrame, base: str = "plain") -> pd.DataFrame:
    """One line per run and budget, draws averaged, all of it as a share of ``base``'s.

    run, budget
    share         visual tokens entering a decoder layer on average, of those of the picture: what a method that acts in
                  the decoder keeps in the mean, and for the others the tokens kept
    kept          tokens left in the end, the mean over questions; least_kept, most_kept over the tasks' means
    score         mean over tasks of the accuracy's share; low, high: bootstrap over questions
    least, most   lowest and highest score of the draws (seeds, phases)
    flops         prefill FLOPs of the decoder, by a profiler's count;  end_to_end  those from pixels on
    """
    cells = results.assign(budget=results["budget"].map(without_seed))
    cells = cells.groupby(["run", "budget", "task"], sort=False)[["visual", "picture", "kept"]].mean()
    tokens = cells.assign(share=cells["visual"] / cells["picture"]).groupby(["run", "budget"], sort=False)
    tokens = tokens.agg(
        share=("share", "mean"), kept=("kept", "mean"), least_kept=("kept", "min"), most_kept=("kept", "max")
    )
    return relative_points(results, rows, base).merge(tokens.reset_index(), on=["run", "budget"])


def tokens_needed(points: pd.DataFrame, run: str, score: float) -> float:
    """The smallest share of the tokens from which on ``run`` keeps ``score``, on straight lines between its budgets and
    the whole model; its smallest budget where that is enough already, NaN where the run is not there."""
    part = points[points["run"] == run].sort_values("share", ascending=False)
    if part.empty:
        return float("nan")
    path = [(1.0, 1.0), *zip(part["share"], part["score"], strict=True)]
    for (right, above), (left, below) in pairwise(path):
        if below < score:
            return float(np.interp(score, [below, max(above, score)], [left, right]))
    return float(path[-1][0])


def tokens_needed_by(points: pd.DataFrame, runs: Mapping[str, str], at: float, reference: str) -> pd.DataFrame:
    """How many tokens other runs need for what ``reference`` keeps at the share ``at`` of them: one line for each of
    ``runs`` (run -> title) that is there, with its ``score`` there, the ``share`` that it needs and ``times``, its
    quotient by the reference's.

    A run whose smallest budget is enough already, so that it may need fewer still, has ``least`` True.
    """
    known = set(points["run"])
    if reference not in known:
        return pd.DataFrame()
    ours, out = nearest_share(points, reference, at), []
    for run, title in runs.items():
        if run not in known:
            continue
        share, smallest = tokens_needed(points, run, ours["score"]), points.loc[points["run"] == run, "share"].min()
        line = {"run": run, "title": title, **nearest_share(points, run, at)[["score", "low", "high"]]}
        out.append(line | {"share": share, "times": share / ours["share"], "least": share <= smallest + 1e-9})
    return pd.DataFrame(out).sort_values("times", ignore_index=True) if out else pd.DataFrame()


def nearest_share(points: pd.DataFrame, run: str, share: float) -> pd.Series:
    """The budget of ``run`` whose tokens are nearest to ``share``."""
    part = points[points["run"] == run]
    return part.loc[(part["share"] - share).abs().idxmin()]


def kept_counts(folder: Path, run: str) -> pd.DataFrame:
    """One line per budget, task and question of ``run``: how many tokens were kept, of how many (``picture``), and the
    ``lengths`` of all tokens entering each layer. Empty if the run is not there."""
    files = finished(folder, [run], "trace.parquet")
    if not files or not files[0].is_file():
        return pd.DataFrame(columns=["budget", "task", "id", "kept", "picture", "visual", "lengths"])
    table = with_budget_labels(pd.read_parquet(files[0]))
    return table.assign(kept=table["kept"].map(len))


def kept_spread(counts: pd.DataFrame, shape: DecoderShape, convention: Convention) -> pd.DataFrame:
    """One line per budget, by mean: how the kept tokens are spread, and two ways to count what is saved.

    mean, sd, least, most   of the kept tokens over all questions;  share  their mean share of the picture's
    flops                   the mean over questions of each one's FLOPs, over the mean of the whole model's
    flops_of_mean           FLOPs of a prompt of mean length, over those of the whole prompt of mean length: less, as
                            the mean of n^2 is more than the square of the mean
    """
    out = []
    for budget, part in counts.groupby("budget", sort=False):
        reduced = [list(map(int, lengths)) for lengths in part["lengths"]]
        text = [lengths[0] - int(visual[0]) for lengths, visual in zip(reduced, part["visual"], strict=True)]
        whole = [[n + int(picture)] * shape.layers for n, picture in zip(text, part["picture"], strict=True)]
        sums, of_mean = [], []
        for prompts in (reduced, whole):
            sums.append(sum(flops(shape, lengths, convention) for lengths in prompts))
            of_mean.append(flops(shape, [fmean(layer) for layer in zip(*prompts, strict=True)], convention))
        kept = part["kept"].tolist()
        line = {"budget": budget, "mean": fmean(kept), "sd": pstdev(kept), "least": min(kept), "most": max(kept)}
        line |= {"share": fmean(part["kept"] / part["picture"])}
        out.append(line | {"flops": sums[0] / sums[1], "flops_of_mean": of_mean[0] / of_mean[1]})
    return pd.DataFrame(out).sort_values("mean", ignore_index=True) if out else pd.DataFrame()


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
    on_front = np.empty(scores.shape, bool)
    on_front[..., order] = (ordered > before) & (ordered >= best[..., as_cheap - 1])
    return on_front


def pareto(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    keeps: Sequence[float] | None = None,
    base: str = "plain",
    without: Sequence[str] = ("blind",),
) -> pd.DataFrame:
    """`relative_points` of all runs but ``without``, and for each run and budget

    ``keeps``: of runs with the field ``keep`` these budgets alone, so that none is on the front for having been run
    where the others were not; None: all budgets.

    front        whether it is on the front of score against FLOPs end to end, which are equal where three digits of the
                 share are
    frequency    the share of bootstrap resamples of the questions in which it is
    run_frequency  the share in which any budget of its run is; what is cheaper than all else always is, and not counted
    """
    results = results if keeps is None else at_budgets(results, keeps)
    dots = relative_points(results, rows, base)
    dots = dots[~dots["run"].isin(without)].reset_index(drop=True)
    bootstrap = Bootstrap(rows)
    reference = bootstrap.score(base, [FIXED])
    draws = results.groupby(["run", results["budget"].map(without_seed)])["budget"].unique()
    keys = zip(dots["run"], dots["budget"], strict=True)
    scores = [bootstrap.score(run, list(draws[run, budget])).over(reference) for run, budget in keys]
    costs = dots["end_to_end"].round(FINE).to_numpy()
    on_front = front(costs, np.stack([score.replicates.mean(1) for score in scores], axis=1))
    forced = (costs[:, None] > costs[None]).sum(1) == 0  # nothing is cheaper
    forced &= forced.sum() == 1
    by_run = {run: on_front[:, (dots["run"] == run).to_numpy() & ~forced].any(1).mean() for run in dots["run"].unique()}
    dots = dots.assign(front=front(costs, dots["score"].to_numpy()), frequency=on_front.mean(0))
    return dots.assign(run_frequency=dots["run"].map(by_run))


def at_budgets(results: pd.DataFrame, keeps: Sequence[float]) -> pd.DataFrame:
    """``results`` at the budgets ``keeps``; those of another field are left as they are."""
    labels = results["budget"].unique()
    by_keep = results["budget"].map({label: "keep" in Budget.parse(label).fields for label in labels})
    pairs = product(results.loc[by_keep, "run"].unique(), keeps)
    wanted = [(run, budget) for run, keep in pairs for budget in budgets_at(results, run, keep)]
    keys = pd.MultiIndex.from_frame(results[["run", "budget"]])
    return results[~by_keep | keys.isin(wanted)]
