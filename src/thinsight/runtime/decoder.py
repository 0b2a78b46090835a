"""The state of one prompt on its way through the decoder: tokens and layouts by layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from thinsight.reduction.attention import LayerAttention
from thinsight.reduction.evidence import Evidence, Reader, StageNotes
from thinsight.reduction.method import Method, Reduction, apply_reduction
from thinsight.reduction.prompt import Prompt
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.hooks import full_precision
from thinsight.runtime.layout import Layout, Layouts, take_rows
from thinsight.runtime.trace import PrefillTrace

AttentionAt = dict[str, Callable[[], LayerAttention]]
"""The layers that a stage can look at from where it is: "attention" and "next" (see `Evidence.layer_attention`)."""

ReachAttention = Callable[[int, Tokens], AttentionAt]
"""(sample, its tokens) -> what a stage can look at."""


@dataclass
class DecoderStart:
    """What is known of a prompt before the decoder sees it.

    providers  per sample: name -> what `Evidence.get` makes on demand
    notes      per sample: what earlier stages left
    reader     reads the question: tokenizer and text tower of the model, or None
    tokens     per sample: what reductions in front of the projector have left of it; None if there were none
    pack       whether positions are counted anew then, without gaps
    """

    providers: list[dict]
    notes: list[StageNotes]
    reader: Reader | None = None
    tokens: list[Tokens] | None = None
    pack: bool = False


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
        self.layout = Layout.full(prompt)
        self.layouts = Layouts(self.layout)
        self.embeds: Tensor | None = None
        samples = range(len(prompt.alive))
        self.whole = [prompt.tokens(sample) for sample in samples]
        self.tokens = self.whole if start.tokens is None else start.tokens
        self.plan = [[self._where(r, sample) for r in self.reductions] for sample in samples]

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
                pack = torch.tensor(
                    [self.start.pack and len(t) < len(w) for t, w in zip(self.tokens, self.whole, strict=True)]
                )
                hidden = self._narrowed(self.whole, pack, hidden)
            hidden = self._reduced(layer, False, hidden, attention, f"before layer {layer}")
        self.layouts.layers.append(self.layout)
        self.layouts.biases.append(self._bias() if self.proportional else None)
        return hidden

    def _bias(self) -> Tensor | None:
        """(batch, held) log sizes of what the layout holds; None while nothing has merged."""
        if all(bool((tokens.size == 1).all()) for tokens in self.tokens):
            return None
        bias = torch.zeros(self.layout.columns.shape, dtype=torch.float32)
        for sample, tokens in enumerate(self.tokens):
            bias[sample, self._rows(sample, tokens)] = tokens.size.log()
        return bias

    def inside(self, layer: int, hidden: Tensor, attention: ReachAttention) -> Tensor:
        """Apply what happens between the halves of ``layer``."""
        return self._reduced(layer, True, hidden, attention, f"in layer {layer}") if self.acts(layer, True) else hidden

    def _reduced(
        self, layer: int, inside: bool, hidden: Tensor, attention: ReachAttention | None, where: str
    ) -> Tensor:
        before = self.tokens
        pairs = [self._reduce(layer, inside, sample, hidden, attention) for sample in range(len(before))]
        if all(new is old for (new, _), old in zip(pairs, before, strict=True)):
            return hidden
        self.tokens = [tokens for tokens, _ in pairs]
        hidden = self._narrowed(before, torch.tensor([pack for _, pack in pairs]), hidden)
        self.trace.step(where, self.tokens)
        return hidden

    def _narrowed(self, before: list[Tokens], pack: Tensor, hidden: Tensor) -> Tensor:
        """Cut ``hidden`` to the tokens that there are now, and put changed states into their rows."""
        if any(len(new) < len(old) for new, old in zip(self.tokens, before, strict=True)):
            wide, pairs = self.layout, list(zip(before, self.tokens, strict=True))
            self.layout = wide.narrow(self.prompt, [tokens.index for tokens in self.tokens], pack)
            if any(tokens.origin is not None for pair in pairs for tokens in pair):
                self.layout = self.layout.renumbered(wide, pairs, pack)
            hidden = take_rows(hidden, self.layout.rows_in(wide, hidden.device))
        else:
            hidden = hidden.clone()
        for sample, tokens in enumerate(self.tokens):
            if tokens.states is not None and (tokens.sources is not None or tokens.origin is not None):
                hidden[sample, self._rows(sample, tokens).to(hidden.device)] = tokens.states
        self.tokens = [tokens.with_states(None) for tokens in self.tokens]
        return hidden

    def _rows(self, sample: int, tokens: Tokens) -> Tensor:
        return self.layout.places(sample, tokens.index)

    def _where(self, reduction: Reduction, sample: int) -> tuple[int, ...]:
        """The layers of a reduction for one sample; none where there is no image."""
        blank = Evidence(0, self.depth, self.prompt.image[sample], partial(self.prompt.content, sample))
        return reduction.site.where(blank) if self.prompt.visual[sample].any() else ()

    def _reduce(
        self, layer: int, inside: bool, sample: int, hidden: Tensor, attention: ReachAttention | None
    ) -> tuple[Tokens, bool]:
        """One sample through all reductions of a place: its tokens after them, and whether its numbers close ranks."""
        tokens, pack = self.tokens[sample], False
        for reduction, layers in zip(self.reductions, self.plan[sample], strict=True):
            if layer not in layers or reduction.site.inside != inside:
                continue
            if tokens.states is None:
                tokens = tokens.with_states(hidden[sample, self._rows(sample, tokens).to(hidden.device)])
            stage = layers.index(layer)
            evidence = self._evidence(layer, sample, tokens, stage, len(layers), attention)
            with full_precision(hidden.device):
                after = apply_reduction(reduction, tokens, evidence, self.prompt.alive.shape[1])
            pack |= reduction.site.positions == "pack" and len(after) < len(tokens)
            tokens = after
        same = len(tokens) == len(self.tokens[sample]) and tokens.sources is self.tokens[sample].sources
        return (self.tokens[sample] if same else tokens), pack

    def _evidence(
        self, layer: int, sample: int, tokens: Tokens, stage: int, stages: int, attention: ReachAttention | None
    ) -> Evidence:
        providers = dict(self.start.providers[sample])
        if self.embeds is not None:
            providers["embeddings"] = lambda: self.embeds[sample]
        notes, reader = self.start.notes[sample], self.start.reader
        content, image = partial(self.prompt.content, sample), self.prompt.image[sample]
        attention_at = {} if attention is None else attention(sample, tokens)
        own = tokens.take(tokens.index < self.prompt.end) if self.drafts else tokens
        return Evidence(layer, self.depth, image, content, stage, stages, own, attention_at, providers, notes, reader)
