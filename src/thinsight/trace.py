"""What a reduction did to the last prompt that went through it."""

from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from thinsight.prompt import Prompt
from thinsight.tokens import Tokens


@dataclass
class Trace:
    """Lengths per sample and decoder layer, and which patches are left. Describes the last prefill.

    lengths           per sample, per layer: visual tokens that enter the layer (a merged one counts once)
    sequence_lengths  the same for all tokens, padding and filling excluded
    kept              per sample: patches alive at the end, numbered from 0 among that sample's visual tokens
    sources           per sample, per kept patch: the patches that went into it, itself included
    columns           per sample: prompt columns alive at the end, text included
    prefills          how many prompts have gone through
    """

    method: str = ""
    prefills: int = 0
    lengths: list[list[int]] = field(default_factory=list)
    sequence_lengths: list[list[int]] = field(default_factory=list)
    _prompt: Prompt | None = None
    _tokens: list[Tokens] = field(default_factory=list)

    def begin(self, prompt: Prompt) -> None:
        """Forget the last prompt; a new one enters."""
        self.prefills += 1
        self.lengths = [[] for _ in prompt.alive]
        self.sequence_lengths = [[] for _ in prompt.alive]
        self._prompt, self._tokens = prompt, []

    def record(self, tokens: list[Tokens]) -> None:
        """Note what enters the next layer."""
        for sample, one in enumerate(tokens):
            self.lengths[sample].append(int(one.visual.sum()))
            self.sequence_lengths[sample].append(len(one))
        self._tokens = list(tokens)

    @property
    def kept(self) -> list[list[int]]:
        """Per sample: original patch index of every visual token alive at the end, ascending."""
        return [self._patches(sample, t.index[t.visual]).tolist() for sample, t in enumerate(self._tokens)]

    @property
    def columns(self) -> list[list[int]]:
        """Per sample: column in the padded prompt of every token alive at the end, ascending."""
        return [tokens.index.tolist() for tokens in self._tokens]

    @property
    def sources(self) -> list[list[list[int]]]:
        """Per sample and kept token: the patches that were merged into it."""
        found = []
        for sample, tokens in enumerate(self._tokens):
            if tokens.sources is None:
                found.append([[patch] for patch in self.kept[sample]])
                continue
            visual = self._prompt.visual[sample]
            rows = [(row > 0) & visual for row in tokens.sources[tokens.visual]]
            found.append([self._patches(sample, row.nonzero().squeeze(1)).tolist() for row in rows])
        return found

    def _patches(self, sample: int, columns: Tensor) -> Tensor:
        return self._prompt.patch[sample, columns]

    def __repr__(self) -> str:
        if not self.prefills:
            return f"Trace of {self.method}: nothing has run yet"
        lines = [f"Trace of {self.method}, prompt {self.prefills}: {len(self.lengths)} sample(s)"]
        for sample, (visual, every) in enumerate(zip(self.lengths, self.sequence_lengths, strict=True)):
            if sample == 8:
                lines.append(f"  ... and {len(self.lengths) - 8} more")
                break
            lines.append(f"  {sample}: visual tokens by layer {runs(visual)} | all tokens {runs(every)}")
        return "\n".join(lines)


def runs(lengths: list[int]) -> str:
    """576 576 0 -> '576 (layers 0-1), 0 (layer 2)'."""
    parts, layer = [], 0
    for length, same in groupby(lengths):
        end = layer + len(list(same)) - 1
        parts.append(f"{length} (layer {layer})" if end == layer else f"{length} (layers {layer}-{end})")
        layer = end + 1
    return ", ".join(parts)
