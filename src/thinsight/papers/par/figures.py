"""Figures of the pages on PAR and TRSM."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from thinsight.ledger.verdicts import EXACT
from thinsight.report.figures import BLUE, COLUMN, GREEN, GREY, INK, ORANGE, PAGE, PURPLE, RED, SKY, subplots

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


def compression_figure(
    points: pd.DataFrame, wrong: pd.DataFrame, titles: Mapping[str, str], claim: tuple[float, float] | None = None
) -> Figure:
    """Two panels over the share of the tokens that is left: the score, and how often an absent thing is affirmed.

    points  `thinsight.analysis.curves.compression_curve`;  wrong  `thinsight.analysis.hallucination.false_yes_rates`;  titles  run -> label
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


def score_curve_figure(points: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """The left panel of `compression_figure` alone."""
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


def counting_figure(found: pd.DataFrame, printed: float, labels: Mapping[str, str]) -> Figure:
    """The reduction of FLOPs over the length of the text, a colour per number of whole layers and a line style per
    convention, with a band of all that `thinsight.ledger.verdicts.meets` the ``printed`` share, in whole percent: cut to it at
    most, within `EXACT` of it at least. ``found``: `thinsight.papers.par.page.flops_curves`."""
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


SAND = "#C9B458"


WIDE = 3  # tokens of a histogram's bin


def adaptive_figure(counts: pd.DataFrame, spread: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """How many tokens each question keeps: a histogram per setting of the thresholds, by mean, beside its numbers.

    counts  `thinsight.analysis.curves.kept_counts`;  spread  `thinsight.analysis.curves.kept_spread`;  labels  budget -> text
    """
    figure, axis = subplots(figsize=(PAGE, 0.36 * len(spread) + 0.75))
    picture = int(counts["picture"].max())
    for y, line in enumerate(spread.itertuples()):
        kept = counts.loc[counts["budget"] == line.budget, "kept"]
        heights, edges = np.histogram(kept, bins=np.arange(-0.5, picture + WIDE, WIDE))
        axis.stairs(y + 0.85 * heights / heights.max(), edges, baseline=y, fill=True, color=BLUE, alpha=0.45, lw=0)
        axis.plot([line.mean] * 2, [y, y + 0.85], color=RED, lw=1.4)
        axis.axhline(y, color="#BBBBBB", lw=0.5)
        text = f"{line.mean:5.1f} ± {line.sd:.1f}, {line.least}–{line.most}; FLOPs {line.flops:.1%}"
        text += f" (of the mean {line.flops_of_mean:.1%})"
        axis.annotate(
            text, (1.01, y + 0.3), xycoords=("axes fraction", "data"), va="center", fontsize=6.5, annotation_clip=False
        )
    axis.set(yticks=[y + 0.3 for y in range(len(spread))])
    axis.set(yticklabels=[symbols(labels.get(b, b)) for b in spread["budget"]])
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel=f"tokens kept of {picture}", xlim=(0, picture), ylim=(-0.15, len(spread) + 0.05))
    axis.grid(axis="y", visible=False)
    return figure


def variants_figure(table: pd.DataFrame, titles: Mapping[object, str]) -> Figure:
    """What each variant changes: differences to the method as it is with their paired intervals, a panel per value of
    ``keep`` (``titles``: value -> title), variants in groups of their part. ``table``: `thinsight.analysis.ablation.ablation_table`."""
    rows = list(dict.fromkeys(zip(table["part"], table["variant"], table["base"], strict=True)))
    rows = [(part, variant) for part, variant, base in rows if not base]
    figure, axes = subplots(
        1, len(titles), figsize=(PAGE, 0.185 * len(rows) + 0.8), sharey=True, sharex=True, squeeze=False
    )
    for axis, (keep, title) in zip(axes[0], titles.items(), strict=True):
        own = table[(table["keep"] == keep) | table["keep"].isna()].set_index(["part", "variant"])
        for y, key in enumerate(rows):
            if key not in own.index:
                continue
            line = own.loc[[key]].iloc[0]
            color = RED if line["most"] < 0 else GREEN if line["least"] > 0 else GREY
            axis.plot([100 * line["least"], 100 * line["most"]], [y, y], color=color, lw=1.1)
            axis.plot(100 * line["difference"], y, marker="o", ms=3.5, color=color)
        axis.axvline(0, color=INK, lw=0.7)
        axis.set(title=title, xlabel="points to the method as it is", ylim=(len(rows) - 0.4, -0.6))
        for y in range(1, len(rows)):
            if rows[y][0] != rows[y - 1][0]:
                axis.axhline(y - 0.5, color="#BBBBBB", lw=0.5)
        axis.grid(axis="y", visible=False)
    first = {part: next(y for y, row in enumerate(rows) if row[0] == part) for part, _ in rows}
    axes[0, 0].set(yticks=range(len(rows)), yticklabels=[symbols(variant) for _, variant in rows])
    for part, y in first.items():
        axes[0, -1].annotate(part, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7,
                             color="#555555", annotation_clip=False)  # fmt: skip
    return figure


def prompt_swap_figure(table: pd.DataFrame) -> Figure:
    """Whether methods listen: tokens in common with another question's choice, and the score that this choice leaves.

    ``table``: `thinsight.analysis.prompt_awareness.prompt_swap_table`.
    """
    figure, axes = subplots(1, 2, figsize=(PAGE, 0.3 * len(table) + 0.85), sharey=True)
    for y, line in enumerate(table.itertuples()):
        axes[0].barh(y, 100 * line.common, color=BLUE, alpha=0.75, height=0.55)
        axes[0].plot([100 * line.chance] * 2, [y - 0.35, y + 0.35], color=INK, lw=1.2)
        sure = line.high < 0
        axes[1].plot([100 * line.own, 100 * line.other], [y, y], color=RED if sure else GREY, lw=1.4, zorder=1)
        axes[1].plot(100 * line.own, y, marker="o", color=BLUE, ms=5, ls="none", label="its own question chose")
        axes[1].plot(100 * line.other, y, marker="X", color=ORANGE, ms=5, ls="none", label="another question chose")
        text = f"{100 * line.difference:+.1f} ({100 * line.low:+.0f} to {100 * line.high:+.0f})"
        axes[1].annotate(
            text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=6.5, annotation_clip=False
        )
    axes[0].set(xlabel="kept tokens in common, %", xlim=(0, 100), title="tokens that another question keeps as well")
    axes[1].set(xlabel="accuracy, %", title="score on its own question")
    axes[0].set(yticks=range(len(table)), yticklabels=table["method"], ylim=(len(table) - 0.4, -0.6))
    for axis in axes:
        axis.grid(axis="y", visible=False)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    return figure


def difference_panels(table: pd.DataFrame, panels: Mapping[str, Sequence[str]], base: str) -> Figure:
    """Differences to the line ``base`` task by task with their paired intervals, a panel per group of lines.

    table   `thinsight.analysis.comparisons.compare`, with the mean over tasks as one more task;  panels  title -> labels of lines
    """
    tasks, panels = list(dict.fromkeys(table["task"])), panels or {"not run": []}
    figure, axes = subplots(
        1, len(panels), figsize=(PAGE, 0.34 * len(tasks) + 0.9), sharey=True, sharex=True, squeeze=False
    )
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for number, (line, color, marker) in enumerate(zip(lines, (RED, GREY, SAND), "soD", strict=False)):
            part = table[table["line"] == line].set_index("task")
            for y, task in enumerate(tasks):
                place, found = y + 0.22 * (number - (len(lines) - 1) / 2), part.loc[task]
                axis.plot([100 * found["low"], 100 * found["high"]], [place] * 2, color=color, lw=1.0)
                axis.plot(100 * found["difference"], place, marker=marker, ms=3.6, color=color, ls="none",
                          label=line.partition(", ")[0] if y == 0 else None)  # fmt: skip
        axis.axvline(0, color=INK, lw=0.8)
        axis.set(title=title, xlabel=f"points to the {base}", ylim=(len(tasks) - 0.4, -0.6))
        axis.axhline(len(tasks) - 1.5, color="#BBBBBB", lw=0.6)
        axis.grid(axis="y", visible=False)
        if lines:
            axis.legend(loc="lower left", fontsize=6.5)
    axes[0, 0].set(yticks=range(len(tasks)), yticklabels=tasks)
    return figure


def symbols(text: str) -> str:
    """Thresholds as they are written in formulae: ``tau_r = 0.9`` with the Greek letter."""
    return re.sub(r"tau_(\w)", r"$\\tau_\1$", text)
