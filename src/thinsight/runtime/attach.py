"""`reduce`: all hooks of a method on one model, for as long as the context lasts."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from thinsight.errors import UserError
from thinsight.methods.vtw import AllVisual
from thinsight.models.architecture import find_parts, find_tower
from thinsight.reduction.attention import CapturedQK, LayerAttention, rotate, split_heads
from thinsight.reduction.method import Method
from thinsight.reduction.prompt import Prompt, PromptInputs, read_prompt
from thinsight.reduction.sites import Projected
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.decoder import DecoderState, ReachableAttention
from thinsight.runtime.decoder_inputs import DecoderCall, current_tables, decoder_arguments, layer_arguments
from thinsight.runtime.hooks import hook_owners, pre_hook, projection, split
from thinsight.runtime.trace import Trace
from thinsight.runtime.vision import VisionReducer, enter_decoder


def filled(cache: object | None) -> bool:
    """Whether a cache holds anything yet."""
    return cache is not None and cache.get_seq_length() > 0


def check(decoder: nn.Module, given: dict) -> None:
    """Refuse what would be wrong without a sign of it."""
    cache, mask = given.get("past_key_values"), given.get("attention_mask")
    if decoder.training:
        raise UserError("reduce() is for inference: call model.eval() first")
    if cache is not None and (getattr(cache, "is_compileable", False) or any(getattr(cache, "is_sliding", ()))):
        raise UserError(f"{type(cache).__name__} has a fixed length, but layers will differ: use a DynamicCache")
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() in (2, 4)):
        raise UserError("reduce() reads attention masks with 2 or 4 dimensions, not flex attention's blocks")
    if decoder.config._attn_implementation == "flex_attention":
        raise UserError("reduce() does not work with flex attention: load the model with sdpa or eager attention")


def check_end(prompt: Prompt) -> None:
    """Refuse a prompt whose last token, which has to answer, is a visual one and may leave."""
    for alive, visual in zip(prompt.alive, prompt.visual, strict=True):
        if bool(visual[alive][-1:].any()):
            raise UserError(
                "the prompt ends with its picture, whose last token would have to answer: put text behind it"
            )


def check_packing(method: Method) -> None:
    """Refuse to pack numbers along several axes, unless only text enters the decoder: its axes all agree."""
    for reduction in method.reductions:
        blind = isinstance(reduction.filter, AllVisual) and isinstance(reduction.site, Projected)
        if reduction.site.positions == "pack" and not blind:
            raise UserError("positions=pack is not defined for multi-axis rotary embedding: use positions=keep")


PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What Llama and its relatives call the parts of a layer."""


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
    with ExitStack() as stack:
        attachment.enter(model, stack)
        yield attachment


