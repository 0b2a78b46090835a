"""Compression curves: what is left of the score when fewer and fewer visual tokens are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pandas as pd

from thinsight.conventions import Convention
from thinsight.cost import Shape, flops
from thinsight.results import drawn, finished
from thinsight.standing import points


def curve(results: pd.DataFrame, rows: pd.DataFrame, base: str = "plain") -> pd.DataFrame:
    """One line per run and budget, draws averaged, all of it as a share of ``base``'s.

    run, budget
    share         visual tokens entering a decoder layer on average, of those of the picture: what a method that acts in
                  the decoder keeps in the mean, and for the others the tokens kept
    kept          tokens left in the end, the mean over questions; least_kept, most_kept over the tasks' means
    score         mean over tasks of the accuracy's share; low, high: bootstrap over questions
    least, most   lowest and highest score of the draws (seeds, phases)
    flops         prefill FLOPs of the decoder, by a profiler's count
    """
    of = results.assign(budget=results["budget"].map(drawn))
    of = of.groupby(["run", "budget", "task"], sort=False)[["visual", "picture", "kept"]].mean()
    tokens = (
        of.assign(share=of["visual"] / of["picture"])
        .groupby(["run", "budget"], sort=False)
        .agg(share=("share", "mean"), kept=("kept", "mean"), least_kept=("kept", "min"), most_kept=("kept", "max"))
    )
    return points(results, rows, base).merge(tokens.reset_index(), on=["run", "budget"])


def needed(points: pd.DataFrame, run: str, score: float) -> float:
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


def against(points: pd.DataFrame, runs: Mapping[str, str], at: float, own: str = "par") -> pd.DataFrame:
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
        there, share = nearest_share(points, run, at), needed(points, run, ours["score"])
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


def spread(counts: pd.DataFrame, shape: Shape, convention: Convention) -> pd.DataFrame:
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


def _flops(shape: Shape, lengths: Sequence[float], convention: Convention) -> float:
    return flops(shape, lengths, convention)
