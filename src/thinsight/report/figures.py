"""Figure theme, palette, and pictures side by side.

Every function takes tidy data, draws on new axes and returns the figure.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0  # inches: one column of a paper, and its whole width


# Okabe and Ito's colours: distinct under every common colour blindness, and in grey.
INK, BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW = (
    "#222222",
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)


GREY = "#8A8A8A"


def use_style() -> None:
    """The project's style for this process; in a notebook figures become SVG, the same bytes every time."""
    mpl.rcParams.update(
        {
            "font.size": 8,
            "axes.titlesize": 8,
            "axes.labelsize": 8,
            "legend.fontsize": 7,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "font.family": "DejaVu Sans",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "axes.edgecolor": "#444444",
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.5,
            "lines.linewidth": 1.4,
            "lines.markersize": 4,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "svg.fonttype": "path",
            "svg.hashsalt": "thinsight",
        }
    )
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})
    except ImportError:  # outside a notebook there is nothing to set
        pass


def spaced(places: np.ndarray, apart: float) -> np.ndarray:
    """Ascending ``places`` (n,) moved so that neighbours are ``apart`` or more: each pair that is closer gives way by
    halves."""
    places = np.array(places, float)
    for _ in range(200):
        gaps = np.diff(places)
        if not (gaps < apart - 1e-6).any():
            break
        move = np.where(gaps < apart, (apart - gaps) / 2, 0)
        places[:-1] -= move
        places[1:] += move
    return places


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
        lines = [fill(line, 26) for line in title.splitlines()]
        axis.set_title("\n".join(lines), fontsize=7)
    return figure