class Attachment:
    """The hooks on one model, and all state of one context."""

    def __init__(self, model: nn.Module, method: Method, visual: Tensor | None) -> None:
        self.anatomy = find_parts(model)
        if is_attached(self.anatomy.decoder):
            raise UserError("this model is already inside reduce(): leave that context before entering another")
        if visual is None and self.anatomy.image_token is None and method.reductions:
            raise UserError(f"{type(model).__name__} has no image token: say which columns are visual, visual=mask")
        self.method, self.visual = method.resolve(self.anatomy.depth), visual
        self.aids = getattr(model, "aids", None)
        self.trace = Trace(method.name)
        self.passages: WeakKeyDictionary[object, DecoderState] = WeakKeyDictionary()
        self.sight: PromptInputs | None = None
        self.pixels: list[Tensor] | None = None
        self.call: DecoderCall | None = None
        self.encoding: VisionReducer | None = None
        if method.ahead or "features" in method.needs:
            self.encoding = VisionReducer(find_tower(model, self.anatomy), method, self.aids)
        looking = [r for r in self.method.behind if "attention" in r.needs]
        self.recorded = {n if r.site.inside else n - 1 for r in looking for n in r.site.layers} - {-1}
        self.records: dict[int, CapturedQK] = {}

    def enter(self, model: nn.Module, stack: ExitStack) -> None:
        """Register everything; leaving ``stack`` undoes it."""
        parts = self.anatomy
        modules = [(model, self.refuse), (parts.vision, self.watch), (parts.assembler, self.look)]
        modules += [(parts.decoder, self.begin)]
        modules += [(layer, partial(self.before, number)) for number, layer in enumerate(parts.layers)]
        for module, function in modules:
            if module is not None:
                stack.callback(pre_hook(module, function).remove)
        for number in sorted(self.recorded & set(range(parts.depth))):
            attention = parts.layers[number].self_attn
            stack.callback(pre_hook(attention, partial(self.attend, number)).remove)
            for part in ("queries", "keys"):
                stack.callback(projection(attention, part, partial(self.record, number, part)).remove)
        inside = {n for r in self.method.behind if r.site.inside for n in r.site.layers} & set(range(parts.depth))
        for number in sorted(inside):
            split(parts.layers[number], PARTS, partial(self.between, number), stack)
        if self.encoding is not None:
            self.encoding.enter(stack)

    def refuse(self, given: dict) -> None:
        """The whole model is called: what cannot work there."""
        if given.get("labels") is not None:
            raise UserError("labels do not fit a shortened sequence: take the logits inside reduce() and score them")

    def watch(self, given: dict) -> None:
        """The vision tower is called, by the model or by generate ahead of it: keep the pixels for the next prompt."""
        pixels = next((value for value in given.values() if isinstance(value, Tensor)), None)
        tiled = hasattr(self.anatomy.assembler.config, "image_grid_pinpoints")  # rows are tiles then, not pictures
        self.pixels = list(pixels) if pixels is not None and pixels.dim() == 4 and not tiled else None
        if self.encoding is not None:
            self.encoding.begin(pixels)

    def look(self, given: dict) -> None:
        """The assembler is called: token ids are still to be seen here."""
        ids, encoded = given.get("input_ids"), (given.get("mm_encoder_outputs") or {}).get("image")
        pictures = given.get("pixel_values") if encoded is None else encoded.pooler_output
        self.sight = PromptInputs(ids, given.get("inputs_embeds"), None if pictures is None else list(pictures))
        if given.get("pixel_values_videos") is not None and self.method.reductions:
            raise UserError("reduce() knows images only: a video's tokens would stay, so pass frames as images")
        if encoded is None and given.get("pixel_values") is None:
            return
        if filled(given.get("past_key_values")):
            raise UserError("a new image cannot join a cached conversation here: pass the whole prompt, no cache")
        if ids is not None and not ids.is_meta and not (ids == self.anatomy.image_token).any():
            raise UserError("an image was given, but the prompt has no image token to stand for it")

    def begin(self, given: dict) -> dict | None:
        """The decoder is called: begin a prompt, or go on with the one whose cache comes along."""
        sight = self.sight or PromptInputs(given.get("input_ids"), given.get("inputs_embeds"))
        self.sight, self.records = None, {}
        check(self.anatomy.decoder, given)
        cache = given.get("past_key_values")
        if not filled(cache):
            if self.pixels is not None:
                sight = replace(sight, pictures=self.pixels)
            self.pixels = None
            passage, given = self.arrived(given, sight)
            self.call = DecoderCall(self.anatomy, passage, prefill=True, cache=cache)
        elif cache in self.passages:
            self.call = DecoderCall(self.anatomy, self.passages[cache], prefill=False, cache=cache)
        else:
            raise UserError("this cache was filled outside this reduce(): let the prompt go through it as well")
        return decoder_arguments(self.call, given)

    def arrived(self, given: dict, sight: PromptInputs) -> tuple[DecoderState, dict]:
        """A new prompt, and the decoder's arguments without the holes of images that were reduced before."""
        prompt = self.describe(given, sight)
        if self.method.reductions:
            check_end(prompt)
        self.trace.begin(prompt)
        seen = None if self.encoding is None else self.encoding.seen
        # called by its forward: the module's own hooks belong to the pictures
        project = None if self.encoding is None else self.encoding.tower.projector.forward
        start, embeds = enter_decoder(
            self.method, prompt, sight, given.get("inputs_embeds"), seen, self.trace, self.aids, project
        )
        if self.encoding is not None:
            self.encoding.seen = type(seen)()
        norm = self.anatomy.decoder.norm
        for more in start.more:
            more["norm"] = lambda: norm
        passage = DecoderState(self.method, prompt, self.anatomy.depth, start, self.trace)
        return passage, given if embeds is None else {**given, "inputs_embeds": embeds, "input_ids": None}

    def describe(self, given: dict, sight: PromptInputs) -> Prompt:
        """The prompt of a prefill."""
        data = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        position = given.get("position_ids")
        if position is None:
            position = torch.arange(data.shape[1])[None]
        if position.dim() == 3:
            check_packing(self.method)
        visual = self.visual
        if visual is None and not self.method.reductions and self.anatomy.image_token is None:
            visual = torch.zeros(data.shape[:2], dtype=torch.bool)  # nothing to remove, so nothing has to be known
        return read_prompt(sight, self.anatomy.image_token, visual, given.get("attention_mask"), position)

    def before(self, number: int, given: dict) -> dict | None:
        """A decoder layer is called: cut what enters it."""
        call, hidden = self.call, given["hidden_states"]
        if call.prefill:
            if number == 0 and given.get("past_key_values") is not None:
                self.passages[given["past_key_values"]] = call.passage  # the decoder may have made it just now
            if number > 0:
                hidden = call.passage.advance(number, hidden, self.looks(number, hidden, given))
            self.records.pop(number - 1, None)
            self.trace.record(call.passage.tokens)
        changed = layer_arguments(call, number, hidden, given)
        same = changed is None and hidden is given["hidden_states"]  # as many may stay, and yet not as they were
        return None if same else {**given, "hidden_states": hidden, **(changed or {})}

    def between(self, number: int, hidden: Tensor) -> Tensor:
        """Between the two halves of a decoder layer."""
        if not self.call.prefill:
            return hidden
        return self.call.passage.inside(number, hidden, ReachableAttention(self.records.get(number), None))

    def looks(self, number: int, hidden: Tensor, given: dict) -> ReachableAttention:
        """What a reduction before layer ``number`` can look at."""
        coming = partial(self.coming, number, given) if number < self.anatomy.depth else None
        return ReachableAttention(self.records.get(number - 1), coming)

    def attend(self, number: int, given: dict) -> None:
        """The attention of a layer is called whose queries and keys a stage will ask for."""
        if self.call.prefill:
            passage, attention = self.call.passage, self.anatomy.layers[number].self_attn
            index = [tokens.index for tokens in passage.tokens]
            columns = passage.layouts[number].columns
            rows = [torch.searchsorted(c.contiguous(), one) for c, one in zip(columns, index, strict=True)]
            tables = given["position_embeddings"]
            sizes = [tokens.size.log() for tokens in passage.tokens] if passage.proportional else None
            self.records[number] = CapturedQK(
                attention.head_dim, attention.scaling, index, rows, tables=tables, bias=sizes
            )

    def record(self, number: int, part: str, _: nn.Module, __: tuple, states: Tensor) -> None:
        """The projections of that layer."""
        if self.call.prefill:
            setattr(self.records[number], part, states)

    def coming(self, number: int, given: dict, sample: int, tokens: Tokens) -> LayerAttention:
        """Queries and keys that layer ``number`` would make of the tokens in front of it."""
        layer, passage = self.anatomy.layers[number], self.call.passage
        attention = layer.self_attn
        tables = current_tables(self.call, given)
        rows = torch.searchsorted(passage.layout.columns[sample].contiguous(), tokens.index).to(tokens.states.device)
        tables = tuple(table[min(sample, len(table) - 1)][rows] for table in tables)
        states = layer.input_layernorm(tokens.states)
        keys = rotate(split_heads(attention.k_proj(states), attention.head_dim), *tables)

        def queries(at: Tensor) -> Tensor:
            return rotate(split_heads(attention.q_proj(states[at]), attention.head_dim), *(t[at] for t in tables))

        groups = attention.q_proj.out_features // attention.k_proj.out_features
        keys = keys.repeat_interleave(groups, 0)
        bias = tokens.size.log() if passage.proportional else None
        return LayerAttention(tokens.index, queries, keys, attention.scaling, True, bias, tables)


def is_attached(decoder: nn.Module) -> bool:
    """Whether a decoder is inside `reduce` right now."""
    return any(isinstance(owner, Attachment) for owner in hook_owners(decoder))
