"""Curves of PAR's and TRSM's pages: score and wrong answers over the tokens that are left, FLOPs over the text."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from thinsight.style import BLUE, COLUMN, GREEN, INK, ORANGE, PAGE, PURPLE, RED, SKY, subplots
from thinsight.verdict import EXACT

GREY = "#8A8A8A"
STYLES = {
    "par": {"color": BLUE, "marker": "o", "lw": 1.8},
    "par-adaptive": {"color": BLUE, "marker": "o", "mfc": "white", "ls": "--", "lw": 1.2},
    "trsm": {"color": RED, "marker": "s"},
    "trsm-20": {"color": INK, "marker": "*", "ms": 9, "ls": "none"},
    "cdpruner": {"color": GREEN, "marker": "^"},
    "divprune": {"color": PURPLE, "marker": "D"},
    "visionzip": {"color": ORANGE, "marker": "v"},
    "sparsevlm": {"color": SKY, "marker": "P"},
}
"""How each run is drawn, on every figure of the two pages."""

OTHER = {"color": GREY, "ls": ":", "lw": 1.0, "marker": "."}
ENDS = {"grid": ("least", "most")}
"""Between which columns a control's bars go that was drawn several times."""

TICKS = {1: "1", 1 / 2: "1/2", 1 / 4: "1/4", 1 / 9: "1/9", 1 / 18: "1/18", 1 / 36: "1/36"}


def compression(
    points: pd.DataFrame, wrong: pd.DataFrame, titles: Mapping[str, str], claim: tuple[float, float] | None = None
) -> Figure:
    """Two panels over the share of the tokens that is left: the score, and how often an absent thing is affirmed.

    points  `thinsight.compression.curve`;  wrong  `thinsight.hallucination.hallucination`;  titles  run -> label
    claim   a printed (share of the tokens, share of the score), drawn as a star
    """
    figure, axes = subplots(1, 2, figsize=(PAGE, 3.1))
    whole = wrong[wrong["run"] == "plain"]
    for axis, table, y in ((axes[0], points, "score"), (axes[1], wrong, "false_yes")):
        _random(axis, table, y)
        for run, title in titles.items():
            part = table[(table["run"] == run) & (table["share"] < 1)].sort_values("share")
            if part.empty:
                if run not in set(points["run"]):
                    axis.plot([], [], ls="none", label=f"{title}: not run")
                continue
            style = STYLES.get(run, OTHER) | {"ms": 3.5, "label": title}
            _line(axis, part, y, ("low", "high") if run in ("par", "par-adaptive") else ENDS.get(run), style)
        _shares(axis)
    axes[0].axhline(1.0, color="#999999", lw=0.7)
    axes[0].set(ylabel="score, share of the whole model", title="what is kept of the score")
    axes[1].set(ylabel="false yes rate on absent things", title="what is seen that is not there")
    axes[1].set_ylim(bottom=0)
    if len(whole):
        axes[1].axhline(whole["false_yes"].iloc[0], color="#999999", lw=0.7)
    if claim is not None:
        axes[0].plot(*claim, marker="*", ms=11, color=INK, ls="none", label="PAR as printed", zorder=6)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5)
    return figure


def score_curve(points: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """The left panel of `compression` alone."""
    figure, axis = subplots(figsize=(COLUMN * 1.35, 2.7))
    _random(axis, points, "score")
    for run, title in titles.items():
        part = points[(points["run"] == run) & (points["share"] < 1)].sort_values("share")
        if part.empty:
            axis.plot([], [], ls="none", label=f"{title}: not run")
            continue
        style = STYLES.get(run, OTHER) | {"label": title}
        _line(axis, part, "score", ("low", "high") if run.startswith("trsm") else ENDS.get(run), style)
    axis.axhline(1.0, color="#999999", lw=0.7)
    _shares(axis)
    axis.set(ylabel="score, share of the whole model")
    axis.legend(loc="lower left")
    return figure


def counting(found: pd.DataFrame, printed: float, labels: Mapping[str, str]) -> Figure:
    """The reduction of FLOPs over the length of the text, a colour per number of whole layers and a line style per
    convention, with a band of all that `thinsight.verdict.meets` the ``printed`` share, in whole percent: cut to it at
    most, within `EXACT` of it at least. ``found``: `thinsight.par_flops.curves`."""
    figure, axis = subplots(figsize=(COLUMN * 1.35, 2.6))
    axis.axhspan(100 * printed * (1 - EXACT), 100 * printed + 1, color=INK, alpha=0.12, lw=0)
    axis.annotate(f"printed: {printed:.0%}", (1.0, 100 * printed), xycoords=("axes fraction", "data"), xytext=(3, 0),
                  textcoords="offset points", va="center", fontsize=7, annotation_clip=False)  # fmt: skip
    for (layers, color), (name, style) in [
        (one, two)
        for one in zip(sorted(found["layers"].unique()), (BLUE, ORANGE, GREEN, PURPLE), strict=False)
        for two in zip(labels, ("-", "--", ":"), strict=False)
    ]:
        part = found[(found["layers"] == layers) & (found["convention"] == name)]
        label = f"K = {layers}, {labels[name]}"
        axis.plot(part["text"], 100 * part["reduction"], color=color, ls=style, lw=1.2, label=label)
    axis.set(xlabel="tokens of the prompt besides the picture, L", ylabel="FLOPs saved, %")
    axis.set_xlim(found["text"].min(), found["text"].max())
    axis.legend(loc="upper right", ncols=2 if len(labels) > 1 else 1)
    axis.set_ylim(top=axis.get_ylim()[1] + 7)
    return figure


def _line(axis: Axes, part: pd.DataFrame, y: str, ends: tuple[str, str] | None, style: Mapping) -> None:
    """One run's points, with bars between two columns if ``ends`` names them."""
    if ends is None:
        axis.plot(part["share"], part[y], **style)
        return
    error = [(part[y] - part[ends[0]]).clip(lower=0), (part[ends[1]] - part[y]).clip(lower=0)]
    axis.errorbar(part["share"], part[y], yerr=error, elinewidth=0.5, capsize=0, zorder=5, **style)


def _random(axis: Axes, table: pd.DataFrame, y: str) -> None:
    """The band of random subsets, from the lowest to the highest seed."""
    part = table[(table["run"] == "random") & (table["share"] < 1)].sort_values("share")
    if len(part):
        axis.fill_between(
            part["share"], part["least"], part["most"], color=GREY, alpha=0.35, lw=0, label="random, 3 seeds"
        )
        axis.plot(part["share"], part[y], color=GREY, lw=0.8)


def _shares(axis: Axes, ticks: Mapping[float, str] = TICKS) -> None:
    """A logarithmic axis of shares, whole on the left."""
    axis.set_xscale("log")
    axis.set_xlim(1.05, 1 / 40)
    axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: next((t for v, t in ticks.items() if abs(v - x) < 1e-6), ""))
    )
    axis.set_xlabel("visual tokens left, share of the picture's")
