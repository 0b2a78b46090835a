"""The context manager that reaches a transformers model: hooks in, hooks out, nothing left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thinsight.anatomy import find
from thinsight.beside import Call, beside, shorten
from thinsight.errors import UserError
from thinsight.hook import listen, listeners
from thinsight.passage import Passage
from thinsight.prompt import Sight, read
from thinsight.reduction import Method
from thinsight.refusal import check, filled
from thinsight.trace import Trace


@contextmanager
def reduce(model: nn.Module, method: Method, visual: Tensor | None = None) -> Iterator[Trace]:
    """Inside the context, ``model(...)`` and ``model.generate(...)`` reduce their visual tokens as ``method`` says.

    visual (batch, columns) bool marks the visual columns of the prompt where token ids cannot: a bare language model
    fed with embeddings. Samples may differ in their images or have none. On leaving, also after an exception, the model
    is as it was. What cannot work is a `UserError`: training, static caches, a second ``reduce`` on the same model.
    """
    with attached(model, method, visual) as attachment:
        yield attachment.trace


@contextmanager
def attached(model: nn.Module, method: Method, visual: Tensor | None = None) -> Iterator["Attachment"]:
    """`reduce` for those who also want the passage of the prompt: the criterion that chooses a layer."""
    attachment = Attachment(model, method, visual)
    handles = attachment.hook(model)
    try:
        yield attachment
    finally:
        for handle in handles:
            handle.remove()


class Attachment:
    """The hooks on one model, and all state of one context."""

    def __init__(self, model: nn.Module, method: Method, visual: Tensor | None) -> None:
        self.anatomy = find(model)
        if is_attached(self.anatomy.decoder):
            raise UserError("this model is already inside reduce(): leave that context before entering another")
        if visual is None and self.anatomy.image_token is None and method.reductions:
            raise UserError(f"{type(model).__name__} has no image token: say which columns are visual, visual=mask")
        self.method, self.visual = method.resolve(self.anatomy.depth), visual
        self.trace = Trace(method.name)
        self.passages: WeakKeyDictionary[object, Passage] = WeakKeyDictionary()
        self.sight: Sight | None = None
        self.pixels: list[Tensor] | None = None
        self.call: Call | None = None

    def hook(self, model: nn.Module) -> list[RemovableHandle]:
        """Register everything; the caller removes it."""
        parts = self.anatomy
        modules = [(model, self.refuse), (parts.vision, self.watch), (parts.assembler, self.look)]
        modules += [(parts.decoder, self.enter)]
        modules += [(layer, partial(self.before, number)) for number, layer in enumerate(parts.layers)]
        return [listen(module, function) for module, function in modules if module is not None]

    def refuse(self, given: dict) -> None:
        """The whole model is called: what cannot work there."""
        if given.get("labels") is not None:
            raise UserError("labels do not fit a shortened sequence: take the logits inside reduce() and score them")

    def watch(self, given: dict) -> None:
        """The vision tower is called, by the model or by generate ahead of it: keep the pixels for the next prompt."""
        pixels = next((value for value in given.values() if isinstance(value, Tensor)), None)
        self.pixels = list(pixels) if pixels is not None and pixels.dim() == 4 else None

    def look(self, given: dict) -> None:
        """The assembler is called: token ids are still to be seen here."""
        ids, encoded = given.get("input_ids"), (given.get("mm_encoder_outputs") or {}).get("image")
        features = None if encoded is None else encoded.pooler_output
        self.sight = Sight(ids, given.get("inputs_embeds"), features)
        if given.get("pixel_values_videos") is not None and self.method.reductions:
            raise UserError("reduce() knows images only: a video's tokens would stay, so pass frames as images")
        if encoded is None and given.get("pixel_values") is None:
            return
        if filled(given.get("past_key_values")):
            raise UserError("a new image cannot join a cached conversation here: pass the whole prompt, no cache")
        if ids is not None and not ids.is_meta and not (ids == self.anatomy.image_token).any():
            raise UserError("an image was given, but the prompt has no image token to stand for it")

    def enter(self, given: dict) -> dict | None:
        """The decoder is called: begin a prompt, or go on with the one whose cache comes along."""
        sight = self.sight or Sight(given.get("input_ids"), given.get("inputs_embeds"))
        self.sight = None
        check(self.anatomy.decoder, given)
        cache = given.get("past_key_values")
        if not filled(cache):
            if self.pixels is not None:
                sight = replace(sight, pictures=self.pixels)
            self.pixels = None
            self.call = Call(self.anatomy, self.begin(given, sight), prefill=True, cache=cache)
        elif cache in self.passages:
            self.call = Call(self.anatomy, self.passages[cache], prefill=False, cache=cache)
        else:
            raise UserError("this cache was filled outside this reduce(): let the prompt go through it as well")
        return shorten(self.call, given)

    def begin(self, given: dict, sight: Sight) -> Passage:
        """A new prompt."""
        data = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        position = given.get("position_ids")
        if position is None:
            position = torch.arange(data.shape[1])[None]
        if position.dim() == 3 and any(r.site.positions == "pack" for r in self.method.reductions):
            raise UserError("positions=pack is not defined for multi-axis rotary embedding: use positions=keep")
        visual = self.visual
        if visual is None and not self.method.reductions and self.anatomy.image_token is None:
            visual = torch.zeros(data.shape[:2], dtype=torch.bool)  # nothing to remove, so nothing has to be known
        prompt = read(sight, self.anatomy.image_token, visual, given.get("attention_mask"), position)
        self.trace.begin(prompt)
        return Passage(self.method, prompt, self.anatomy.depth)

    def before(self, number: int, given: dict) -> dict | None:
        """A decoder layer is called: cut what enters it."""
        call, hidden = self.call, given["hidden_states"]
        if call.prefill:
            if number == 0 and given.get("past_key_values") is not None:
                self.passages[given["past_key_values"]] = call.passage  # the decoder may have made it just now
            if number > 0:
                hidden = call.passage.advance(number, hidden)
            self.trace.record(call.passage.tokens)
        changed = beside(call, number, hidden, given)
        return None if changed is None else {**given, "hidden_states": hidden, **changed}


def is_attached(decoder: nn.Module) -> bool:
    """Whether a decoder is inside `reduce` right now."""
    return any(isinstance(owner, Attachment) for owner in listeners(decoder))
