"""Figure theme, palette, intervals beside their names, and pictures side by side.

Every function of a page that draws takes tidy data and returns a figure.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches: one column of a paper, and its whole width

# Okabe and Ito's colours: distinct under every common colour blindness, and in grey.
INK, BLUE, ORANGE, GREEN = "#222222", "#0072B2", "#E69F00", "#009E73"
PURPLE, SKY, RED, YELLOW = "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"
GREY = "#8A8A8A"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, INK)
MARKERS = "osD^vPX*"


def use_style() -> None:
    """The project's style for this process; in a notebook figures become SVG, the same bytes every time."""
    sns.set_theme(
        context="paper", style="whitegrid", palette=PALETTE, font="DejaVu Sans", font_scale=0.83,
        rc={
            "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#444444", "axes.linewidth": 0.6,
            "axes.titlesize": 8, "axes.labelcolor": INK, "text.color": INK, "grid.color": "#E6E6E6",
            "grid.linewidth": 0.5, "lines.linewidth": 1.4, "lines.markersize": 4, "legend.frameon": False,
            "figure.constrained_layout.use": True, "figure.dpi": 110, "svg.fonttype": "path",
            "svg.hashsalt": "thinsight",
        },
    )  # fmt: skip
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
    except ImportError:  # outside a notebook there is nothing to set
        pass


def forest(
    axis: Axes, frame: pd.DataFrame, *, value: str, low: str, high: str, label: str, hue: str | None = None,
    reference: float | None = 0.0, scale: float = 1.0, palette: Mapping[Any, str] | None = None, legend: bool = True,
) -> None:  # fmt: skip
    """A forest plot: values with their intervals, a line per label in the order of the frame, the first on top.

    value, low, high, label
               columns; a missing value leaves its line empty
    hue        column whose values stand side by side in one line, each with a colour and a marker; without it a line is
               red or green if its whole interval is below or above ``reference``, and grey otherwise
    reference  where a vertical line stands; None for none
    scale      what values are multiplied by: 100 draws shares in percent
    palette    value of ``hue`` -> colour
    """
    labels = list(dict.fromkeys(frame[label]))
    hues = [None] if hue is None else list(dict.fromkeys(frame[hue]))
    step = 0.7 / max(1, len(hues))  # no lines, no values of hue
    for number, name in enumerate(hues):
        part = frame if hue is None else frame[frame[hue] == name]
        part = part.dropna(subset=[value])
        middle, least, most = (scale * part[column] for column in (value, low, high))
        places = part[label].map(labels.index) + step * (number - (len(hues) - 1) / 2)
        colours = (palette or {}).get(name, PALETTE[number % len(PALETTE)])
        if hue is None and reference is not None:
            bounds = zip(least, most, strict=True)
            colours = [RED if b < reference else GREEN if a > reference else GREY for a, b in bounds]
        axis.hlines(places, least, most, colors=colours, lw=1.2)
        axis.scatter(
            middle, places, c=colours, s=14, marker=MARKERS[number % len(MARKERS)], zorder=3,
            label=None if hue is None else str(name),
        )  # fmt: skip
    if reference is not None:
        axis.axvline(reference, color=INK, lw=0.8)
    axis.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
    axis.grid(visible=False, axis="y")
    if hue is not None and legend:
        axis.legend()


def subplots(*shape: int, **options: Any) -> tuple[Figure, Any]:
    """New axes on a figure that pyplot forgets at once, so that a notebook shows it once and memory does not grow."""
    figure, axes = plt.subplots(*shape, **options)
    plt.close(figure)
    return figure, axes


def pictures(images: Sequence, titles: Sequence[str], columns: int = 4) -> Figure:
    """Pictures side by side, each under its title."""
    lines = -(-len(images) // columns)
    figure, axes = subplots(lines, columns, figsize=(PAGE, 2.1 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title("\n".join(fill(line, 26) for line in title.splitlines()), fontsize=7)
    return figure
