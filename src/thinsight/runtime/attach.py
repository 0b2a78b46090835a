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
from thinsight.models.families import find_parts, find_tower
from thinsight.reduction.attention import CapturedQK, LayerAttention
from thinsight.reduction.evidence import StageNotes, Word
from thinsight.reduction.method import Method
from thinsight.reduction.prompt import Prompt, PromptInputs, read_prompt
from thinsight.reduction.sites import Projected
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.decoder import AttentionAt, DecoderStart, DecoderState
from thinsight.runtime.decoder_inputs import DecoderCall, current_tables, decoder_arguments, layer_arguments
from thinsight.runtime.hooks import hook_owners, pre_hook, project_attention, projection, split
from thinsight.runtime.trace import Trace
from thinsight.runtime.vision import VisionReducer


def is_filled(cache: object | None) -> bool:
    """Whether a cache holds anything yet."""
    return cache is not None and cache.get_seq_length() > 0


def check_call(decoder: nn.Module, arguments: dict) -> None:
    """Refuse what would be wrong without a sign of it."""
    cache, mask = arguments.get("past_key_values"), arguments.get("attention_mask")
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


LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
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
    """`reduce` for those who also want the state of the prompt: the criterion that chooses a layer."""
    attachment = Attachment(model, method, visual)
    with ExitStack() as stack:
        attachment.enter(model, stack)
        yield attachment


