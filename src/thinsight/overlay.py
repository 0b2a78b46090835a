"""What a reduction left of a picture, drawn on the picture: kept, merged and dropped patches, stage by stage."""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from thinsight.errors import UserError
from thinsight.pixels import pixels
from thinsight.remains import Remains, Stages
from thinsight.style import BLUE, GREEN, INK, ORANGE, PAGE, PURPLE, RED, SKY, YELLOW, subplots

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from thinsight.trace import Trace

    Picture = Image | Tensor | np.ndarray

TINTS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
DARK, TINT = 0.8, 0.38  # how much of a dropped patch is covered, and how much of a merged one


def overlay(
    image: "Picture | Sequence[Picture]",
    trace: "Trace",
    sample: int = 0,
    *,
    question: str = "",
    answer: str = "",
    columns: int = 6,
) -> Figure:
    """One panel per stage of ``trace``: kept patches clear, dropped ones dark, merged ones in their token's colour.

    image   what the model got of the picture: a PIL image, or its (3, H, W) pixels; one for each image of the sample,
            which get rows of their own
    sample  which prompt of the batch
    A picture whose patches are no square grid (tiles with line breaks between them) is a `UserError`.
    """
    stages, images = Stages(trace, sample), pixels(image)
    if len(images) != len(stages.sizes):
        raise UserError(f"sample {sample} has {len(stages.sizes)} image(s), and {len(images)} were given to draw on")
    places = list(stages.tokens)
    wide = min(1 + len(places), columns)
    lines = math.ceil((1 + len(places)) / wide)
    figure, axes = _panels(lines * len(images), wide)
    for number, picture in enumerate(images):
        block = axes[number * lines : (number + 1) * lines].flat
        draw(block[0], picture, stages.whole(number))
        block[0].set_title(f"the picture\n{stages.sizes[number]} tokens")
        for axis, where in zip(block[1:], places, strict=False):
            left = stages.left(where, number)
            draw(axis, picture, left)
            axis.set_title(f"{where}\n{_count(left)}")
    _say(figure, question, answer)
    return figure


def gallery(
    image: "Picture",
    traces: Mapping[str, "Trace"],
    sample: int = 0,
    *,
    question: str = "",
    answer: str = "",
    columns: int = 6,
) -> Figure:
    """One panel per method: what its last stage left of the picture, as `overlay` draws it.

    ``traces``: title -> trace of one image.
    """
    (picture,) = pixels(image)
    found = {title: Stages(trace, sample) for title, trace in traces.items()}
    shown = 1 + len(found)
    figure, axes = _panels(math.ceil(shown / columns), min(columns, shown))
    for axis, (title, stages) in zip(axes.flat[1:], found.items(), strict=False):
        draw(axis, picture, stages.last(0))
        axis.set_title("\n".join(fill(line, 19) for line in title.splitlines()))
    draw(axes.flat[0], picture, stages.whole(0))
    axes.flat[0].set_title("the picture" + (f"\n→ {answer}" if answer else ""))
    _say(figure, question, "")
    return figure


def draw(axis: Axes, picture: np.ndarray, left: Remains) -> None:
    """``picture`` (height, width, 3), covered as ``left`` says; one unit of the axes is one patch."""
    side = math.isqrt(left.count)
    if side * side != left.count:
        raise UserError(f"{left.count} patches are no square grid, so it is not known where they lie in the picture")
    height, width = picture.shape[:2]
    if height != width:
        raise UserError(
            f"{left.count} patches are a square and this picture has {width} x {height} pixels: give what the "
            "model got of it (pixel_values)"
        )
    extent = (0, side, side, 0)
    axis.imshow(picture, extent=extent)
    cover = np.zeros((left.count, 4))
    inside = set().union(*left.groups)
    gone = [patch for patch in range(left.count) if patch not in inside and patch not in left.kept]
    cover[gone] = (*to_rgb(INK), DARK)
    lines, inks = [], []
    for group, tint in zip(left.groups, _tints(left.groups, side), strict=True):
        cover[[patch for patch in group if patch not in left.kept]] = (*to_rgb(tint), TINT)
        found = _edges(group, side)
        lines += found
        inks += [tint] * len(found)
    axis.imshow(cover.reshape(side, side, 4), extent=extent, interpolation="nearest")
    if len(left.kept) < left.count:
        axis.add_collection(LineCollection(_edges(left.kept, side), colors="white", linewidths=0.5))
    axis.add_collection(LineCollection(lines, colors=inks, linewidths=1.1))
    axis.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    axis.spines[:].set_visible(True)
    axis.spines[:].set(color="#BBBBBB", linewidth=0.5)


def _edges(patches: frozenset[int], side: int) -> list[list[tuple[int, int]]]:
    """The border of a set of patches as line segments."""
    found = []
    for patch in patches:
        y, x = divmod(patch, side)
        beside = {"up": patch - side, "down": patch + side}
        beside |= {"left": patch - 1 if x else -1, "right": patch + 1 if x + 1 < side else -1}
        ends = {"up": [(x, y), (x + 1, y)], "down": [(x, y + 1), (x + 1, y + 1)]}
        ends |= {"left": [(x, y), (x, y + 1)], "right": [(x + 1, y), (x + 1, y + 1)]}
        found += [ends[where] for where, other in beside.items() if other not in patches]
    return found


def _tints(groups: Sequence[frozenset[int]], side: int) -> list[str]:
    """A colour for each group, none that a group beside it has, as far as there are enough of them."""
    chosen: list[str] = []
    for number, group in enumerate(groups):
        around = {p + step for p in group for step in (-side - 1, -side, -side + 1, -1, 1, side - 1, side, side + 1)}
        taken = [chosen[other] for other in range(number) if groups[other] & around]
        chosen.append(min(TINTS, key=lambda tint: (taken.count(tint), chosen.count(tint))))
    return chosen


def _count(left: Remains) -> str:
    """``32 of 144``."""
    return f"{len(left.kept) + left.adrift} of {left.count}" + (f", {left.adrift} of no place" if left.adrift else "")


def _panels(lines: int, columns: int) -> tuple[Figure, np.ndarray]:
    size = min(PAGE / columns, 1.6)
    figure, axes = subplots(lines, columns, figsize=(size * columns, (size + 0.34) * lines), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
        axis.title.set_fontsize(7)
    return figure, axes


def _say(figure: Figure, question: str, answer: str) -> None:
    text = question + (f"  →  {answer}" if answer else "")
    if text:
        figure.suptitle(fill(text, int(figure.get_figwidth() * 16)), fontsize=8)
