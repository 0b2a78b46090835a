"""All methods in one figure: score against FLOPs, a panel for each place in the model where they act."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinsight.style import BLUE, GREEN, INK, ORANGE, PAGE, PURPLE, RED, SKY, spaced, subplots

INKS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#7A5C3E", INK)
MARKS = "osD^vPX*"
GREY = "#8A8A8A"


def landscape(
    points: pd.DataFrame, groups: Mapping[str, Mapping[str, str]], control: str = "random", faint: Sequence[str] = ()
) -> Figure:
    """Relative score against relative FLOPs, panel by panel, before the spread of ``control``.

    points  run, flops, score, low, high, least, most (`thinsight.standing.points`)
    groups  title of a panel -> run -> its label; runs in ``faint`` are drawn in grey
    """
    lines = -(-len(groups) // 2)
    figure, axes = subplots(
        lines, min(2, len(groups)), figsize=(PAGE, 2.75 * lines), sharex=True, sharey=True, squeeze=False
    )
    shown = points[points["run"].isin({run for group in groups.values() for run in group} | {control})]
    right = shown.loc[shown["budget"].str.contains("keep="), "flops"].max()  # not a curve's long end over layers
    left, bottom, top = shown["flops"].min(), max(0.0, shown["score"].min() - 0.06), 1.05
    axes[0, 0].set(xlim=(left - 0.03 * (right - left), right + 0.5 * (right - left)), ylim=(bottom, top))
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (title, group) in zip(axes.flat, groups.items(), strict=False):
        _band(axis, points[points["run"] == control], control)
        ends = []
        there = [run for run in group if run in set(points["run"])]
        for number, run in enumerate(run for run in there if run not in faint):
            style = {"color": INKS[number % len(INKS)], "marker": MARKS[number % len(MARKS)]}
            ends.append((_line(axis, points[points["run"] == run], right, **style), group[run], style["color"]))
        for run in (run for run in there if run in faint):
            ends.append(
                (_line(axis, points[points["run"] == run], right, color=GREY, marker=".", ls=":"), group[run], GREY)
            )
        _labels(axis, ends, top, 0.05 * (top - bottom))
        axis.axhline(1.0, color="#999999", lw=0.6)
        axis.set_title(title)
    for axis in axes.flat[max(0, len(groups) - 2) : len(groups)]:
        axis.set_xlabel("prefill FLOPs, share of the whole model")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("score, share of the whole model")
    return figure


def _band(axis: Axes, part: pd.DataFrame, name: str) -> None:
    part = part.sort_values("flops")
    axis.fill_between(
        part["flops"], part["least"], part["most"], color=GREY, alpha=0.35, lw=0, label=f"{name}, its seeds"
    )
    axis.plot(part["flops"], part["score"], color=GREY, lw=0.9)


def _line(axis: Axes, part: pd.DataFrame, right: float, **style: str) -> tuple[float, float]:
    """Draw a run's budgets; where its line ends on the right."""
    part = part[part["flops"] <= right + 1e-9].sort_values("flops")
    axis.errorbar(
        part["flops"], part["score"], yerr=[part["score"] - part["low"], part["high"] - part["score"]],
        lw=1.0, ms=3, elinewidth=0.4, capsize=0, **style,
    )  # fmt: skip
    return float(part["flops"].iloc[-1]), float(part["score"].iloc[-1])


def _labels(axis: Axes, ends: Sequence[tuple[tuple[float, float], str, str]], top: float, apart: float) -> None:
    """Names beside the ends of lines, moved apart where they would cover each other, with a hair to their line."""
    ends = sorted(ends, key=lambda end: end[0][1])
    if not ends:
        return
    places = spaced(np.array([end[0][1] for end in ends]), apart)
    highest = top - 0.5 * apart - apart * np.arange(len(places))[::-1]  # with room for those above
    places = np.minimum(places, highest)
    at = max(end[0][0] for end in ends)
    for ((x, y), text, color), place in zip(ends, places, strict=True):
        axis.annotate(
            text,
            (x, y),
            xytext=(at + 0.025, place),
            textcoords="data",
            fontsize=6,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.3, "color": color, "shrinkA": 0, "shrinkB": 2},
        )
