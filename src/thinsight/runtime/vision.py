"""Reductions inside and behind the vision tower, and their tokens placed in the prompt's columns."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from thinsight.errors import UserError
from thinsight.models.architecture import BLOCK_PARTS, VisionTower
from thinsight.reduction.attention import CapturedQK, LayerAttention, side_by_side
from thinsight.reduction.evidence import Counts, Evidence, Reader, StageNotes
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.prompt import Prompt, as_bytes
from thinsight.reduction.sites import Features, Vision
from thinsight.reduction.sources import Placed
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.decoder import DecoderStart
from thinsight.runtime.hooks import (
    as_called,
    post_hook,
    pre_hook,
    project_attention,
    projection,
    split,
)
from thinsight.runtime.side_by_side import reduce_side_by_side
from thinsight.runtime.trace import PrefillTrace

VisionPlan = list[tuple[Reduction, int, int]]
"""The reductions of a place, each with the number of its stage and how many stages it has."""


@dataclass
class EncodedImages:
    """The images encoded since the last prompt, in the order in which they came.

    tokens    what the projector got of each, in the tower's numbering: class token 0, then patches in raster order
    steps     where something was reduced -> each image's tokens after it
    lengths   tokens that entered each block of the tower, class token included
    features  (patches, width) what the projector reads of an unreduced image, where a stage needs it
    notes     what stages left for later ones
    """

    tokens: list[Tokens] = field(default_factory=list)
    steps: dict[str, list[Tokens]] = field(default_factory=dict)
    lengths: list[list[int]] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    notes: list[StageNotes] = field(default_factory=list)


class VisionReducer(threading.local):
    """The hooks on a vision tower, and the images that go through it; every thread sees its own.

    noticed  whether any score was no number, see `thinsight.reduction.ties.noticing`
    """

    def __init__(self, tower: VisionTower, method: Method, reader: Reader | None, noticed: list[Tensor]) -> None:
        self.noticed = noticed
        self.tower, self.method, self.reader, self.encoded = tower, method, reader, EncodedImages()
        self.active, self.needs_features = bool(method.before_projector), "features" in method.needs
        self.inside: dict[int, VisionPlan] = {}
        self.before: dict[int, VisionPlan] = {}
        self.behind: VisionPlan = [(r, 0, 1) for r in method.before_projector if isinstance(r.site, Features)]
        self.proportional = any(getattr(r.site, "proportional", False) for r in method.before_projector)
        captured = {tower.used - 1} if any("attention" in r.needs for r, _, _ in self.behind) else set()
        for reduction in (r for r in method.before_projector if isinstance(r.site, Vision)):
            blocks = reduction.site.blocks(len(tower.blocks), tower.used)
            for stage, block in enumerate(blocks):
                plan = self.inside if reduction.site.inside else self.before
                plan.setdefault(block, []).append((reduction, stage, len(blocks)))
                if "attention" in reduction.needs:
                    captured.add(block if reduction.site.inside else block - 1)
        self.captured_blocks = sorted(captured - {-1})
        if "cls" in method.needs and not tower.classes:
            raise UserError(
                f"method {method.name} looks at a class token, and this vision tower has none: name a substitute "
                "for it in the method's field cls"
            )

    def enter(self, stack: ExitStack) -> None:
        """Register every hook and split the blocks that need it; leaving ``stack`` undoes all of it."""
        blocks, projector = self.tower.blocks, self.tower.projector
        if self.active:
            for number, block in enumerate(blocks):
                stack.callback(pre_hook(block, partial(self.on_block, number)).remove)
            stack.callback(post_hook(blocks[self.tower.used - 1], self.on_last_block).remove)
        for number in self.captured_blocks:
            for part in ("queries", "keys"):
                hook = projection(blocks[number].self_attn, part, partial(self.on_projection, number, part))
                stack.callback(hook.remove)
        for number in self.inside:
            split(blocks[number], BLOCK_PARTS, partial(self.inside_block, number), stack)
        if self.active or self.needs_features:
            stack.callback(pre_hook(projector, self.on_projector).remove)
            stack.callback(post_hook(projector, self.after_projector).remove)

    def on_tower(self, pixels: Tensor) -> None:
        """The tower is called with (images, 3, height, width), once for all images of a batch of prompts. What a call
        that failed has left is forgotten."""
        self.pixels, self.images, self.captured, self.encoded = list(pixels), [], {}, EncodedImages()

    def forget(self) -> None:
        """A prompt is done with."""
        self.encoded = EncodedImages()

    def on_block(self, number: int, arguments: dict) -> dict:
        """A block is called."""
        hidden = arguments["hidden_states"]
        if not self.images:
            self.columns = hidden.shape[1]
            self.device = torch.device("cpu") if hidden.is_meta else hidden.device
            index = torch.arange(self.columns, device=self.device)
            patches = self.columns - self.tower.classes
            self.images = [Tokens.fresh(index, index >= self.tower.classes, patches)] * len(hidden)
            self.image = torch.where(index >= self.tower.classes, 0, -1)
            self.first = len(self.encoded.lengths)
            self.encoded.lengths += [[] for _ in self.images]
            self.encoded.notes += [StageNotes() for _ in self.images]
        if number in self.before:
            hidden = self.reduce(self.before[number], number, hidden, f"before vision block {number}")
        for tokens, lengths in zip(self.images, self.encoded.lengths[self.first :], strict=True):
            lengths.append(len(tokens))
        if number in self.captured_blocks:
            self.captured[number] = self.captured_block(number)
        return {
            **arguments,
            "hidden_states": hidden,
            "attention_mask": self.mask(hidden, arguments.get("attention_mask")),
        }

    def inside_block(self, number: int, hidden: Tensor) -> Tensor:
        """Between the two halves of a block."""
        return self.reduce(self.inside[number], number, hidden, f"in vision block {number}")

    def on_last_block(self, _: nn.Module, __: tuple, hidden: Tensor) -> None:
        """The states that the projector reads, class token included, leave the last block that it reads."""
        self.hidden = hidden

    def on_projector(self, arguments: dict) -> dict | None:
        """Features enter the projector: reduce them here, or just look at them."""
        name, features = next((key, value) for key, value in arguments.items() if isinstance(value, Tensor))
        if self.needs_features:
            self.encoded.features += list(features)
        if not self.behind:
            return None
        self.hidden = self.reduce(self.behind, self.tower.used, self.hidden, "features")
        return {**arguments, name: self.hidden[:, self.tower.classes :]}

    def after_projector(self, _: nn.Module, __: tuple, projected: Tensor) -> Tensor | None:
        """Projected rows go to the places of their patches. The empty places hold NaN until they leave the prompt."""
        if not self.active:
            return None
        full = projected.new_full((len(projected), self.columns - self.tower.classes, projected.shape[-1]), torch.nan)
        for images in alike(self.images):
            patches = Tokens.stacked([self.images[image] for image in images]).shown(visual=True)
            places = (patches.index - self.tower.classes).to(full.device)[..., None]
            rows = side_by_side(projected, images)[:, : len(patches)]
            placed = side_by_side(full, images).scatter(1, places.expand_as(rows), rows)
            full = placed if len(images) == len(full) else full.index_copy(0, _numbers(images, full.device), placed)
        self.encoded.tokens += self.images
        return full

    def reduce(self, plan: VisionPlan, number: int, hidden: Tensor, where: str) -> Tensor:
        """Every image through the reductions of one place; hidden (images, rows, width), then with fewer rows."""
        after = list(self.images)
        for reduction, stage, stages in plan:
            for images in [[n] for n in range(len(after))] if reduction.alone else alike(after):
                tokens, notes = {image: after[image] for image in images}, self.encoded.notes[self.first :]
                look = partial(self.look, reduction, stage, stages, number, hidden)
                reduced = reduce_side_by_side(reduction, tokens, notes, look, self.columns, self.noticed)
                for image, own in reduced.items():
                    after[image] = own
        self.images = [tokens.with_states(None) for tokens in after]
        self.encoded.steps.setdefault(where, []).extend(self.images)
        states = [hidden[n, : len(t)] if t.states is None else t.states for n, t in enumerate(after)]
        return pad_sequence(states, batch_first=True)

    def look(
        self,
        reduction: Reduction,
        stage: int,
        stages: int,
        number: int,
        hidden: Tensor,
        images: list[int],
        tokens: Tokens,
    ) -> tuple[Tokens, Evidence]:
        """``tokens`` of some images with their states, and what a stage may ask about them."""
        if tokens.states is None:
            tokens = tokens.with_states(side_by_side(hidden, images)[:, : len(tokens)])
        return tokens, self.evidence(images, number, tokens, stage, stages, reduction.site)

    def evidence(
        self, images: list[int], number: int, tokens: Tokens, stage: int, stages: int, site: object
    ) -> Evidence:
        """What a stage may ask about these images at block ``number``, ``tokens`` being theirs side by side."""
        before = number if getattr(site, "inside", False) else number - 1  # the last block whose attention is known
        attention_at = {}
        if before in self.captured:
            attention_at["attention"] = cache(partial(self.captured[before].layer_attention, images))
        if before == number - 1 and number < len(self.tower.blocks):
            coming = partial(self.next_block_attention, number, tokens)
            attention_at["next"] = cache(as_called(coming, tokens.states.device))
        providers = {"features": lambda: side_by_side(self.hidden, images)[:, self.tower.classes :]}
        notes = StageNotes.side_by_side([self.encoded.notes[self.first + image] for image in images])
        return Evidence(
            number,
            len(self.tower.blocks),
            self.image.expand(len(images), -1),
            lambda: [as_bytes(self.pixels[image]) for image in images],
            stage,
            stages,
            tokens,
            attention_at,
            providers,
            notes,
            self.reader,
            Counts((self.columns - self.tower.classes,), self.tower.classes),
        )

    def captured_block(self, number: int) -> CapturedQK:
        """A record of a block that is about to run."""
        attention = self.tower.blocks[number].self_attn
        index = [tokens.index for tokens in self.images]
        bias = [tokens.size.log() for tokens in self.images] if self.proportional else None
        rows = [torch.arange(len(columns), device=columns.device) for columns in index]
        return CapturedQK(attention.head_dim, attention.head_dim**-0.5, index, rows, bias=bias)

    def on_projection(self, number: int, part: str, _: nn.Module, __: tuple, states: Tensor) -> None:
        """The projections of a block."""
        setattr(self.captured[number], part, states)

    def next_block_attention(self, number: int, tokens: Tokens) -> LayerAttention:
        """Queries and keys that block ``number`` would make of ``tokens``."""
        block = self.tower.blocks[number]
        bias, scaling = tokens.size.log() if self.proportional else None, block.self_attn.head_dim**-0.5
        return project_attention(block.self_attn, block.layer_norm1(tokens.states), tokens.index, scaling, bias)

    def mask(self, hidden: Tensor, mask: Tensor | None) -> Tensor | None:
        """(images, 1, rows, rows) additive: log sizes of the keys, rows that only fill up hidden; or ``mask``."""
        sized = self.proportional and any(tokens.made is not None for tokens in self.images)
        if not sized and all(len(tokens) == hidden.shape[1] for tokens in self.images):
            return mask
        if "flash" in (self.tower.blocks[0].self_attn.config._attn_implementation or ""):
            raise UserError(
                "merged sizes and images of different lengths are beyond FlashAttention in the vision tower: load the "
                "model with sdpa or eager attention"
            )
        each = [t.size if sized else torch.ones_like(t.size) for t in self.images]
        sizes = pad_sequence(each, batch_first=True)
        bias = sizes.log().to(hidden).clamp(min=torch.finfo(hidden.dtype).min)
        return bias[:, None, None].expand(-1, 1, hidden.shape[1], -1)

    def enter_decoder(
        self, start: DecoderStart, prompt: Prompt, embeds: Tensor | None, trace: PrefillTrace, repeats: int, keep: bool
    ) -> Tensor | None:
        """Hand the encoded images over: complete ``start`` and return the embeddings without holes; None where they
        need no change.

        embeds (batch, columns, width) with NaN in the visual columns whose patches are gone; ``repeats``: how many rows
        in a row are one sample; ``keep``: the same prompt will come again, with what was generated behind it.
        """
        encoded, samples = self.encoded, range(len(prompt.alive))
        if not keep:
            self.encoded = EncodedImages()
        if not any(prompt.patches):
            return None
        trace.tower = encoded.lengths
        numbers = _images(prompt, len(encoded.tokens) or len(encoded.features), repeats)
        if encoded.features and numbers is not None:
            projector = as_called(self.tower.projector.forward, embeds.device)  # its hooks belong to the pictures
            for sample in samples:
                features = [encoded.features[i] for i in numbers[sample]]
                start.providers[sample]["features"] = partial(torch.cat, features)
                start.providers[sample]["projector"] = lambda: projector
        if numbers is not None and encoded.notes:
            for sample in samples:
                start.notes[sample].images = [encoded.notes[i] for i in numbers[sample]]
        if not self.method.before_projector:
            return None
        if not encoded.tokens:
            raise UserError(
                f"method {self.method.name} acts before the projector, but its picture came encoded already: pass the "
                "pixels"
            )
        hole = embeds[..., 0].isnan() & prompt.visual.to(embeds.device)
        if numbers is None:
            hole = hole.cpu()
            start.tokens = [prompt.tokens(s).take(~hole[s][prompt.tokens(s).index]).to(start.device) for s in samples]
        else:
            start.tokens = in_prompts(prompt, numbers, encoded.tokens, start.device)
            for where, images in encoded.steps.items():
                trace.step(where, partial(in_prompts, prompt, numbers, images, start.device))
        start.pack = any(r.site.positions == "pack" for r in self.method.before_projector)
        return embeds.masked_fill(hole.to(embeds.device)[..., None], 0.0)


def alike(images: list[Tokens]) -> list[list[int]]:
    """Numbers of the images that have equally many tokens, side by side."""
    groups: dict[tuple, list[int]] = {}
    for number, tokens in enumerate(images):
        groups.setdefault((len(tokens), tokens.made is None, tokens.states is None), []).append(number)
    return list(groups.values())


def in_prompts(
    prompt: Prompt, numbers: list[list[int]], images: list[Tokens], device: torch.device | str
) -> list[Tokens]:
    """`in_prompt` of every sample, whose images have these numbers among ``images``."""
    return [in_prompt(prompt, sample, [images[n] for n in own], device) for sample, own in enumerate(numbers)]


def in_prompt(prompt: Prompt, sample: int, images: list[Tokens], device: torch.device | str) -> Tokens:
    """The tokens of a sample whose images have been reduced to ``images``, each in its tower's own numbering."""
    tokens, width = prompt.tokens(sample).shown(visual=False).to(device), prompt.alive.shape[1]
    traced = any(image.made is not None for image in images)
    tokens = tokens.with_sources(width) if traced else tokens
    for number, image in enumerate(images):
        columns = torch.from_numpy(np.flatnonzero(prompt.image[sample].numpy() == number)).to(device)
        patches, first = image.shown(visual=True), len(image) - image.patches  # class tokens, which are never removed
        index = columns[patches.index - first]
        origin = None
        if patches.origin is not None:
            origin = torch.where(patches.origin < first, -1, columns[(patches.origin - first).clamp(min=0)])
        made = None
        if traced:
            made = Placed(patches.with_sources(first + len(columns)).made, columns, first, width)
        placed = Tokens(None, index, patches.visual, patches.size, made, origin, patches.patches)
        tokens = tokens.union(placed)
    return tokens


def _numbers(images: list[int], device: torch.device) -> Tensor:
    return torch.tensor(images, dtype=torch.int64, device=device)


def _images(prompt: Prompt, count: int, repeats: int) -> list[list[int]] | None:
    """Per row: the numbers of its images among ``count`` encoded ones; None where columns and images do not match
    (tiles, packing)."""
    image = prompt.image[::repeats].numpy()
    each = (image.max(1) + 1).tolist()
    if count == 0 or sum(each) != count:
        return None
    sizes = {int((row == n).sum()) for row, m in zip(image, each, strict=True) for n in range(m)}
    if len(sizes) != 1:
        return None
    ends = accumulate(each)
    return [list(range(end - m, end)) for end, m in zip(ends, each, strict=True) for _ in range(repeats)]
