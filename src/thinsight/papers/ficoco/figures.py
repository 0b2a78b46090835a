"""Figures of the page on FiCoCo."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from thinsight.analysis.results import PICTURE_TOKENS
from thinsight.papers.ficoco.internals import OTHER, row_edges
from thinsight.report.figures import BLUE, GREEN, GREY, INK, MARKERS, ORANGE, PAGE, RED, forest, subplots

LABELS = {
    "row_softmax": "row softmax (equation)",
    "col_softmax": "column softmax (prose)",
    "row_logit": "row logits (code)",
}
TERMS = {**LABELS, OTHER: "class token's attention"}


def shares_figure(both: pd.DataFrame, correlations: Mapping[int, tuple[float, int]]) -> Figure:
    """A panel per number of tokens, a line per method: share of the whole model's score, as printed and as measured.

    both   tokens, method, printed, share, low, high;  correlations  tokens -> (Spearman's rho, number of methods)
    """
    budgets = sorted(set(both["tokens"]), reverse=True)
    order = list(dict.fromkeys(both.sort_values(["tokens", "printed"])["method"]))[::-1]  # of the smallest budget
    size = (PAGE, 1.2 + 0.19 * len(order))
    figure, axes = subplots(1, len(budgets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, tokens in zip(axes[0], budgets, strict=True):
        part = both[both["tokens"] == tokens].set_index("method").reindex(order).reset_index()
        forest(axis, part, value="share", low="low", high="high", label="method", reference=None)
        axis.collections[-1].set_label("measured here, 95 % interval")
        axis.scatter(
            part["printed"], range(len(order)), s=22, fc="white", ec=ORANGE, lw=1.2, zorder=4,
            label="printed for LLaVA-1.5-7B",
        )  # fmt: skip
        rho, count = correlations[tokens]
        agreement = f"rank correlation {rho:+.2f}, {count} methods" if rho == rho else "too few methods to rank"
        axis.set_title(f"{tokens} of {PICTURE_TOKENS} tokens\n{agreement}")
        axis.axvline(100, color="#BBBBBB", lw=0.6, zorder=0)
    axes[0, len(budgets) // 2].set_xlabel("score, % of the whole model's")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def constant_edges_figure(epsilons: Sequence[float], marks: Mapping[str, int], counted: pd.DataFrame) -> Figure:
    """Left: K against the number of stayers n for a row's quantile, with pictures' sizes marked. Right: how many edges
    leavers have in the model at hand. counted: point, edges (one line a leaver); a panel each."""
    points = list(dict.fromkeys(counted["point"]))
    grid = {"width_ratios": [2.3, *([1.0] * len(points))]}
    figure, axes = subplots(1, 1 + len(points), figsize=(PAGE, 2.5), gridspec_kw=grid)
    axis, n = axes[0], np.arange(2, 3000)
    for epsilon, color in zip(epsilons, (BLUE, GREEN, ORANGE, RED), strict=False):
        axis.plot(n, [row_edges(int(m), epsilon) for m in n], color=color, lw=1.2, label=f"ε = {epsilon:g}")
    for size in marks.values():
        axis.axvline(size, color="#AAAAAA", lw=0.6, ls=":", zorder=0)
    axis.set(
        xscale="log", xlabel="tokens that stay, n", ylabel="edges of every leaver, K", xlim=(10, 3200), ylim=(0, 25)
    )
    top = axis.secondary_xaxis("top")
    top.set_xticks(list(marks.values()), list(marks), rotation=30, ha="left", fontsize=6)
    top.set_xticks([], minor=True)
    axis.legend(loc="upper left", fontsize=6, handlelength=0.9, borderaxespad=0.2)
    most = min(int(counted["edges"].max()), 12)
    for axis, point in zip(axes[1:], points, strict=True):
        part = counted[counted["point"] == point]
        shares = part["edges"].value_counts(normalize=True).reindex(range(most + 1), fill_value=0.0)
        axis.barh(shares.index, 100 * shares, color=BLUE if "row" in point else ORANGE, height=0.8)
        axis.set(
            title=point, xlim=(0, 100), ylim=(-0.6, most + 0.6), xlabel="% of leavers", yticks=range(0, most + 1, 2)
        )
    axes[1].set_ylabel("edges")
    return figure


def sensitivity_figure(
    curves: Mapping[str, pd.DataFrame], printed: Mapping[str, pd.DataFrame], defaults: Mapping[str, float]
) -> Figure:
    """A panel per field: score as a share of the method's as it is, with intervals; printed values where there are any.

    curves: title -> value, share, low, high;  printed: title -> value, share;  defaults: title -> the published value
    """
    figure, axes = subplots(1, len(curves), figsize=(PAGE, 2.2), sharey=True, squeeze=False)
    for axis, (title, curve) in zip(axes[0], curves.items(), strict=True):
        axis.axhline(1.0, color="#BBBBBB", lw=0.6)
        axis.axvline(defaults[title], color=INK, lw=0.8, ls="--", label="as published")
        if len(curve):
            axis.fill_between(curve["value"], curve["low"], curve["high"], color=BLUE, alpha=0.18, lw=0)
            axis.plot(curve["value"], curve["share"], "o-", color=BLUE, ms=3, label="measured here")
        else:
            axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=GREY)
        if title in printed:
            axis.plot(printed[title]["value"], printed[title]["share"], "s-", color=ORANGE, ms=3, label="printed")
        axis.set_title(title)
        axis.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("score, share of\nthe method as it is")
    named = {text: mark for axis in axes[0] for mark, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3)
    return figure


def readings_figure(
    picture: Tensor, maps: Mapping[str, Tensor], shares: Mapping[str, pd.DataFrame], ranks: Mapping[str, pd.DataFrame]
) -> Figure:
    """Top: a picture (height, width, 3) and the terms of one moment on its patches (`internals.maps`). Below, for each
    of ``shares``: what share of the score's spread each reading brings, layer by layer, and how like the terms rank the
    tokens, the mean over layers.

    shares  title -> layer, reading, share;  ranks  title -> layer, first, second, rho
    """
    figure = subplots(figsize=(PAGE, 4.0))[0]
    figure.clear()
    top, below = figure.subfigures(2, 1, height_ratios=[1.05, 1])
    titles = ["the picture", *(TERMS[name] for name in maps)]
    for axis, title, values in zip(top.subplots(1, len(titles)), titles, [picture, *maps.values()], strict=True):
        axis.imshow(values)
        axis.set_title(title, fontsize=6.5)
        axis.axis("off")
    axes = below.subplots(1, 2 * len(shares), width_ratios=[1.25, 1] * len(shares))
    for number, (title, table) in enumerate(shares.items()):
        axis, grid = axes[2 * number : 2 * number + 2]
        sns.lineplot(
            table.assign(percent=100 * table["share"], reading=table["reading"].map(LABELS)), x="layer", y="percent",
            hue="reading", hue_order=LABELS.values(), palette=(RED, BLUE, GREEN), style="reading",
            style_order=LABELS.values(), dashes=False, markers=list(MARKERS[:3]), ms=4, lw=1.2, ax=axis,
        )  # fmt: skip
        axis.set(title=title, xlabel="layer" if number else "block", ylabel="" if number else "% of the score's spread")
        axis.set(ylim=(-3, 103), xticks=sorted(set(table["layer"])))
        handles = axis.get_legend_handles_labels()
        axis.get_legend().remove()
        means = ranks[title].groupby(["first", "second"])["rho"].mean().unstack()
        means = means.reindex(index=list(TERMS), columns=list(TERMS))
        names = ["row", "column", "logits", "other"]
        sns.heatmap(
            means.combine_first(means.T).loc[list(TERMS), list(TERMS)].fillna(1.0), annot=True, fmt="+.1f",
            cmap="RdBu", vmin=-1, vmax=1, cbar=False, square=True, lw=1, ax=grid, annot_kws={"fontsize": 5.5},
            xticklabels=names, yticklabels=names,
        )  # fmt: skip
        grid.set(xlabel="", ylabel="")
        grid.set_title("rank correlation", fontsize=6.5)
        grid.tick_params(labelsize=5.5, rotation=0)
        grid.tick_params(axis="x", rotation=45)
    below.legend(*handles, loc="outside lower center", ncols=3)
    return figure
