"""Kept, merged and dropped patches drawn on a picture."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from thinsight.errors import UserError
from thinsight.report.figures import BLUE, GREEN, INK, ORANGE, PAGE, PURPLE, RED, SKY, YELLOW, subplots
from thinsight.runtime.trace import Trace

TINTS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
DARK, TINT = 0.8, 0.38  # how much of a dropped patch is covered, and how much of a merged one
COLUMNS = 6  # panels of a row
SLACK = 0.02  # what rounding to bytes before normalising may leave outside 0..1


def pixels(image: Any, processor: Any = None) -> list[np.ndarray]:
    """One picture, or several, as (height, width, 3) floats in 0..1.

    A PIL image or an (H, W, 3) array is taken as it is. A tensor (3, H, W), or (images, 3, H, W), is what ``processor``
    gave the model, and its normalisation is undone. Without a processor a tensor is taken as it is if it lies in 0..1,
    and stretched from its least to its largest value otherwise.
    """
    if isinstance(image, Sequence) or getattr(image, "ndim", 0) == 4:
        return [picture for part in image for picture in pixels(part, processor)]
    if hasattr(image, "permute"):
        return [_from_tensor(image, getattr(processor, "image_processor", processor))]
    values = np.asarray(image)
    values = values / 255 if values.dtype == np.uint8 else values.astype(float)
    if values.ndim == 2:
        values = values[..., None].repeat(3, -1)
    if values.ndim != 3 or values.shape[2] not in (3, 4):
        raise UserError(f"a picture has the shape (height, width, 3), not {values.shape}")
    return [values[..., :3]]


def _from_tensor(tensor: Tensor, image_processor: Any) -> np.ndarray:
    if tensor.dim() != 3 or tensor.shape[0] != 3:
        raise UserError(f"pixels have the shape (3, height, width), not {tuple(tensor.shape)}")
    values = tensor.detach().float().cpu().permute(1, 2, 0).numpy()
    if image_processor is not None and image_processor.do_normalize:
        values = values * np.array(image_processor.image_std) + np.array(image_processor.image_mean)
    least, most = values.min(), values.max()
    if least >= -SLACK and most <= 1 + SLACK:
        return values.clip(0, 1)
    return (values - least) / max(most - least, 1e-9)


@dataclass(frozen=True)
class KeptPatches:
    """What a stage left of one image of ``count`` patches.

    kept    patches that tokens are named after
    groups  for each token that took others in: the patches whose largest share went into it, its own included
    adrift  tokens that show no place of the picture (a class token that is handed on); 0 where it is one of several
            images, since nothing says which of them such a token belongs to
    """

    count: int
    kept: frozenset[int]
    groups: tuple[frozenset[int], ...] = ()
    adrift: int = 0


class StageOutcome:
    """The stages of one sample of a trace: ``sizes``, the patches of its images; ``tokens``, place -> for each token
    left there the patch that it is named after, and the share of each patch in it."""

    def __init__(self, trace: Trace, sample: int) -> None:
        if not -len(trace.pictures) <= sample < len(trace.pictures):
            raise UserError(f"this trace has {len(trace.pictures)} sample(s), so none with the number {sample}")
        self.sizes = trace.pictures[sample]
        shares = trace.shares
        self.tokens = {
            where: [
                (name, dict(zip(patches, weights, strict=True)))
                for (name, patches), weights in zip(step[sample], shares[where][sample], strict=True)
            ]
            for where, step in trace.steps.items()
        }

    def whole(self, image: int) -> KeptPatches:
        """All of an image."""
        return KeptPatches(self.sizes[image], frozenset(range(self.sizes[image])))

    def left(self, where: str, image: int) -> KeptPatches:
        """What the place ``where`` left of an image."""
        first, size = sum(self.sizes[:image]), self.sizes[image]
        largest: dict[int, tuple[float, int]] = {}  # patch -> its largest share, and the token with it
        for number, (_, sources) in enumerate(self.tokens[where]):
            for patch, share in sources.items():
                if share > largest.get(patch, (0.0, 0))[0]:
                    largest[patch] = (share, number)
        names = {n: patch - first for n, (patch, _) in enumerate(self.tokens[where]) if 0 <= patch - first < size}
        members = defaultdict(set)
        for patch, (_, number) in largest.items():
            if 0 <= patch - first < size:
                members[number] |= {patch - first} | ({names[number]} if number in names else set())
        groups = tuple(frozenset(group) for group in members.values() if len(group) > 1)
        adrift = sum(patch < 0 for patch, _ in self.tokens[where]) if len(self.sizes) == 1 else 0
        return KeptPatches(size, frozenset(names.values()), groups, adrift)

    def last(self, image: int) -> KeptPatches:
        """What all of them left of an image."""
        return self.left(list(self.tokens)[-1], image) if self.tokens else self.whole(image)


def overlay(
    image: Any, trace: Trace, sample: int = 0, *, processor: Any = None, question: str = "", answer: str = ""
) -> Figure:
    """One panel per stage of ``trace``: kept patches clear, dropped ones dark, merged ones in their token's colour.

    image   what the model got of the picture: a PIL image, or its (3, H, W) pixels; one for each image of the sample,
            which get rows of their own
    sample  which prompt of the batch
    processor
            what made the pixels of the picture, so that they can be shown in its colours (see `pixels`)
    A picture whose patches are no square grid (tiles with line breaks between them) is a `UserError`.
    """
    stages, images = StageOutcome(trace, sample), pixels(image, processor)
    if len(images) != len(stages.sizes):
        raise UserError(f"sample {sample} has {len(stages.sizes)} image(s), and {len(images)} were given to draw on")
    places = list(stages.tokens)
    wide = min(1 + len(places), COLUMNS)
    lines = math.ceil((1 + len(places)) / wide)
    figure, axes = _panels(lines * len(images), wide)
    for number, picture in enumerate(images):
        block = axes[number * lines : (number + 1) * lines].flat
        draw_outcome(block[0], picture, stages.whole(number))
        block[0].set_title(f"the picture\n{stages.sizes[number]} tokens")
        for axis, where in zip(block[1:], places, strict=False):
            left = stages.left(where, number)
            draw_outcome(axis, picture, left)
            apart = f", {left.adrift} of no place" if left.adrift else ""
            axis.set_title(f"{where}\n{len(left.kept) + left.adrift} of {left.count}{apart}")
    _set_question(figure, question, answer)
    return figure


def gallery(
    image: Any, traces: Mapping[str, Trace], *, question: str = "", answer: str = "", columns: int = COLUMNS
) -> Figure:
    """One panel per method: what its last stage left of the picture, as `overlay` draws it.

    ``traces``: title -> trace of one image.
    """
    (picture,) = pixels(image)
    outcomes = {title: StageOutcome(trace, 0) for title, trace in traces.items()}
    shown = 1 + len(outcomes)
    figure, axes = _panels(math.ceil(shown / columns), min(columns, shown))
    for axis, (title, stages) in zip(axes.flat[1:], outcomes.items(), strict=False):
        draw_outcome(axis, picture, stages.last(0))
        axis.set_title("\n".join(fill(line, 19) for line in title.splitlines()))
    draw_outcome(axes.flat[0], picture, stages.whole(0))
    axes.flat[0].set_title("the picture" + (f"\n→ {answer}" if answer else ""))
    _set_question(figure, question, "")
    return figure


def draw_outcome(axis: Axes, picture: np.ndarray, left: KeptPatches) -> None:
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
    shown = left.kept.union(*left.groups)
    cover[[patch for patch in range(left.count) if patch not in shown]] = (*to_rgb(INK), DARK)
    lines, inks = [], []
    for group, tint in zip(left.groups, _tints(left.groups, side), strict=True):
        cover[[patch for patch in group if patch not in left.kept]] = (*to_rgb(tint), TINT)
        border = _edges(group, side)
        lines += border
        inks += [tint] * len(border)
    axis.imshow(cover.reshape(side, side, 4), extent=extent, interpolation="nearest")
    if len(left.kept) < left.count:
        axis.add_collection(LineCollection(_edges(left.kept, side), colors="white", linewidths=0.5))
    axis.add_collection(LineCollection(lines, colors=inks, linewidths=1.1))
    axis.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    axis.spines[:].set_visible(True)
    axis.spines[:].set(color="#BBBBBB", linewidth=0.5)


def _edges(patches: frozenset[int], side: int) -> list[list[tuple[int, int]]]:
    """The border of a set of patches as line segments."""
    border = []
    for patch in patches:
        y, x = divmod(patch, side)
        sides = [
            (patch - side, (x, y), (x + 1, y)),
            (patch + side, (x, y + 1), (x + 1, y + 1)),
            (patch - 1 if x else -1, (x, y), (x, y + 1)),
            (patch + 1 if x + 1 < side else -1, (x + 1, y), (x + 1, y + 1)),
        ]
        border += [[start, end] for neighbour, start, end in sides if neighbour not in patches]
    return border


def _tints(groups: Sequence[frozenset[int]], side: int) -> list[str]:
    """A colour for each group, none that a group beside it has, as far as there are enough of them."""
    chosen: list[str] = []
    for number, group in enumerate(groups):
        around = {p + step for p in group for step in (-side - 1, -side, -side + 1, -1, 1, side - 1, side, side + 1)}
        taken = [chosen[other] for other in range(number) if groups[other] & around]
        chosen.append(min(TINTS, key=lambda tint: (taken.count(tint), chosen.count(tint))))
    return chosen


def _panels(lines: int, columns: int) -> tuple[Figure, np.ndarray]:
    size = min(PAGE / columns, 1.6)
    figure, axes = subplots(lines, columns, figsize=(size * columns, (size + 0.34) * lines), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
        axis.title.set_fontsize(7)
    return figure, axes


def _set_question(figure: Figure, question: str, answer: str) -> None:
    text = question + (f"  →  {answer}" if answer else "")
    if text:
        figure.suptitle(fill(text, int(figure.get_figwidth() * 16)), fontsize=8)
