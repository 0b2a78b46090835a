"""Figures of the page on VTW."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from thinsight.analysis.results import score_cells
from thinsight.report.figures import BLUE, COLUMN, GREEN, GREY, INK, MARKERS, ORANGE, PAGE, PURPLE, RED, subplots

GROUPS = {"system": "#BBBBBB", "visual": BLUE, "question": ORANGE, "answer": GREEN}

RUNS = {
    "plain": INK,
    "vtw": BLUE,
    "random": ORANGE,
    "grid": GREEN,
    "vtw_random_layer": PURPLE,
    "vtw_random_tokens": RED,
    "blind": GREY,
}
"""The runs that are compared by their FLOPs, and the colour of each."""


def attention_figure(shares: pd.DataFrame) -> Figure:
    """Where attention goes, layer by layer. ``shares``: rows, layer, group, share; one panel for each ``rows``."""
    panels = list(shares["rows"].unique())
    figure, axes = subplots(1, len(panels), figsize=(PAGE, 2.1), sharey=True, squeeze=False)
    for axis, rows in zip(axes[0], panels, strict=True):
        sns.histplot(
            shares[shares["rows"] == rows], x="layer", weights="share", hue="group", hue_order=list(GROUPS)[::-1],
            palette=GROUPS, multiple="stack", discrete=True, alpha=1, linewidth=0.3, edgecolor="white", ax=axis,
            legend=axis is axes[0, -1],
        )  # fmt: skip
        axis.set(title=f"{rows} rows", xlabel="decoder layer", ylabel="share of attention", ylim=(0, 1))
        axis.grid(visible=False)
    sns.move_legend(axes[0, -1], "center left", bbox_to_anchor=(1, 0.5), title="to")
    return figure


def divergence_figure(curves: pd.DataFrame, samples: pd.DataFrame, thresholds: dict[float, int | None]) -> Figure:
    """Divergence against the layer.

    curves      layer, divergence, direction: a line for each direction
    samples     layer, divergence: single questions, as dots
    thresholds  threshold -> the layer that it chooses
    """
    floor = max(1e-9, curves.loc[curves["divergence"] > 0, "divergence"].min() / 3)
    curves, samples = (table.assign(divergence=table["divergence"].clip(lower=floor)) for table in (curves, samples))
    figure, axis = subplots(figsize=(COLUMN * 1.6, 2.6))
    dots = {"color": BLUE, "alpha": 0.2, "size": 2, "jitter": 0.15, "native_scale": True}
    sns.stripplot(samples, x="layer", y="divergence", ax=axis, **dots)
    sns.lineplot(
        curves, x="layer", y="divergence", hue="direction", style="direction", markers=list("os"), mew=0,
        dashes=False, palette=[BLUE, ORANGE], ax=axis,
    )  # fmt: skip
    for (threshold, layer), style in zip(thresholds.items(), ("-", "--", ":"), strict=False):
        label = f"η = {threshold:g}: " + ("no layer" if layer is None else f"layer {layer}")
        axis.axhline(threshold, color=RED, lw=0.9, ls=style, label=label)
    axis.set(yscale="log", xlabel="withdrawal layer K", ylabel="KL divergence (nats)")
    axis.set(xticks=sorted(curves["layer"].unique()), ylim=(floor / 1.5, None))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def score_by_layer_figure(results: pd.DataFrame, layer: int | None) -> Figure:
    """Accuracy against K with its interval, a panel a task, with the whole model, the model without the picture, and
    the ``layer`` that divergence chooses. ``results``: `analysis.results.load_scores` of plain, vtw and blind."""
    tables = {run: score_cells(results, run) for run in ("vtw", "plain", "blind")}
    with plt.rc_context({"figure.constrained_layout.use": False}):  # the grid has a layout of its own
        grid = sns.relplot(
            tables["vtw"], x="layer", y="accuracy", col="task", col_wrap=4, kind="line", marker="o", mew=0, color=BLUE,
            label="VTW", height=1.55, aspect=PAGE / 4 / 1.55, facet_kws={"ylim": (-0.03, 1.03)},
        )  # fmt: skip
    for task, axis in grid.axes_dict.items():
        for run, style, title in (("plain", "-", "whole model"), ("blind", ":", "no picture")):
            line = tables[run].set_index("task").loc[task]
            axis.axhspan(line["low"], line["high"], color=RUNS[run], alpha=0.1, lw=0)
            axis.axhline(line["accuracy"], color=RUNS[run], ls=style, lw=1.0, label=title)
        part = tables["vtw"][tables["vtw"]["task"] == task].sort_values("layer")
        axis.fill_between(part["layer"], part["low"], part["high"], color=BLUE, alpha=0.2, lw=0)
        axis.set_xticks(part["layer"].iloc[::2])
        if layer is not None:
            axis.axvline(layer, color=RED, lw=0.9, ls="--", label="K chosen by KL")
    grid.set_titles("{col_name}").set_xlabels("withdrawal layer K")
    grid.add_legend(dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True)))
    plt.close(grid.figure)
    return grid.figure


def frontier_figure(points: pd.DataFrame) -> Figure:
    """Relative score against relative FLOPs: columns run, flops, score, low, high (all relative to the whole model)."""
    figure, axis = subplots(figsize=(COLUMN * 1.6, 2.6))
    colours = {run.replace("_", " "): colour for run, colour in RUNS.items() if run in set(points["run"])}
    points = points.assign(method=points["run"].str.replace("_", " "))
    for method, part in points.groupby("method"):
        axis.vlines(part["flops"], part["low"], part["high"], color=colours[method], lw=0.7)
    sns.lineplot(
        points, x="flops", y="score", hue="method", style="method", hue_order=colours, style_order=colours,
        palette=colours, markers=list(MARKERS[: len(colours)]), mew=0, dashes=False, ax=axis,
    )  # fmt: skip
    axis.axhline(1.0, color=GREY, lw=0.7)
    axis.set(
        xlabel="prefill FLOPs of the decoder, share of the whole model",
        ylabel="score, share of the whole model",
        xlim=(0, 1.05),
    )
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=None)
    return figure
