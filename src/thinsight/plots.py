"""Figures of the pages, in one style (`thinsight.style`).

Every function takes tidy data, draws on new axes and returns the figure.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thinsight.overlay import gallery, overlay
from thinsight.style import BLUE, COLUMN, GREEN, INK, ORANGE, PAGE, PURPLE, RED, subplots, use_style

__all__ = [
    "attention",
    "divergence",
    "frontier",
    "gallery",
    "overlay",
    "pictures",
    "score_by_layer",
    "use_style",
]

METHODS = {
    "plain": INK,
    "vtw": BLUE,
    "random": ORANGE,
    "grid": GREEN,
    "vtw_random_layer": PURPLE,
    "vtw_random_tokens": RED,
    "blind": "#888888",
}
GROUPS = {"system": "#BBBBBB", "visual": BLUE, "question": ORANGE, "answer": GREEN}
MARKERS = {"plain": "s", "vtw": "o", "random": "^", "grid": "D", "vtw_random_layer": "v", "vtw_random_tokens": "X"}


def attention(shares: pd.DataFrame) -> Figure:
    """Where attention goes, layer by layer. ``shares``: rows, layer, group, share; one panel for each ``rows``."""
    panels = list(dict.fromkeys(shares["rows"]))
    figure, axes = subplots(1, len(panels), figsize=(PAGE, 2.1), sharey=True, squeeze=False)
    for axis, rows in zip(axes[0], panels, strict=True):
        wide = shares[shares["rows"] == rows].pivot(index="layer", columns="group", values="share")
        wide = wide[[group for group in GROUPS if group in wide]].fillna(0.0)
        axis.stackplot(
            wide.index, wide.to_numpy().T, colors=[GROUPS[g] for g in wide], labels=list(wide), lw=0.6, ec="white"
        )
        axis.set(title=f"{rows} rows", xlabel="decoder layer", xlim=(wide.index.min(), wide.index.max()), ylim=(0, 1))
        axis.grid(visible=False)
    axes[0, 0].set_ylabel("share of attention")
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside right center", title="to")
    return figure


def divergence(
    curves: Mapping[str, Mapping[int, float]],
    spread: Mapping[int, Sequence[float]],
    thresholds: Mapping[float, int | None],
) -> Figure:
    """Divergence against the layer: a curve for each direction, single samples behind the first, thresholds with the
    layer each of them chooses."""
    figure, axis = subplots(figsize=(COLUMN * 1.35, 2.5))
    floor = max(1e-9, min(v for curve in curves.values() for v in curve.values() if v > 0) / 3)
    for layer, values in spread.items():
        axis.plot([layer] * len(values), np.maximum(values, floor), ".", color=BLUE, alpha=0.18, ms=3, mew=0)
    for (name, curve), color, marker in zip(curves.items(), (BLUE, ORANGE), "os", strict=False):
        axis.plot(list(curve), np.maximum(list(curve.values()), floor), marker=marker, color=color, label=name)
    for threshold, layer in thresholds.items():
        axis.axhline(threshold, color="#777777", lw=0.7, ls="--")
        label = f"η = {threshold:g}: " + ("no layer" if layer is None else f"layer {layer}")
        axis.annotate(label, (1.0, threshold), xycoords=("axes fraction", "data"), xytext=(3, 0),
                      textcoords="offset points", va="center", fontsize=6.5, annotation_clip=False)  # fmt: skip
        if layer is not None:
            axis.plot([layer], [threshold], marker="v", color=RED, ms=5, zorder=5)
    axis.set(yscale="log", xlabel="withdrawal layer K", ylabel="KL divergence (nats)", xticks=list(spread))
    axis.set_ylim(bottom=floor / 1.5)
    axis.legend(loc="lower left")
    return figure


def score_by_layer(
    curve: pd.DataFrame, baseline: pd.DataFrame, blind: pd.DataFrame, chosen: int | None, columns: int = 4
) -> Figure:
    """One panel a task: accuracy against K with its interval, beside the whole model and the model without picture.

    ``curve``: task, layer, accuracy, low, high. ``baseline`` and ``blind``: task, accuracy, low, high.
    """
    tasks = list(dict.fromkeys(curve["task"]))
    lines = -(-len(tasks) // columns)
    figure, axes = subplots(
        lines, columns, figsize=(PAGE, 1.55 * lines + 0.25), sharex=True, sharey=True, squeeze=False
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        part = curve[curve["task"] == task].sort_values("layer")
        for frame, color, style, name in ((baseline, INK, "-", "whole"), (blind, "#888888", ":", "blind")):
            row = frame[frame["task"] == task].iloc[0]
            axis.axhspan(row["low"], row["high"], color=color, alpha=0.1, lw=0)
            axis.axhline(row["accuracy"], color=color, ls=style, lw=1.0, label=name)
        axis.fill_between(part["layer"], part["low"], part["high"], color=BLUE, alpha=0.2, lw=0)
        axis.plot(part["layer"], part["accuracy"], marker="o", ms=3, color=BLUE, label="VTW")
        if chosen is not None:
            axis.axvline(chosen, color=RED, lw=0.9, ls="--", label="K chosen by KL")
        axis.set(title=task, ylim=(-0.03, 1.03), xticks=sorted(part["layer"])[::2])
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    below = axes.flat[max(0, len(tasks) - columns) : len(tasks)]
    for axis in below:
        axis.set_xlabel("withdrawal layer K")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if len(tasks) < lines * columns:
        axes.flat[len(tasks)].legend(handles, labels, loc="center")
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def frontier(points: pd.DataFrame) -> Figure:
    """Relative score against relative FLOPs: columns run, flops, score, low, high (all relative to the whole model)."""
    figure, axis = subplots(figsize=(COLUMN * 1.35, 2.6))
    axis.axhline(1.0, color="#999999", lw=0.7)
    for run, part in points.groupby("run", sort=False):
        part = part.sort_values("flops")
        error = [part["score"] - part["low"], part["high"] - part["score"]]
        style = {"color": METHODS.get(run, INK), "marker": MARKERS.get(run, "o"), "label": run.replace("_", " ")}
        axis.errorbar(part["flops"], part["score"], yerr=error, lw=1.1, elinewidth=0.6, capsize=0, **style)
    axis.set(xlabel="prefill FLOPs, share of the whole model", ylabel="score, share of the whole model")
    axis.set_xlim(0, 1.05)
    axis.legend(loc="lower right")
    return figure


def pictures(images: Sequence, titles: Sequence[str], columns: int = 4) -> Figure:
    """Pictures side by side, each under its title."""
    lines = -(-len(images) // columns)
    figure, axes = subplots(lines, columns, figsize=(PAGE, 2.1 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image)
        lines = [fill(line, 26) for line in title.splitlines()]
        axis.set_title("\n".join(lines), fontsize=7)
    return figure
