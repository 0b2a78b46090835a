"""`reduce`: all hooks of a method on one model, for as long as the context lasts."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from thinsight.errors import UserError
from thinsight.models.families import find_parts, find_tower
from thinsight.reduction.attention import CapturedQK, LayerAttention, side_by_side
from thinsight.reduction.evidence import StageNotes, Word
from thinsight.reduction.method import Method
from thinsight.reduction.prompt import Prompt, PromptInputs, read_prompt
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import refuse
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.caches import fill, filled_by
from thinsight.runtime.call_state import CallState, Encoded, Generation
from thinsight.runtime.decoder import AttentionAt, DecoderStart, DecoderState
from thinsight.runtime.decoder_inputs import (
    DecoderCall,
    current_tables,
    decoder_arguments,
    layer_arguments,
    padding_mask,
    seen_later,
)
from thinsight.runtime.hooks import (
    OwnMethod,
    Replacement,
    as_called,
    hook_owners,
    hooked_children,
    pre_hook,
    project_attention,
    projection,
    split,
)
from thinsight.runtime.layer_check import LAYER_PARTS, check_attention, check_halves
from thinsight.runtime.refusals import (
    CHOICES_OF_FEATURES,
    check_cache,
    check_call,
    check_features,
    check_generate,
    check_logits,
    check_packing,
    check_prompt,
)
from thinsight.runtime.trace import PrefillTrace, Trace
from thinsight.runtime.vision import VisionReducer


def is_filled(cache: object | None) -> bool:
    """Whether a cache holds anything yet."""
    return cache is not None and int(cache.get_seq_length()) > 0


@contextmanager
def reduce(model: nn.Module, method: Method, visual: Tensor | None = None) -> Iterator[Trace]:
    """Inside the context, ``model(...)`` and ``model.generate(...)`` reduce their visual tokens as ``method`` says.

    visual (batch, columns) bool marks the visual columns of the prompt where token ids cannot: a bare language model
    fed with embeddings. Samples may differ in their images or have none. On leaving, also after an exception, the model
    is as it was. Several threads may use the model; compiled models run uncompiled meanwhile. What cannot work is a
    `UserError` (``docs/generation.md`` has the list): training, a second ``reduce`` on the same model.
    """
    with attached(model, method, visual) as attachment:
        yield attachment.trace


@contextmanager
def attached(
    model: nn.Module, method: Method, visual: Tensor | None = None, strict: bool = False
) -> Iterator["Attachment"]:
    """`reduce` for those who also want the state of the prompt: the criterion that chooses a layer.

    strict: prompts that cannot be reduced are refused by a method that removes nothing, too.
    """
    if not isinstance(method, Method):
        raise UserError(f"reduce() takes a method, as load_method('fastv') makes it, not {method!r}")
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    attachment = Attachment(model, method, visual, strict)
    with ExitStack() as stack:
        attachment.enter(model, stack)
        yield attachment
    refuse(attachment.trace.noticed)


class Attachment:
    """The hooks on one model, and what all calls of one context share.

    state            what belongs to one call; what belongs to one prompt lives on its cache (`runtime.caches`)
    vision           the reductions in the vision tower, where there are any
    captured_layers  decoder layers whose queries and keys a stage asks for
    strict           whether prompts are checked that a reduction could not work on
    hooked           (parent, name, child) of every module below the model that is listened to
    closed           whether the context has been left
    running          thread -> how deep it is inside the model
    generating       threads that are inside ``generate``
    """

    def __init__(self, model: nn.Module, method: Method, visual: Tensor | None, strict: bool) -> None:
        self.parts = find_parts(model)
        if is_attached(self.parts.decoder):
            raise UserError("this model is already inside reduce(): leave that context before entering another")
        if visual is None and self.parts.image_token is None and method.reductions:
            raise UserError(f"{type(model).__name__} has no image token: say which columns are visual, visual=mask")
        self.method, self.visual = method.resolve(self.parts.depth), visual
        self.strict = strict or bool(method.reductions)
        self.reader = getattr(model, "question_reader", None)
        self.trace = Trace(method.name)
        self.state = CallState()
        self.vision: VisionReducer | None = None
        if method.before_projector or "features" in method.needs:
            self.vision = VisionReducer(find_tower(model), method, self.reader, self.trace.noticed)
        looking = [r for r in self.method.after_projector if "attention" in r.needs]
        self.captured_layers = {n if r.site.inside else n - 1 for r in looking for n in r.site.layers} - {-1}
        self.closed, self.lock = False, threading.Condition()
        self.running: Counter[int] = Counter()
        self.generating: set[int] = set()

    def enter(self, model: nn.Module, stack: ExitStack) -> None:
        """Register everything; leaving ``stack`` undoes it."""
        parts, layers = self.parts, range(self.parts.depth)
        around = modules_around(model, parts.decoder)
        self.guards = [pre_hook(module, self.on_model) for module in around]
        stack.callback(self.remove_guards)
        for module in around:
            stack.callback(Replacement(module, "forward", partial(self.on_forward, module.forward)).remove)
            if callable(getattr(module, "generate", None)):
                own = module.generate
                stack.callback(Replacement(module, "generate", partial(self.on_generate, own)).remove)
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # a graph compiled before knows no hooks
        if hasattr(parts.assembler, "get_image_features"):
            own = parts.assembler.get_image_features
            features = Replacement(parts.assembler, "get_image_features", partial(self.on_features, own))
            stack.callback(features.remove)
        modules = [(parts.assembler, self.on_assembler), (parts.decoder, self.on_decoder)]
        modules += [(parts.vision, self.on_vision)] if self.vision is not None else []
        modules += [(layer, partial(self.on_layer, number)) for number, layer in enumerate(parts.layers)]
        for module, function in modules:
            if module is not None:
                stack.callback(pre_hook(module, function).remove)
        for number in sorted(self.captured_layers & set(layers)):
            check_attention(parts.decoder, number)
            attention = parts.layers[number].self_attn
            stack.callback(pre_hook(attention, partial(self.on_attention, number)).remove)
            for part in ("queries", "keys"):
                stack.callback(projection(attention, part, partial(self.on_projection, number, part)).remove)
        inside = {n for r in self.method.after_projector if r.site.inside for n in r.site.layers} & set(layers)
        for number in sorted(inside):
            check_halves(parts.decoder, number)
            split(parts.layers[number], LAYER_PARTS, partial(self.inside_layer, number), stack)
        if self.vision is not None:
            self.vision.enter(stack)
        for block in unread_blocks(model):
            own = block.forward
            stack.callback(Replacement(block, "forward", partial(self.on_unread_block, own)).remove)
        self.hooked = hooked_children(model)
        stack.callback(self.close)

    def close(self) -> None:
        """The context is left: let other threads finish the pass through the model that they are in."""
        with self.lock:
            self.closed = True
            me = threading.get_ident()
            self.lock.wait_for(lambda: not self.running.keys() - {me} & {t.ident for t in threading.enumerate()})

    def remove_guards(self) -> None:
        """Stop listening, unless another thread is inside ``generate`` still: its next pass has to fail."""
        with self.lock:
            if not self.generating - {threading.get_ident()}:
                for guard in self.guards:
                    guard.remove()

    def on_generate(self, own: Callable, *args: Any, **kwargs: Any) -> Any:
        """``generate`` is called: refuse what cannot work before anything is computed, and remember the prompt."""
        bound = signature(own).bind_partial(*args, **kwargs).arguments
        arguments = {**bound, **bound.get("kwargs", {})}
        check_generate(self.parts, self.method, own, arguments)
        prompts = [arguments.get(name) for name in ("inputs_embeds", "input_ids", "inputs")]
        given = next((prompt for prompt in prompts if prompt is not None), None)
        me, before = threading.get_ident(), self.state.generation
        if given is not None:
            self.state.generation = Generation(given.shape[1], len(given), given)
        self.recall((arguments.get("mm_encoder_outputs") or {}).get("image"))
        self.generating.add(me)
        try:
            return own(*args, **kwargs)
        finally:
            self.state.generation = before
            self.forget()
            with self.lock:
                self.generating.discard(me)
                if self.closed and not self.generating:
                    for guard in self.guards:
                        guard.remove()

    def forget(self) -> None:
        """A prompt is done with."""
        self.state.prompt_inputs = self.state.pictures = self.state.tokens = None
        self.state.ahead = 0
        if self.vision is not None:
            self.vision.forget()

    def on_model(self, arguments: dict) -> None:
        """The whole model is called: refuse what cannot work there."""
        self.check_open()
        if self.parts.decoder.training:
            raise UserError("reduce() is for inference: call model.eval() first")
        if any(getattr(parent, name, None) is not child for parent, name, child in self.hooked):
            raise UserError("parts of the model were exchanged inside reduce(): add adapters before entering it")
        if arguments.get("labels") is not None:
            raise UserError("labels do not fit a shortened sequence: take the logits inside reduce() and score them")
        check_logits(self.method, arguments.get("logits_to_keep"))
        if arguments.get("past_key_values") is not None:
            check_cache(arguments["past_key_values"], self.method, self.parts.depth)

    def check_open(self) -> None:
        """Refuse a pass that begins after the context has been left."""
        if self.closed and self.method.reductions:
            raise UserError("reduce() was left while generate was running in this thread: let it end first")

    def on_forward(self, own: Callable, *args: Any, **kwargs: Any) -> Any:
        """The whole model runs: leaving the context waits until it has ended, in whatever way."""
        me = threading.get_ident()
        with self.lock:
            self.check_open()
            self.running[me] += 1
        try:
            return own(*args, **kwargs)
        except BaseException:
            self.forget()
            raise
        finally:
            with self.lock:
                self.running[me] -= 1
                self.running += Counter()  # drops zeros
                self.lock.notify_all()

    def on_features(self, own: Callable, *args: Any, **kwargs: Any) -> Any:
        """Pictures are encoded: note how many tokens each becomes."""
        if self.vision is not None:
            check_features(self.parts.assembler.config, signature(own).bind_partial(*args, **kwargs).arguments)
        me = threading.get_ident()
        inside = self.running[me] > 0 or me in self.generating  # else somebody reads the tower's own outputs
        given = signature(own).bind_partial(*args, **kwargs).arguments
        self.state.unread = inside and all(given.get(name) is None for name in CHOICES_OF_FEATURES)
        try:
            encoded = own(*args, **kwargs)
        finally:
            self.state.unread = False
        self.state.ahead += 1
        features, pixels = getattr(encoded, "pooler_output", None), kwargs.get("pixel_values", *args[:1])
        several = isinstance(features, list | tuple) or (isinstance(features, Tensor) and features.dim() == 3)
        self.state.tokens = [len(f) for f in features] if several else None
        whole = pixels is not None and several and len(pixels) == len(features)
        self.state.pictures = list(pixels) if whole else list(features) if several else None
        images = None if self.vision is None else self.vision.encoded
        encoded.encoded_here = Encoded(self, self.state.pictures, self.state.tokens, images)
        if self.state.ahead > 1:  # embeddings may be of these or of earlier ones
            self.state.pictures = self.state.tokens = None
        return encoded

    def on_unread_block(self, own: Callable, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """A block of the tower behind the last one that the projector reads: it does not have to run."""
        return hidden_states if self.state.unread else own(hidden_states, *args, **kwargs)

    def recall(self, encoded: Any) -> None:
        """Pictures come that were encoded ahead: what is known of them, wherever others were encoded since."""
        if encoded is None:
            return
        known = getattr(encoded, "encoded_here", None)
        if known is None or known.context is not self:
            self.forget()
            return
        self.state.pictures, self.state.tokens, self.state.ahead = known.pictures, known.tokens, 1
        if self.vision is not None:
            self.vision.encoded = known.images

    def on_vision(self, arguments: dict) -> None:
        """The vision tower is called, by the model or by generate ahead of it."""
        self.vision.on_tower(next(value for value in arguments.values() if isinstance(value, Tensor)))

    def on_assembler(self, arguments: dict) -> None:
        """The assembler is called: token ids are still to be seen here."""
        ids, encoded = arguments.get("input_ids"), (arguments.get("mm_encoder_outputs") or {}).get("image")
        if self.state.generation is None:
            self.recall(encoded)
            if encoded is None and arguments.get("pixel_values") is not None:
                self.forget()  # what was encoded ahead belongs to another prompt
        pictures = arguments.get("pixel_values") if encoded is None else encoded.pooler_output
        pictures = None if pictures is None else list(pictures)
        self.state.prompt_inputs = PromptInputs(ids, arguments.get("inputs_embeds"), pictures)
        if arguments.get("pixel_values_videos") is not None and self.strict:
            raise UserError("reduce() knows images only: a video's tokens would stay, so pass frames as images")
        if pictures is None or not self.strict:
            return
        if is_filled(arguments.get("past_key_values")):
            raise UserError("a new image cannot join a cached conversation here: pass the whole prompt, no cache")
        if ids is not None and not ids.is_meta and not (ids.numpy(force=True) == self.parts.image_token).any():
            raise UserError("an image was given, but the prompt has no image token to stand for it")

    def on_decoder(self, arguments: dict) -> dict | None:
        """The decoder is called: begin a prompt, or go on with the one whose cache comes along."""
        state = self.state
        inputs = state.prompt_inputs or PromptInputs(arguments.get("input_ids"), arguments.get("inputs_embeds"))
        state.prompt_inputs, state.captured = None, {}
        cache = arguments.get("past_key_values")
        filled = filled_by(cache) if is_filled(cache) else None
        arguments = padding_mask(arguments, None if filled is None else filled.layouts)
        check_call(self.parts.decoder, arguments, self.method)
        if is_filled(cache):
            if filled is None or filled.context is not self:
                raise UserError("this cache was filled outside this reduce(): let the prompt go through it as well")
            state.decoder = DecoderCall(self.parts, filled.state, filled.layouts, prefill=False, cache=cache)
        else:
            prompt, arguments = self.start_prompt(arguments, self.complete(inputs))
            state.decoder = DecoderCall(self.parts, prompt, prompt.layouts, prefill=True, cache=cache)
        return decoder_arguments(state.decoder, arguments)

    def complete(self, inputs: PromptInputs) -> PromptInputs:
        """What is known of a prompt besides: its pictures as they came, and which rows ``generate`` has repeated."""
        state, generation = self.state, self.state.generation
        if generation is not None and not generation.holds(inputs):
            return inputs  # another prompt beside it: the unconditional one of guidance
        if state.pictures is not None:
            inputs = replace(inputs, pictures=state.pictures, tokens=state.tokens)
        if generation is None:
            state.pictures = state.tokens = None
            return inputs
        return replace(inputs, repeats=len(inputs.data) // generation.samples, end=generation.columns)

    def start_prompt(self, arguments: dict, inputs: PromptInputs) -> tuple[DecoderState, dict]:
        """A new prompt, and the decoder's arguments without the holes of images that were reduced before."""
        prompt = self.describe_prompt(arguments, inputs)
        if self.strict:
            check_prompt(prompt)
            if self.vision is not None and self.state.ahead > 1 and any(prompt.patches):
                raise UserError(
                    "several calls have encoded pictures since the last prompt, and embeddings do not say whose they "
                    "are: encode the pictures of one prompt, then let it through the model"
                )
        self.state.ahead = 0
        beside = self.state.generation is not None and not self.state.generation.holds(inputs)
        trace, samples = PrefillTrace.of(prompt) if beside else self.trace.begin(prompt), range(len(prompt.alive))
        norm = as_called(self.parts.decoder.norm, inputs.data.device)
        ids, device = inputs.ids, torch.device("cpu") if inputs.data.is_meta else inputs.data.device
        if ids is not None and not ids.is_meta and {"words", "text"} & self.method.needs:
            ids = torch.from_numpy(ids.numpy(force=True))  # once, before anything is computed
        providers = [{"words": cache(partial(self.words, prompt, ids, n)), "norm": lambda: norm} for n in samples]
        if hasattr(self.reader, "front") and ids is not None and not ids.is_meta:
            for n in samples:
                providers[n]["front"] = cache(partial(self.front, prompt, ids, n, device))
        start = DecoderStart(providers, [StageNotes() for _ in samples], self.reader, device=device)
        embeds = None
        if self.vision is not None:
            given, again = arguments.get("inputs_embeds"), self.state.generation is not None
            embeds = self.vision.enter_decoder(start, prompt, given, trace, inputs.repeats, again)
        state = DecoderState(self.method, prompt, self.parts.depth, start, trace)
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
        mask = arguments.get("attention_mask")
        if mask is not None and mask.dim() == 4 and not mask.is_meta:
            mask = seen_later(mask).expand(len(data), -1)
        return read_prompt(inputs, self.parts.image_token, visual, mask, position)

    def front(self, prompt: Prompt, ids: Tensor, sample: int, device: torch.device) -> Tensor:
        """Columns of the words of a sample's question in front of its picture."""
        return self.reader.front(ids[sample], prompt, sample).to(device)

    def words(self, prompt: Prompt, ids: Tensor | None, sample: int) -> list[Word]:
        """The words of a sample's question; ids (batch, columns) on the CPU."""
        if self.reader is None or ids is None:
            raise UserError(
                "the words of the question are needed, and this model has no tokenizer or this prompt no ids: load the "
                "model with thinsight.load_model, or take the method's substitute (rewriting=none, space=llm)"
            )
        return self.reader.words(ids[sample], prompt, sample)

    def on_layer(self, number: int, arguments: dict) -> dict | None:
        """A decoder layer is called: cut what enters it."""
        call, hidden = self.state.decoder, arguments["hidden_states"]
        if call.prefill:
            if number == 0 and arguments.get("past_key_values") is not None:
                fill(arguments["past_key_values"], call.state, self)  # the decoder may have made it just now
            if number > 0:
                hidden = call.state.advance(number, hidden, partial(self.attention_before, number, arguments))
            self.state.captured.pop(number - 1, None)
            call.state.trace.record(call.state.tokens)
        changed = layer_arguments(call, number, hidden, arguments)
        same = changed is None and hidden is arguments["hidden_states"]  # as many may stay, and yet not as they were
        return None if same else {**arguments, "hidden_states": hidden, **(changed or {})}

    def inside_layer(self, number: int, hidden: Tensor) -> Tensor:
        """Between the two halves of a decoder layer."""
        call = self.state.decoder
        return call.state.inside(number, hidden, partial(self.captured_attention, number)) if call.prefill else hidden

    def captured_attention(self, number: int, samples: Sequence[int], tokens: Tokens) -> AttentionAt:
        """What a stage can look at whose nearest attention is that of layer ``number``, if that was captured."""
        captured = self.state.captured.get(number)
        return {} if captured is None else {"attention": partial(captured.layer_attention, samples)}

    def attention_before(self, number: int, arguments: dict, samples: Sequence[int], tokens: Tokens) -> AttentionAt:
        """What a stage before layer ``number`` can look at."""
        coming = as_called(
            partial(self.next_layer_attention, number, arguments, samples, tokens), arguments["hidden_states"].device
        )
        return self.captured_attention(number - 1, samples, tokens) | {"next": coming}

    def on_attention(self, number: int, arguments: dict) -> None:
        """The attention of a layer is called whose queries and keys a stage will ask for."""
        if self.state.decoder.prefill:
            state, attention = self.state.decoder.state, self.parts.layers[number].self_attn
            index = [tokens.index for tokens in state.tokens]
            rows = [state.layouts.layers[number].places(n, columns) for n, columns in enumerate(index)]
            tables = arguments["position_embeddings"]
            sizes = [tokens.size.log() for tokens in state.tokens] if state.proportional else None
            self.state.captured[number] = CapturedQK(
                attention.head_dim, attention.scaling, index, rows, tables=tables, bias=sizes
            )

    def on_projection(self, number: int, part: str, _: nn.Module, __: tuple, states: Tensor) -> None:
        """Queries or keys of that layer."""
        if self.state.decoder.prefill:
            setattr(self.state.captured[number], part, states)

    def next_layer_attention(
        self, number: int, arguments: dict, samples: Sequence[int], tokens: Tokens
    ) -> LayerAttention:
        """Queries and keys that layer ``number`` would make of the tokens in front of it."""
        check_attention(self.parts.decoder, number)
        layer, state = self.parts.layers[number], self.state.decoder.state
        tables = current_tables(self.state.decoder, arguments)
        columns = side_by_side(state.layout.columns, samples)
        rows = torch.searchsorted(columns, tokens.index.clamp(min=0)).to(tokens.states.device)
        batch = len(state.tokens)
        tables = tuple(take_at(side_by_side(t.expand(batch, -1, -1), samples), rows) for t in tables)
        bias = tokens.size.log() if state.proportional else None
        states, scaling = layer.input_layernorm(tokens.states), layer.self_attn.scaling
        made = project_attention(layer.self_attn, states, tokens.index, scaling, bias, tables)
        ragged = any(len(state.tokens[sample]) != len(tokens) for sample in samples)
        return made.without_filling() if ragged else made


def modules_around(model: nn.Module, decoder: nn.Module) -> list[nn.Module]:
    """``model`` and the modules in it that hold the decoder: a user may call any of them."""
    name = next((name for name, module in model.named_modules() if module is decoder), "")
    parts = name.split(".")[:-1]
    inner = [model.get_submodule(".".join(parts[: n + 1])) for n in range(len(parts))]
    return [model, *inner] if name else [model]


def unread_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of the vision tower whose output nothing reads; none where the tower is of another kind, or where the
    forward of a block has been replaced already."""
    try:
        tower = find_tower(model)
    except UserError:
        return []
    return [block for block in tower.blocks[tower.used :] if isinstance(vars(block).get("forward"), OwnMethod | None)]


def is_attached(decoder: nn.Module) -> bool:
    """Whether a decoder is inside `reduce` right now."""
    return any(isinstance(owner, Attachment) for owner in hook_owners(decoder))