class Attachment:
    """The hooks on one model, and all state of one context.

    states           cache -> the `DecoderState` of the prompt that filled it
    prompt_inputs    what the assembler was given, until the decoder is called
    pixels           one tensor per picture that the vision tower was given, until the decoder is called
    call             the decoder's call that is under way
    vision           the reductions in the vision tower, where there are any
    captured_layers  decoder layers whose queries and keys a stage asks for, and ``captured``: those of this call
    """

    def __init__(self, model: nn.Module, method: Method, visual: Tensor | None) -> None:
        self.parts = find_parts(model)
        if is_attached(self.parts.decoder):
            raise UserError("this model is already inside reduce(): leave that context before entering another")
        if visual is None and self.parts.image_token is None and method.reductions:
            raise UserError(f"{type(model).__name__} has no image token: say which columns are visual, visual=mask")
        self.method, self.visual = method.resolve(self.parts.depth), visual
        self.reader = getattr(model, "question_reader", None)
        self.trace = Trace(method.name)
        self.states: WeakKeyDictionary[object, DecoderState] = WeakKeyDictionary()
        self.prompt_inputs: PromptInputs | None = None
        self.pixels: list[Tensor] | None = None
        self.call: DecoderCall | None = None
        self.vision: VisionReducer | None = None
        if method.before_projector or "features" in method.needs:
            self.vision = VisionReducer(find_tower(model), method, self.reader)
        looking = [r for r in self.method.after_projector if "attention" in r.needs]
        self.captured_layers = {n if r.site.inside else n - 1 for r in looking for n in r.site.layers} - {-1}
        self.captured: dict[int, CapturedQK] = {}

    def enter(self, model: nn.Module, stack: ExitStack) -> None:
        """Register everything; leaving ``stack`` undoes it."""
        parts, layers = self.parts, range(self.parts.depth)
        modules = [(model, self.on_model), (parts.vision, self.on_vision), (parts.assembler, self.on_assembler)]
        modules += [(parts.decoder, self.on_decoder)]
        modules += [(layer, partial(self.on_layer, number)) for number, layer in enumerate(parts.layers)]
        for module, function in modules:
            if module is not None:
                stack.callback(pre_hook(module, function).remove)
        for number in sorted(self.captured_layers & set(layers)):
            attention = parts.layers[number].self_attn
            stack.callback(pre_hook(attention, partial(self.on_attention, number)).remove)
            for part in ("queries", "keys"):
                stack.callback(projection(attention, part, partial(self.on_projection, number, part)).remove)
        inside = {n for r in self.method.after_projector if r.site.inside for n in r.site.layers} & set(layers)
        for number in sorted(inside):
            split(parts.layers[number], LAYER_PARTS, partial(self.inside_layer, number), stack)
        if self.vision is not None:
            self.vision.enter(stack)

    def on_model(self, arguments: dict) -> None:
        """The whole model is called: refuse what cannot work there."""
        if arguments.get("labels") is not None:
            raise UserError("labels do not fit a shortened sequence: take the logits inside reduce() and score them")

    def on_vision(self, arguments: dict) -> None:
        """The vision tower is called, by the model or by generate ahead of it: keep the pixels for the next prompt."""
        pixels = next((value for value in arguments.values() if isinstance(value, Tensor)), None)
        whole = pixels is not None and pixels.dim() == 4 and not self.parts.tiled
        self.pixels = list(pixels) if whole else None
        if self.vision is not None:
            self.vision.on_tower(pixels)

    def on_assembler(self, arguments: dict) -> None:
        """The assembler is called: token ids are still to be seen here."""
        ids, encoded = arguments.get("input_ids"), (arguments.get("mm_encoder_outputs") or {}).get("image")
        pictures = arguments.get("pixel_values") if encoded is None else encoded.pooler_output
        pictures = None if pictures is None else list(pictures)
        self.prompt_inputs = PromptInputs(ids, arguments.get("inputs_embeds"), pictures)
        if arguments.get("pixel_values_videos") is not None and self.method.reductions:
            raise UserError("reduce() knows images only: a video's tokens would stay, so pass frames as images")
        if pictures is None:
            return
        if is_filled(arguments.get("past_key_values")):
            raise UserError("a new image cannot join a cached conversation here: pass the whole prompt, no cache")
        if ids is not None and not ids.is_meta and not (ids == self.parts.image_token).any():
            raise UserError("an image was given, but the prompt has no image token to stand for it")

    def on_decoder(self, arguments: dict) -> dict | None:
        """The decoder is called: begin a prompt, or go on with the one whose cache comes along."""
        inputs = self.prompt_inputs or PromptInputs(arguments.get("input_ids"), arguments.get("inputs_embeds"))
        self.prompt_inputs, self.captured = None, {}
        check_call(self.parts.decoder, arguments)
        cache = arguments.get("past_key_values")
        if not is_filled(cache):
            if self.pixels is not None:
                inputs = replace(inputs, pictures=self.pixels)
            self.pixels = None
            state, arguments = self.start_prompt(arguments, inputs)
            self.call = DecoderCall(self.parts, state, prefill=True, cache=cache)
        elif cache in self.states:
            self.call = DecoderCall(self.parts, self.states[cache], prefill=False, cache=cache)
        else:
            raise UserError("this cache was filled outside this reduce(): let the prompt go through it as well")
        return decoder_arguments(self.call, arguments)

    def start_prompt(self, arguments: dict, inputs: PromptInputs) -> tuple[DecoderState, dict]:
        """A new prompt, and the decoder's arguments without the holes of images that were reduced before."""
        prompt = self.describe_prompt(arguments, inputs)
        if self.method.reductions:
            check_end(prompt)
        self.trace.begin(prompt)
        samples, norm = range(len(prompt.alive)), self.parts.decoder.norm
        words = [partial(self.words, prompt, inputs, sample) for sample in samples]
        providers = [{"words": of_sample, "norm": lambda: norm} for of_sample in words]
        start, embeds = DecoderStart(providers, [StageNotes() for _ in samples], self.reader), None
        if self.vision is not None:
            embeds = self.vision.enter_decoder(start, prompt, arguments.get("inputs_embeds"), self.trace)
        state = DecoderState(self.method, prompt, self.parts.depth, start, self.trace)
        return state, arguments if embeds is None else {**arguments, "inputs_embeds": embeds, "input_ids": None}

    def describe_prompt(self, arguments: dict, inputs: PromptInputs) -> Prompt:
        """The prompt of a prefill."""
        data = arguments["input_ids"] if arguments.get("input_ids") is not None else arguments["inputs_embeds"]
        position = arguments.get("position_ids")
        if position is None:
            position = torch.arange(data.shape[1])[None]
        if position.dim() == 3:
            check_packing(self.method)
        visual = self.visual
        if visual is None and not self.method.reductions and self.parts.image_token is None:
            visual = torch.zeros(data.shape[:2], dtype=torch.bool)  # nothing to remove, so nothing has to be known
        return read_prompt(inputs, self.parts.image_token, visual, arguments.get("attention_mask"), position)

    def words(self, prompt: Prompt, inputs: PromptInputs, sample: int) -> list[Word]:
        """The words of a sample's question."""
        if self.reader is None or inputs.ids is None:
            raise UserError(
                "the words of the question are needed, and this model has no tokenizer or this prompt no ids: load the "
                "model with thinsight.load_model, or take the method's substitute (rewriting=none, space=llm)"
            )
        return self.reader.words(inputs.ids[sample].cpu(), prompt, sample)

    def on_layer(self, number: int, arguments: dict) -> dict | None:
        """A decoder layer is called: cut what enters it."""
        call, hidden = self.call, arguments["hidden_states"]
        if call.prefill:
            if number == 0 and arguments.get("past_key_values") is not None:
                self.states[arguments["past_key_values"]] = call.state  # the decoder may have made it just now
            if number > 0:
                hidden = call.state.advance(number, hidden, partial(self.attention_before, number, arguments))
            self.captured.pop(number - 1, None)
            self.trace.record(call.state.tokens)
        changed = layer_arguments(call, number, hidden, arguments)
        same = changed is None and hidden is arguments["hidden_states"]  # as many may stay, and yet not as they were
        return None if same else {**arguments, "hidden_states": hidden, **(changed or {})}

    def inside_layer(self, number: int, hidden: Tensor) -> Tensor:
        """Between the two halves of a decoder layer."""
        if not self.call.prefill:
            return hidden
        return self.call.state.inside(number, hidden, partial(self.captured_attention, number))

    def captured_attention(self, number: int, sample: int, tokens: Tokens) -> AttentionAt:
        """What a stage can look at whose nearest attention is that of layer ``number``, if that was captured."""
        captured = self.captured.get(number)
        return {} if captured is None else {"attention": partial(captured.layer_attention, sample)}

    def attention_before(self, number: int, arguments: dict, sample: int, tokens: Tokens) -> AttentionAt:
        """What a stage before layer ``number`` can look at."""
        coming = {"next": partial(self.next_layer_attention, number, arguments, sample, tokens)}
        return self.captured_attention(number - 1, sample, tokens) | coming

    def on_attention(self, number: int, arguments: dict) -> None:
        """The attention of a layer is called whose queries and keys a stage will ask for."""
        if self.call.prefill:
            state, attention = self.call.state, self.parts.layers[number].self_attn
            index = [tokens.index for tokens in state.tokens]
            columns = state.layouts[number].columns
            rows = [torch.searchsorted(c.contiguous(), i) for c, i in zip(columns, index, strict=True)]
            tables = arguments["position_embeddings"]
            sizes = [tokens.size.log() for tokens in state.tokens] if state.proportional else None
            self.captured[number] = CapturedQK(
                attention.head_dim, attention.scaling, index, rows, tables=tables, bias=sizes
            )

    def on_projection(self, number: int, part: str, _: nn.Module, __: tuple, states: Tensor) -> None:
        """Queries or keys of that layer."""
        if self.call.prefill:
            setattr(self.captured[number], part, states)

    def next_layer_attention(self, number: int, arguments: dict, sample: int, tokens: Tokens) -> LayerAttention:
        """Queries and keys that layer ``number`` would make of the tokens in front of it."""
        layer, state = self.parts.layers[number], self.call.state
        tables = current_tables(self.call, arguments)
        rows = torch.searchsorted(state.layout.columns[sample].contiguous(), tokens.index).to(tokens.states.device)
        tables = tuple(table[min(sample, len(table) - 1)][rows] for table in tables)
        bias = tokens.size.log() if state.proportional else None
        scaling = layer.self_attn.scaling
        return project_attention(
            layer.self_attn, layer.input_layernorm(tokens.states), tokens.index, scaling, bias, tables
        )


def is_attached(decoder: nn.Module) -> bool:
    """Whether a decoder is inside `reduce` right now."""
    return any(isinstance(owner, Attachment) for owner in hook_owners(decoder))
