"""What a prompt holds, column by column: which are padding, text or image tokens, and their positions."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.evidence import Counts
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Prompt:
    """A batch of prompts, described on the CPU.

    alive     (batch, columns) bool   no padding
    image     (batch, columns) int64  which of the sample's images a column shows, counted from 0; -1 for text
    position  (batch, columns) int64  position numbers as the model was given them
    content   sample -> bytes         the sample's own input, whatever batch or padding it came in
    end       columns before it are the prompt; later ones were guessed or generated
    hidden    whether the mask hides a part of a picture
    """

    alive: Tensor
    image: Tensor
    position: Tensor
    content: Callable[[int], bytes]
    end: int = sys.maxsize
    hidden: bool = False

    def __reduce__(self) -> tuple:
        """A pickled prompt has no content, which may be large and is read while it runs."""
        return Prompt, (self.alive, self.image, self.position, _no_content, self.end, self.hidden)

    @property
    def visual(self) -> Tensor:
        """(batch, columns) bool: the columns that hold a visual token."""
        return self.image >= 0

    @property
    def patch(self) -> Tensor:
        """(batch, columns) int64: number of a visual token among its sample's visual tokens; meaningless elsewhere."""
        return self.visual.cumsum(1) - 1

    @cached_property
    def patches(self) -> list[int]:
        """Per sample: how many visual tokens it has."""
        return self.visual.numpy().sum(1).tolist()

    def counts(self, sample: int) -> Counts:
        """What is known of the sample without a look at its tokens."""
        image, alive = self.image[sample].numpy(), self.alive[sample].numpy()
        pictures = tuple(int((image == number).sum()) for number in range(image.max(initial=-1) + 1))
        text = np.flatnonzero(alive & (image < 0))
        own = text[text < self.end]
        last = np.flatnonzero(image >= 0).max(initial=-1)
        return Counts(pictures, len(own), int((own > last).sum()))

    def tokens(self, sample: int) -> Tokens:
        """The sample's tokens, untouched, without padding."""
        index = torch.from_numpy(np.flatnonzero(self.alive[sample].numpy()))
        return Tokens.fresh(index, self.visual[sample, index], self.patches[sample])


@dataclass(frozen=True)
class PromptInputs:
    """What the caller gave the model: ids (batch, columns), embeddings (batch, columns, width), pictures; or None.

    pictures  one tensor per picture in the order of the samples: its pixels, or its features if it came encoded
    tokens    how many visual tokens each picture stands for, where that is known
    repeats   how many rows in a row are one sample (beams, several answers), for which pictures and tokens count once
    end       columns before it are the prompt; later ones were guessed or generated
    """

    ids: Tensor | None = None
    embeds: Tensor | None = None
    pictures: Sequence[Tensor] | None = None
    tokens: Sequence[int] | None = None
    repeats: int = 1
    end: int = sys.maxsize

    @property
    def data(self) -> Tensor:
        """The ids, or the embeddings where there are none."""
        return self.embeds if self.ids is None else self.ids


def read_prompt(
    inputs: PromptInputs, image_token: int | None, visual: Tensor | None, mask: Tensor | None, position: Tensor
) -> Prompt:
    """Describe a prefill.

    mask (batch, columns) 0/1 or None; position (batch or 1, columns) as the decoder gets it, or with another axis in
    front for multi-axis rotary embedding, whose first entry is kept.
    """
    batch, columns = inputs.data.shape[:2]
    alive = torch.ones(batch, columns, dtype=torch.bool)
    if mask is not None and mask.dim() == 2 and not mask.is_meta:
        alive = mask.bool().cpu()
    shown = _visual(inputs, image_token, visual, batch, columns)
    seen = shown & alive
    image = number_images(seen[:: inputs.repeats], _lengths(inputs, int(seen[:: inputs.repeats].sum())))
    image = image.repeat_interleave(inputs.repeats, 0)
    position = position[0] if position.dim() == 3 else position
    if position.is_meta:
        position = torch.arange(columns)[None]
    hidden, contents = bool((shown & ~alive).any()), _contents(inputs, alive, image)
    return Prompt(alive, image, position.cpu().expand(batch, -1), contents, inputs.end, hidden)


def _visual(inputs: PromptInputs, image_token: int | None, visual: Tensor | None, batch: int, columns: int) -> Tensor:
    if visual is not None:
        if visual.dim() != 2 or visual.shape[1] != columns or batch % visual.shape[0]:
            raise UserError(f"visual has the shape {tuple(visual.shape)}, but this prompt is {(batch, columns)}")
        return visual.bool().cpu().repeat_interleave(batch // visual.shape[0], 0)  # generate repeats samples for beams
    if image_token is None or inputs.ids is None or inputs.ids.is_meta:
        raise UserError("no token ids to find the image in: say which columns are visual, reduce(..., visual=mask)")
    return inputs.ids.cpu() == image_token


def _lengths(inputs: PromptInputs, total: int) -> list[int]:
    """How many of the ``total`` visual tokens of all samples each picture has, one after the other; [] if unknown."""
    if inputs.tokens is not None and sum(inputs.tokens) == total:
        return list(inputs.tokens)
    count = len(inputs.pictures or ())
    return [total // count] * count if count and total % count == 0 else []


def _contents(inputs: PromptInputs, alive: Tensor, image: Tensor) -> Callable[[int], bytes]:
    """Sample -> its ids (or embeddings, if those are all there is) and its own pictures."""
    count, end = (image[:: inputs.repeats].amax(1) + 1).tolist(), inputs.end
    matched = inputs.pictures is not None and len(inputs.pictures) == sum(count)  # not so where pictures come in tiles

    def content(sample: int) -> bytes:
        rows = torch.from_numpy(np.flatnonzero(alive[sample, :end].numpy()))
        parts = as_bytes(inputs.data[sample].index_select(0, rows.to(inputs.data.device)))
        if matched:
            of = sample // inputs.repeats
            first = sum(count[:of])
            parts += b"".join(as_bytes(picture) for picture in inputs.pictures[first : first + count[of]])
        return parts or sample.to_bytes(4, "big")  # the meta device has shapes only

    return content


def _no_content(sample: int) -> bytes:
    raise UserError("a prompt that was stored does not hold its own content")


def number_images(visual: Tensor, lengths: Sequence[int] = ()) -> Tensor:
    """Which image each visual column shows, per sample; -1 for text.

    visual (batch, columns) bool; ``lengths``: visual tokens of each picture, where they are known, in the order of the
    samples. A run of visual columns is one image, or as many as the next lengths that add up to it.
    """
    image, coming = torch.full(visual.shape, -1), list(lengths)
    for row, mask in enumerate(visual):
        number = 0
        columns = mask.nonzero().squeeze(1)
        breaks = (columns.diff() != 1).nonzero().squeeze(1) + 1
        for run in columns.tensor_split(breaks.tolist()) if len(columns) else ():
            sums = list(accumulate(coming))
            count = sums.index(len(run)) + 1 if len(run) in sums else 0
            for image_columns in run.split(coming[:count] or [len(run)]):
                image[row, image_columns] = number
                number += 1
            coming = coming[count:] if count else []  # a picture with text between its parts: runs are all there is
    return image


def as_bytes(tensor: Tensor | None) -> bytes:
    """The numbers of a tensor, independent of its device; nothing for None or for a tensor without data (meta)."""
    if tensor is None or tensor.is_meta or tensor.numel() == 0:
        return b""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
