"""Figures of PAR's and TRSM's pages: tokens kept by question, variants, heeding the question, differences by task."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from thinsight.style import BLUE, GREEN, INK, ORANGE, PAGE, RED, subplots

GREY = "#8A8A8A"
SAND = "#C9B458"
WIDE = 3  # tokens of a histogram's bin


def adaptive(counts: pd.DataFrame, spread: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """How many tokens each question keeps: a histogram per setting of the thresholds, by mean, beside its numbers.

    counts  `thinsight.compression.kept_counts`;  spread  `thinsight.compression.spread`;  labels  budget -> text
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


def variants(table: pd.DataFrame, titles: Mapping[object, str]) -> Figure:
    """What each variant changes: differences to the method as it is with their paired intervals, a panel per value of
    ``keep`` (``titles``: value -> title), variants in groups of their part. ``table``: `thinsight.ablated.ablated`."""
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


def heeding(table: pd.DataFrame) -> Figure:
    """Whether methods listen: tokens in common with another question's choice, and the score that this choice leaves.

    ``table``: `thinsight.prompt_awareness.table`.
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

    table   `thinsight.results.compare`, with the mean over tasks as one more task;  panels  title -> labels of lines
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
