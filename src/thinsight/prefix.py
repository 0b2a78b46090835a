"""One plain pass, cut open at several layers, so that text alone can go on from each of them."""

from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thinsight.anatomy import Anatomy
from thinsight.attach import Attachment
from thinsight.beside import cut
from thinsight.gather import take_rows
from thinsight.hook import listen
from thinsight.layout import Layout


class Prefix:
    """What a plain pass leaves behind: the text rows that enter each candidate layer, and what goes beside them."""

    def __init__(self, anatomy: Anatomy, attachment: Attachment, layers: list[int], pack: bool) -> None:
        self.anatomy, self.attachment, self.layers, self.pack = anatomy, attachment, layers, pack
        self.states: dict[int, Tensor] = {}  # layer -> (batch, held, width)
        self.final: Tensor  # (batch, columns, width): what enters the final norm
        self.layout: Layout  # without the visual columns
        self.aside: dict

    def hook(self) -> list[RemovableHandle]:
        """Listen at the candidates and at the final norm."""
        handles = [listen(self.anatomy.layers[layer], partial(self._record, layer)) for layer in self.layers]
        return [*handles, self.anatomy.decoder.norm.register_forward_pre_hook(self._end)]

    def finish(self, layer: int) -> Tensor:
        """The text rows through the rest of the decoder, from ``layer`` on."""
        hidden = self.states.pop(layer)
        for block in self.anatomy.layers[layer:]:
            hidden = block(hidden, **self.aside)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden

    @property
    def layout_before(self) -> Layout:
        """The prompt as it came."""
        return self.attachment.call.passage.full

    def _record(self, layer: int, given: dict) -> None:
        hidden, full = given.pop("hidden_states"), self.layout_before
        if not self.states:
            prompt = self.attachment.call.passage.prompt
            stay = [tokens.index[~tokens.visual] for tokens in self.attachment.call.passage.tokens]
            self.layout = full.narrow(prompt, stay, prompt.visual.any(1) & self.pack)
        text = take_rows(hidden, self.layout.rows_in(full, hidden.device))
        if not self.states:
            self.aside = {**given, **cut(self.attachment.call, layer, text, given, self.layout, full)}
        self.states[layer] = text

    def _end(self, module: nn.Module, args: tuple) -> None:
        self.final = args[0]
