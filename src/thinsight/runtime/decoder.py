"""The state of one prompt on its way through the decoder: tokens and layouts by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinsight.reduction.attention import LayerAttention, side_by_side
from thinsight.reduction.evidence import Counts, Evidence, Reader, StageNotes
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.prompt import Prompt
from thinsight.reduction.sources import take_at
from thinsight.reduction.tokens import Tokens, places
from thinsight.runtime.layout import Layout, Layouts, take_rows
from thinsight.runtime.side_by_side import reduce_side_by_side
from thinsight.runtime.trace import PrefillTrace

AttentionAt = dict[str, Callable[[], LayerAttention]]
"""The layers that a stage can look at from where it is: "attention" and "next" (see `Evidence.layer_attention`)."""

ReachAttention = Callable[[Sequence[int], Tokens], AttentionAt]
"""(samples, their tokens side by side) -> what a stage can look at."""


@dataclass
class DecoderStart:
    """What is known of a prompt before the decoder sees it.

    providers  per sample: name -> what `Evidence.get` makes on demand
    notes      per sample: what earlier stages left
    reader     reads the question: tokenizer and text tower of the model, or None
    tokens     per sample: what reductions in front of the projector have left of it; None if there were none
    pack       whether positions are counted anew then, without gaps
    device     where the bookkeeping is done: that of the states
    """

    providers: list[dict]
    notes: list[StageNotes]
    reader: Reader | None = None
    tokens: list[Tokens] | None = None
    pack: bool = False
    device: torch.device | str = "cpu"


class DecoderState:
    """What is left of a prompt at each layer. It is made at the prefill and lives as long as the cache it filled.

    layouts  what entered each layer so far
    layout   what is held now
    tokens   per sample: the tokens alive now
    trace    the record of this prompt
    drafts   how many columns at the end are no part of the prompt: tokens that an assistant has guessed, or, without a
             cache, those that were generated
    """

    def __init__(self, method: Method, prompt: Prompt, depth: int, start: DecoderStart, trace: PrefillTrace) -> None:
        self.reductions, self.prompt, self.depth, self.trace = method.after_projector, prompt, depth, trace
        self.start, self.drafts = start, max(prompt.alive.shape[1] - prompt.end, 0)
        self.layout = Layout.full(prompt, start.device)
        self.layouts = Layouts(self.layout)
        self.embeds: Tensor | None = None
        self.image = prompt.image.to(start.device)
        samples = range(len(prompt.alive))
        self.whole = [prompt.tokens(sample).to(start.device) for sample in samples]
        self.tokens = self.whole if start.tokens is None else start.tokens
        self.plan = [[self._where(r, sample) for r in self.reductions] for sample in samples]
        self.counts = [prompt.counts(sample) for sample in samples]
        needs = frozenset().union(*(r.needs for r in self.reductions))
        for sample in samples if "text" in needs else ():
            self.counts[sample] = self.counts[sample]._replace(front=len(self._front(sample)))
        self.contents = [prompt.content(sample) for sample in samples] if "content" in needs else []

    def _front(self, sample: int) -> Tensor:
        front = self.start.providers[sample].get("front")
        return self.image[0, :0] if front is None else front()

    @property
    def proportional(self) -> bool:
        """Whether merged tokens count for as many as they stand for."""
        return any(r.site.proportional for r in self.reductions)

    @property
    def remembers(self) -> bool:
        """Whether a stage will ask for the prompt as it entered the decoder."""
        return any("embeddings" in r.needs for r in self.reductions)

    def acts(self, layer: int, inside: bool = False) -> bool:
        """Whether any sample is reduced before ``layer``, or inside it."""
        if layer == 0 and not inside and self.start.tokens is not None:
            return True
        chosen = [i for i, r in enumerate(self.reductions) if r.site.inside == inside]
        return any(layer in plan[i] for plan in self.plan for i in chosen)

    def advance(self, layer: int, hidden: Tensor | None, attention: ReachAttention | None = None) -> Tensor | None:
        """Apply what happens before ``layer`` to ``hidden`` (batch, held, width) and note the layout that enters it."""
        if self.acts(layer):
            if layer == 0 and self.start.tokens is not None:
                pack = [self.start.pack and len(t) < len(w) for t, w in zip(self.tokens, self.whole, strict=True)]
                hidden = self._narrowed(self.whole, pack, hidden)
            hidden = self._reduced(layer, False, hidden, attention, f"before layer {layer}")
        self.layouts.layers.append(self.layout)
        self.layouts.biases.append(self._bias() if self.proportional else None)
        return hidden

    def _bias(self) -> Tensor | None:
        """(batch, held) log sizes of what the layout holds; None while nothing has merged."""
        if all(tokens.made is None for tokens in self.tokens):
            return None
        bias = torch.zeros(self.layout.columns.shape, dtype=torch.float32, device=self.layout.columns.device)
        for sample, tokens in enumerate(self.tokens):
            bias[sample] = bias[sample].index_copy(0, self._rows(sample, tokens), tokens.size.log())
        return bias

    def inside(self, layer: int, hidden: Tensor, attention: ReachAttention) -> Tensor:
        """Apply what happens between the halves of ``layer``."""
        return self._reduced(layer, True, hidden, attention, f"in layer {layer}") if self.acts(layer, True) else hidden

    def _reduced(
        self, layer: int, inside: bool, hidden: Tensor, attention: ReachAttention | None, where: str
    ) -> Tensor:
        before, self.after = self.tokens, list(self.tokens)
        pack = [False] * len(before)
        for number, reduction in enumerate(self.reductions):
            if reduction.site.inside != inside:
                continue
            for samples, stage, stages in self._groups(layer, number, reduction):
                tokens = {sample: self.after[sample] for sample in samples}
                look = partial(self._look, Place(layer, stage, stages), hidden, attention)
                columns, notes = self.prompt.alive.shape[1], self.start.notes
                reduced = reduce_side_by_side(reduction, tokens, notes, look, columns, self.trace.noticed)
                for sample, own in reduced.items():
                    self.after[sample] = own
                for sample in samples:
                    fewer = len(self.after[sample]) < len(before[sample])
                    pack[sample] |= reduction.site.positions == "pack" and fewer
        if all(new is old for new, old in zip(self.after, before, strict=True)):
            return hidden
        self.tokens = self.after
        hidden = self._narrowed(before, pack, hidden)
        self.trace.step(where, self.tokens)
        return hidden

    def _narrowed(self, before: list[Tokens], pack: list[bool], hidden: Tensor) -> Tensor:
        """Cut ``hidden`` to the tokens that there are now, and put changed states into their rows."""
        if any(len(new) < len(old) for new, old in zip(self.tokens, before, strict=True)):
            wide, pairs = self.layout, list(zip(before, self.tokens, strict=True))
            self.layout = wide.narrow([tokens.index for tokens in self.tokens], pack)
            if any(tokens.origin is not None for pair in pairs for tokens in pair):
                self.layout = self.layout.renumbered(wide, pairs, pack)
            hidden = take_rows(hidden, self.layout.rows_in(wide, hidden.device))
        else:
            hidden = hidden.clone()
        changed = [
            (sample, tokens)
            for sample, tokens in enumerate(self.tokens)
            if tokens.states is not None and (tokens.made is not None or tokens.origin is not None)
        ]
        for sample, tokens in changed:
            hidden[sample].index_copy_(0, self._rows(sample, tokens).to(hidden.device), tokens.states.to(hidden.dtype))
        self.tokens = [tokens.with_states(None) for tokens in self.tokens]
        return hidden

    def _rows(self, sample: int, tokens: Tokens) -> Tensor:
        return self.layout.places(sample, tokens.index)

    def _groups(self, layer: int, number: int, reduction: Reduction) -> list[tuple[list[int], int, int]]:
        """The samples that reduction ``number`` acts on before ``layer``, those side by side that are alike, each with
        the number of the stage and how many there are."""
        groups: dict[tuple, list[int]] = {}
        for sample, tokens in enumerate(self.after):
            layers = self.plan[sample][number]
            if layer not in layers:
                continue
            counts, alike = self._counts(sample), self.start.notes[sample].alike
            key = (tokens.patches, counts.pictures, layers.index(layer), len(layers), alike)
            key += (tokens.made is None, tokens.states is None)
            if reduction.alone:
                key = (tokens.patches, counts.pictures, layers.index(layer), len(layers), alike)
            key += (tokens.made is None, tokens.states is None)
            if reduction.alone:
                key = (sample,)
            elif "text" in reduction.needs:
                key += (counts,)
            groups.setdefault(key, []).append(sample)
        return [
            (samples, self.plan[samples[0]][number].index(layer), len(self.plan[samples[0]][number]))
            for samples in groups.values()
        ]

    def _counts(self, sample: int) -> Counts:
        """What the host knows of a sample as it is now."""
        counts, tokens = self.counts[sample], self.after[sample]
        text = len(tokens) - tokens.patches - self.drafts
        if text == counts.text:
            return counts
        last = np.flatnonzero(self.prompt.visual[sample].numpy()).max(initial=-1)
        left = tokens.shown(visual=False).index.numpy(force=True)  # text has left: a method that looks at its own
        return counts._replace(text=text, behind=int(((left > last) & (left < self.prompt.end)).sum()), cut=True)

    def _look(
        self, place: "Place", hidden: Tensor, attention: ReachAttention | None, samples: list[int], tokens: Tokens
    ) -> tuple[Tokens, Evidence]:
        """``tokens`` of some samples with their states, and what a stage may ask about them."""
        if tokens.states is None:
            columns = side_by_side(self.layout.columns, samples)
            rows = torch.searchsorted(columns, tokens.index.clamp(min=0)).to(hidden.device)
            tokens = tokens.with_states(take_at(side_by_side(hidden, samples), rows))
        return tokens, self._evidence(samples, place, tokens, attention)

    def _where(self, reduction: Reduction, sample: int) -> tuple[int, ...]:
        """The layers of a reduction for one sample; none where there is no image."""
        blank = Evidence(0, self.depth, self.prompt.image[sample], partial(self.prompt.content, sample))
        return reduction.site.where(blank) if self.prompt.patches[sample] else ()

    def _evidence(
        self, samples: list[int], place: "Place", tokens: Tokens, attention: ReachAttention | None
    ) -> Evidence:
        """What a stage may ask about these samples, ``tokens`` being theirs side by side."""
        providers: dict[str, Callable[[], Any]] = {}
        for name in self.start.providers[samples[0]]:
            providers[name] = partial(_every, [self.start.providers[sample][name] for sample in samples])
        if self.embeds is not None:
            providers["embeddings"] = lambda: side_by_side(self.embeds, samples)
        attention_at = {} if attention is None else attention(samples, tokens)
        own = tokens
        if self.drafts:
            own = tokens.take(places(tokens.index < self.prompt.end, len(tokens) - self.drafts), tokens.patches)
        return Evidence(
            place.layer,
            self.depth,
            side_by_side(self.image, samples),
            lambda: [self.contents[sample] for sample in samples],
            place.stage,
            place.stages,
            own,
            {name: cache(make) for name, make in attention_at.items()},
            providers,
            StageNotes.side_by_side([self.start.notes[sample] for sample in samples]),
            self.start.reader,
            self._counts(samples[0]),
        )


@dataclass(frozen=True)
class Place:
    """The layer that a reduction acts at, which of its ``stages`` that is."""

    layer: int
    stage: int
    stages: int


def _every(makers: list[Callable[[], Any]]) -> Any:
    """What each sample's provider makes, side by side; one function for all of them; a list of lists of words."""
    made = [make() for make in makers]
    if isinstance(made[0], Tensor):
        return torch.stack(made)
    return made[0] if callable(made[0]) else made
