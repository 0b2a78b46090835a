"""One prompt on its way through the decoder, from its prefill to the last token generated after it."""

from functools import partial

import torch
from torch import Tensor

from thinsight.evidence import Evidence
from thinsight.gather import take_rows
from thinsight.layout import Layout
from thinsight.prompt import Prompt
from thinsight.reduction import Method, Reduction
from thinsight.tokens import Tokens


class Passage:
    """What is left of a prompt at each layer. It is made at the prefill and lives as long as the cache it filled.

    full     the layout of the prompt as it came
    layouts  the layout that entered each layer so far; ``layouts[0]`` is what the decoder's own masks are made for
    tokens   per sample: the tokens alive now
    """

    def __init__(self, method: Method, prompt: Prompt, depth: int) -> None:
        self.method, self.prompt, self.depth = method, prompt, depth
        self.full = Layout.full(prompt)
        self.layouts: list[Layout] = []
        self.tokens = [prompt.tokens(sample) for sample in range(len(prompt.alive))]
        self.plan = [[self._where(r, sample) for r in method.reductions] for sample in range(len(self.tokens))]

    def acts(self, layer: int) -> bool:
        """Whether any sample is reduced before ``layer``."""
        return any(layer in layers for plan in self.plan for layers in plan)

    def advance(self, layer: int, hidden: Tensor | None) -> Tensor | None:
        """Apply what happens before ``layer`` to ``hidden`` (batch, held, width) and note the layout that enters it."""
        layout = self.layouts[-1] if self.layouts else self.full
        if self.acts(layer):
            before = self.tokens
            pairs = [self._reduce(layer, sample, hidden, layout) for sample in range(len(before))]
            self.tokens = [tokens for tokens, _ in pairs]
            if any(len(new) < len(old) for new, old in zip(self.tokens, before, strict=True)):
                wide, pack = layout, torch.tensor([pack for _, pack in pairs])
                layout = wide.narrow(self.prompt, [tokens.index for tokens in self.tokens], pack)
                hidden = self._written(take_rows(hidden, layout.rows_in(wide, hidden.device)), layout)
            self.tokens = [tokens.with_states(None) for tokens in self.tokens]
        self.layouts.append(layout)
        return hidden

    def _where(self, reduction: Reduction, sample: int) -> tuple[int, ...]:
        """The layers of a reduction for one sample; none where there is no image."""
        return reduction.site.where(self._evidence(0, sample)) if self.prompt.visual[sample].any() else ()

    def _evidence(self, layer: int, sample: int) -> Evidence:
        return Evidence(layer, self.depth, self.prompt.image[sample], partial(self.prompt.content, sample))

    def _reduce(self, layer: int, sample: int, hidden: Tensor, layout: Layout) -> tuple[Tokens, bool]:
        """One sample through all reductions of a layer: its tokens after them, and whether its numbers close ranks."""
        tokens, pack = self.tokens[sample], False
        for reduction, layers in zip(self.method.reductions, self.plan[sample], strict=True):
            if layer not in layers:
                continue
            if tokens.states is None:
                rows = torch.searchsorted(layout.columns[sample].contiguous(), tokens.index)
                tokens = tokens.with_states(hidden[sample, rows.to(hidden.device)])
            after = one_step(reduction, tokens, self._evidence(layer, sample), self.prompt.alive.shape[1])
            pack |= reduction.site.positions == "pack" and len(after) < len(tokens)
            tokens = after
        return tokens, pack

    def _written(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Put merged states into their rows."""
        for sample, tokens in enumerate(self.tokens):
            if tokens.sources is not None and tokens.states is not None:
                rows = torch.searchsorted(layout.columns[sample].contiguous(), tokens.index)
                hidden[sample, rows.to(hidden.device)] = tokens.states  # take_rows made a copy: nobody else sees this
        return hidden


def one_step(reduction: Reduction, tokens: Tokens, evidence: Evidence, columns: int) -> Tokens:
    """Show a reduction what its filter chooses among, and put the rest back around what it leaves."""
    if reduction.correlate is not None:
        tokens = tokens.traced(columns)
    shown = tokens.visual.clone()
    if reduction.filter.among == "prompt":
        shown = torch.arange(len(tokens)) < len(tokens) - 1  # the last token has to answer
    return reduction(tokens.take(shown), evidence).joined(tokens.take(~shown))
