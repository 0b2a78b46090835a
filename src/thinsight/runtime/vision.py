"""Reductions inside and behind the vision tower, and their tokens placed in the prompt's columns."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from thinsight.errors import UserError
from thinsight.models.architecture import BLOCK_PARTS, VisionTower
from thinsight.reduction.attention import CapturedQK, LayerAttention
from thinsight.reduction.evidence import Evidence, Reader, StageNotes
from thinsight.reduction.method import Method, Reduction, apply_reduction
from thinsight.reduction.prompt import Prompt, as_bytes
from thinsight.reduction.sites import Features, Vision
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.decoder import DecoderStart
from thinsight.runtime.hooks import (
    as_called,
    full_precision,
    post_hook,
    pre_hook,
    project_attention,
    projection,
    split,
)
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
    """The hooks on a vision tower, and the images that go through it; every thread sees its own."""

    def __init__(self, tower: VisionTower, method: Method, reader: Reader | None) -> None:
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
            index = torch.arange(self.columns)
            self.images = [Tokens.fresh(index, index >= self.tower.classes)] * len(hidden)
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
        for image, tokens in enumerate(self.images):
            places = tokens.index[tokens.visual] - self.tower.classes
            full[image, places.to(full.device)] = projected[image, : len(places)]
        self.encoded.tokens += self.images
        return full

    def reduce(self, plan: VisionPlan, number: int, hidden: Tensor, where: str) -> Tensor:
        """Every image through the reductions of one place; hidden (images, rows, width), then with fewer rows."""
        after = []
        for image, tokens in enumerate(self.images):
            tokens = tokens.with_states(hidden[image, : len(tokens)])
            for reduction, stage, stages in plan:
                evidence = self.evidence(image, number, tokens, stage, stages, reduction.site)
                with full_precision(hidden.device):
                    tokens = apply_reduction(reduction, tokens, evidence, self.columns)
            after.append(tokens)
        self.images = [tokens.with_states(None) for tokens in after]
        self.encoded.steps.setdefault(where, []).extend(self.images)
        return pad_sequence([tokens.states for tokens in after], batch_first=True)

    def evidence(self, image: int, number: int, tokens: Tokens, stage: int, stages: int, site: object) -> Evidence:
        """What a stage may ask about one image at block ``number``."""
        before = number if getattr(site, "inside", False) else number - 1  # the last block whose attention is known
        attention_at = {}
        if before in self.captured:
            attention_at["attention"] = partial(self.captured[before].layer_attention, image)
        if before == number - 1 and number < len(self.tower.blocks):
            attention_at["next"] = as_called(partial(self.next_block_attention, number, tokens), tokens.states.device)
        image_of = torch.full((self.columns,), -1)
        image_of[self.tower.classes :] = 0
        providers = {"features": lambda: self.hidden[image, self.tower.classes :]}
        notes, content = self.encoded.notes[self.first + image], partial(as_bytes, self.pixels[image])
        depth = len(self.tower.blocks)
        return Evidence(
            number, depth, image_of, content, stage, stages, tokens, attention_at, providers, notes, self.reader
        )

    def captured_block(self, number: int) -> CapturedQK:
        """A record of a block that is about to run."""
        attention = self.tower.blocks[number].self_attn
        index = [tokens.index for tokens in self.images]
        bias = [tokens.size.log() for tokens in self.images] if self.proportional else None
        rows = [torch.arange(len(columns)) for columns in index]
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
        counts = torch.tensor([len(tokens) for tokens in self.images])
        sized = self.proportional and any(bool((tokens.size != 1).any()) for tokens in self.images)
        if not sized and bool((counts == hidden.shape[1]).all()):
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
        if not prompt.visual.any():
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
        hole = embeds[..., 0].isnan().cpu() & prompt.visual
        if numbers is None:
            start.tokens = [prompt.tokens(s).take(~hole[s][prompt.tokens(s).index]) for s in samples]
        else:
            start.tokens = [in_prompt(prompt, s, [encoded.tokens[i] for i in numbers[s]]) for s in samples]
            for where, images in encoded.steps.items():
                trace.step(where, [in_prompt(prompt, s, [images[i] for i in numbers[s]]) for s in samples])
        start.pack = any(r.site.positions == "pack" for r in self.method.before_projector)
        return embeds.masked_fill(hole.to(embeds.device)[..., None], 0.0)


def in_prompt(prompt: Prompt, sample: int, images: list[Tokens]) -> Tokens:
    """The tokens of a sample whose images have been reduced to ``images``, each in its tower's own numbering."""
    text = prompt.tokens(sample)
    text = text.take(~text.visual)
    traced = any(image.sources is not None for image in images)
    tokens = text.with_sources(prompt.alive.shape[1]) if traced else text
    for number, image in enumerate(images):
        columns = (prompt.image[sample] == number).nonzero().squeeze(1)
        patches = image.take(image.visual)
        first = int((~image.visual).sum())  # class tokens, which are never removed
        index = columns[patches.index - first]
        origin = torch.where(patches.origins < first, -1, columns[(patches.origins - first).clamp(min=0)])
        sources = None
        if traced:
            sources = torch.zeros(len(patches), prompt.alive.shape[1], dtype=torch.float32)
            shares = patches.with_sources(first + len(columns)).sources
            sources[:, columns] = shares[:, first:]
        placed = Tokens(None, index, patches.visual, patches.size, sources, origin)
        tokens = tokens.union(placed)
    same = tokens.origin is None or torch.equal(tokens.origin, tokens.index)
    return replace(tokens, origin=None) if same else tokens


def _images(prompt: Prompt, count: int, repeats: int) -> list[list[int]] | None:
    """Per row: the numbers of its images among ``count`` encoded ones; None where columns and images do not match
    (tiles, packing)."""
    image = prompt.image[::repeats]
    each = (image.amax(1) + 1).tolist()
    if count == 0 or sum(each) != count:
        return None
    sizes = {int((row == n).sum()) for row, m in zip(image, each, strict=True) for n in range(m)}
    if len(sizes) != 1:
        return None
    ends = torch.tensor(each).cumsum(0).tolist()
    return [list(range(end - m, end)) for end, m in zip(ends, each, strict=True) for _ in range(repeats)]
