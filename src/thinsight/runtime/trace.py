"""What a reduction did: tokens at each layer, kept patches, sources of merged ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from thinsight.reduction.prompt import Prompt
from thinsight.reduction.sources import Known
from thinsight.reduction.ties import refuse
from thinsight.reduction.tokens import Tokens


@dataclass
class PrefillTrace:
    """Lengths per sample and decoder layer, and which patches are left, of one prompt.

    The lengths are known while the prompt goes through. All else stays on the device until somebody reads it: only then
    is it fetched, and the sources of merged tokens are multiplied.

    lengths           per sample, per layer: visual tokens that enter the layer (a merged one counts once)
    sequence_lengths  the same for all tokens, padding and filling excluded
    kept              per sample: patches alive at the end, numbered from 0 among that sample's visual tokens
    sources           per sample, per kept patch: the patches that went into it, itself included
    weights           the same shape as sources: the share of each of those patches that went in, 1 for all of it
    columns           per sample: prompt columns alive at the end, text included
    tower             per image: tokens that entered each block of the vision tower, where something is reduced there
    steps             where something was reduced ("features", "before layer 3") -> kept and sources after it
    shares            the same for weights
    pictures          per sample: how many patches each of its images came with
    noticed           whether any score was no number, on a device that is read off only in the end
    """

    lengths: list[list[int]] = field(default_factory=list)
    sequence_lengths: list[list[int]] = field(default_factory=list)
    tower: list[list[int]] = field(default_factory=list)
    noticed: list[Tensor] = field(default_factory=list, repr=False)
    _steps: dict[str, Callable[[], list[Tokens]]] = field(default_factory=dict)
    _entered: list[list[Tokens]] = field(default_factory=list)
    _prompt: Prompt | None = None
    _tokens: list[Tokens] = field(default_factory=list)

    @classmethod
    def of(cls, prompt: Prompt, noticed: list[Tensor] | None = None) -> "PrefillTrace":
        """The record of a prompt that is about to enter."""
        noticed = [] if noticed is None else noticed
        return cls([[] for _ in prompt.alive], [[] for _ in prompt.alive], noticed=noticed, _prompt=prompt)

    def step(self, where: str, tokens: list[Tokens] | Callable[[], list[Tokens]]) -> None:
        """Note what a place has left of each sample, or how to find out when somebody asks."""
        self._steps[where] = tokens if callable(tokens) else partial(list, tokens)
        self._tokens = self._tokens if callable(tokens) else list(tokens)

    def record(self, tokens: list[Tokens]) -> None:
        """Note what enters the next layer."""
        for sample, entering in enumerate(tokens):
            self.lengths[sample].append(entering.patches)
            self.sequence_lengths[sample].append(len(entering))
        self._tokens = list(tokens)
        self._entered.append(self._tokens)

    def entered(self, layer: int) -> list[list[int]]:
        """Per sample: column in the padded prompt of every token that entered decoder layer ``layer``, ascending."""
        return self._columns(self._entered[layer])

    @property
    def kept(self) -> list[list[int]]:
        """Per sample: original patch of every visual token alive at the end, in their order; -1 for one that shows no
        place of the picture (a class token that a method hands on)."""
        return self._kept(self._tokens)

    @property
    def columns(self) -> list[list[int]]:
        """Per sample: column in the padded prompt of every token alive at the end, ascending."""
        return self._columns(self._tokens)

    @property
    def sources(self) -> list[list[list[int]]]:
        """Per sample and kept token: the patches that were merged into it."""
        return [[patches for patches, _ in tokens] for tokens in self._merged(self._tokens)]

    @property
    def weights(self) -> list[list[list[float]]]:
        """Per sample, kept token and source: the share of that patch that went in."""
        return [[shares for _, shares in tokens] for tokens in self._merged(self._tokens)]

    @property
    def steps(self) -> dict[str, list[list[tuple[int, list[int]]]]]:
        """Where something was reduced -> per sample, per token left there: its patch and the patches merged into it."""
        steps = {}
        known: Known = {}
        for where, made in self._steps.items():
            tokens = made()
            pairs = zip(self._kept(tokens), self._merged(tokens, known), strict=True)
            steps[where] = [
                [(patch, patches) for patch, (patches, _) in zip(kept, merged, strict=True)] for kept, merged in pairs
            ]
        return steps

    @property
    def shares(self) -> dict[str, list[list[list[float]]]]:
        """The same shape as `steps`: per sample, per token left there, the share of each patch that went in."""
        known: Known = {}
        return {
            where: [[shares for _, shares in sample] for sample in self._merged(made(), known)]
            for where, made in self._steps.items()
        }

    @property
    def pictures(self) -> list[list[int]]:
        """Per sample: how many patches each of its images came with; `kept` and `steps` number them in a row."""
        images = [] if self._prompt is None else self._prompt.image
        return [torch.bincount(row[row >= 0]).tolist() for row in images]

    def _columns(self, samples: list[Tokens]) -> list[list[int]]:
        refuse(self.noticed)
        return [tokens.index.tolist() for tokens in samples]

    def _kept(self, samples: list[Tokens]) -> list[list[int]]:
        refuse(self.noticed)
        return [self._patches(sample, _visual(tokens)) for sample, tokens in enumerate(samples)]

    def _merged(self, samples: list[Tokens], known: Known | None = None) -> list[list[tuple[list[int], list[float]]]]:
        refuse(self.noticed)
        merged, known = [], {} if known is None else known
        for sample, tokens in enumerate(samples):
            if tokens.made is None:
                kept = self._patches(sample, _visual(tokens))
                merged.append([([patch], [1.0]) if patch >= 0 else ([], []) for patch in kept])
                continue
            visual = self._prompt.visual[sample]
            shares = tokens.made.dense(known)[tokens.visual.cpu()] * visual
            rows = [row.nonzero().squeeze(1) for row in shares]
            merged.append([(self._patches(sample, at), row[at].tolist()) for at, row in zip(rows, shares, strict=True)])
        return merged

    def _patches(self, sample: int, columns: Tensor) -> list[int]:
        return torch.where(columns < 0, -1, self._prompt.patch[sample, columns]).tolist()


@dataclass
class Trace:
    """What ``reduce`` did: everything that `PrefillTrace` has, of the prompt that came last.

    method    its name
    prefills  how many prompts have gone through; where several threads share a model, the last one of any of them
    last      that of the last prompt
    noticed   as for `PrefillTrace`, of all prompts
    """

    method: str = ""
    prefills: int = 0
    last: PrefillTrace = field(default_factory=PrefillTrace)
    noticed: list[Tensor] = field(default_factory=list, repr=False)

    def begin(self, prompt: Prompt) -> PrefillTrace:
        """A prompt enters: a new record for it."""
        self.prefills, self.last = self.prefills + 1, PrefillTrace.of(prompt, self.noticed)
        return self.last

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "last":  # copying and pickling look for what is not there yet
            raise AttributeError(name)
        return getattr(self.last, name)

    def __repr__(self) -> str:
        if not self.prefills:
            return f"Trace of {self.method}: nothing has run yet"
        lengths, every = self.last.lengths, self.last.sequence_lengths
        lines = [f"Trace of {self.method}, prompt {self.prefills}: {len(lengths)} sample(s)"]
        for sample, (visual, both) in enumerate(zip(lengths, every, strict=True)):
            if sample == 8:
                lines.append(f"  ... and {len(lengths) - 8} more")
                break
            lines.append(f"  {sample}: visual tokens by layer {layer_runs(visual)} | all tokens {layer_runs(both)}")
        return "\n".join(lines)


def layer_runs(lengths: list[int]) -> str:
    """576 576 0 -> '576 (layers 0-1), 0 (layer 2)'."""
    parts, layer = [], 0
    for length, same in groupby(lengths):
        end = layer + len(list(same)) - 1
        parts.append(f"{length} (layer {layer})" if end == layer else f"{length} (layers {layer}-{end})")
        layer = end + 1
    return ", ".join(parts)


def _visual(tokens: Tokens) -> Tensor:
    """(n,) the columns that the visual tokens are named after, on the CPU."""
    return tokens.origins.cpu()[tokens.visual.cpu()]
