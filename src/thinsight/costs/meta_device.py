"""FLOPs counted by torch on the meta device, without weights.

Nothing is computed there, so a 13B model costs a second and no memory, yet every matrix product that would run is seen
by ``FlopCounterMode``: two operations per multiply-add, attention in full, no biases and no element-wise work.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thinsight.config.methods import load_method
from thinsight.costs.budgets import lengths_only, prefill_sizes_of
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.flops import decoder_shape, flops_by_convention, kv_bytes
from thinsight.errors import UserError
from thinsight.models.architecture import ImageTokens
from thinsight.models.families import family_of, find_parts
from thinsight.models.image_tokens import encode_size, largest_image
from thinsight.models.loading import meta_model
from thinsight.reduction.method import Method
from thinsight.runtime.attach import reduce
from thinsight.runtime.hooks import Replacement


@dataclass(frozen=True)
class Counted:
    """What one prefill would do: ``decoder`` and ``head`` FLOPs, and the ``lengths`` and ``visual`` tokens entering
    each decoder layer, (L,)."""

    decoder: int
    head: int
    lengths: list[int]
    visual: list[int]


def count_prefill(model: nn.Module, method: Method, text: int, visual: int) -> Counted:
    """Count one prefill of ``text`` + ``visual`` tokens under ``method``; half of the text stands before the image.

    ``model``: on the meta device. The LM head is run on the last row only, as generation does.
    """
    before = text // 2
    mask = torch.zeros(1, text + visual, dtype=torch.bool)
    mask[:, before : before + visual] = True
    width = model.get_input_embeddings().embedding_dim
    embeds = torch.empty(1, text + visual, width, dtype=model.dtype, device="meta")
    counter = FlopCounterMode(display=False)
    with (
        torch.no_grad(),
        reduce(model, method, visual=mask) as trace,
        counter,
        _like_layers(model, counter) as repeated,
    ):
        model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
    head = sum(sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith(".lm_head"))
    decoder = counter.get_total_flops() + sum(repeated) - head
    return Counted(decoder, head, list(trace.sequence_lengths[0]), list(trace.lengths[0]))


@contextmanager
def _like_layers(model: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Inside the context a decoder layer like one that has been counted, with as many tokens, gives that one's output:
    on the meta device all outputs of a shape are the same. Yields the FLOPs of each layer that was not run.

    Something reduced inside a layer makes its output shorter than its input, so that it is run each time; hooks on the
    parts of a layer are those of such reductions.
    """
    seen: dict[tuple, tuple[int, Any]] = {}
    repeated: list[int] = []

    def counted(layer: nn.Module, forward: Callable, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        parts = tuple((name, tuple(weight.shape)) for name, weight in layer.named_parameters())
        mask = kwargs.get("attention_mask")
        key = (parts, hidden_states.shape, None if mask is None else mask.shape)
        if key in seen:
            repeated.append(seen[key][0])
            return seen[key][1]
        before = counter.get_total_flops()
        output = forward(hidden_states, *args, **kwargs)
        seen[key] = counter.get_total_flops() - before, output
        return output

    with ExitStack() as stack:
        for layer in find_parts(model).layers:
            if "forward" not in vars(layer) and not any(
                part._forward_pre_hooks for part in layer.modules() if part is not layer
            ):
                stack.callback(Replacement(layer, "forward", partial(counted, layer, layer.forward)).remove)
        yield repeated


def tower_flops(model: nn.Module, image: ImageTokens) -> dict[str, int]:
    """FLOPs of the vision tower and of the projector for one ``image``, by its family's formula or else counted.

    The tower runs all of its layers even where LLaVA reads the last but one; that is what a run pays for. What puts
    patches together without arithmetic (InternVL's and SmolVLM's shuffle) costs nothing here.
    """
    formula = getattr(family_of(model.config), "tower_flops", None)
    return count_tower(model, image) if formula is None else formula(model.config, image)


def count_tower(model: nn.Module, image: ImageTokens) -> dict[str, int]:
    """The same, counted by torch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        projector = encode_size(model, image)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    behind = next(n for name, n in counts.items() if name.split(".")[-1] in (type(projector).__name__, "merger"))
    return {"vision_tower": counts["Global"] - behind, "projector": behind}


def cost_report(config: DictConfig) -> dict[str, Any]:
    """The cost of ``config.model`` under ``config.method`` at ``config.text_tokens``, whole and reduced, as plain data.

    ``conventions``: prefill of one picture by formula; ``counted``: the same prefill seen by torch's counter on the
    meta device, without what a method computes to choose; ``kv_bytes``: the cache after it, in 2-byte elements;
    ``vision``: FLOPs in front of the decoder, of the whole tower.
    """
    model, method, text = meta_model(config.model), load_method(config.method), int(config.text_tokens)
    shape, image = decoder_shape(model), largest_image(model.config, config.model.processor)
    visual = image.tokens
    if text < 2:
        raise UserError(f"text_tokens must be at least 2 (one before the picture, one after), not {text}.")
    computes = any(r.needs or r.merges for r in method.reductions) or bool(method.before_projector)
    counted = lengths_only(method, prefill_sizes_of(model, config)) if computes else method
    full = count_prefill(model, load_method("identity"), text, visual)
    reduced = count_prefill(model, counted, text, visual)
    whole = flops_by_convention(shape, full.lengths, visual=full.visual)
    short = flops_by_convention(shape, reduced.lengths, visual=reduced.visual)
    return {
        "model": config.model.name,
        "method": method.name,
        "fields": dict(method.fields),
        "text_tokens": text,
        "visual_tokens": visual,
        "conventions": {
            c.name: _pair(whole[c.name], short[c.name]) | {"counts": c.sentence, "source": c.source}
            for c in CONVENTIONS
        },
        "counted": {
            "decoder": _pair(full.decoder, reduced.decoder),
            "lm_head": full.head,
            "counts": "torch FlopCounterMode over the model on the meta device, LM head on the last row",
        },
        "kv_bytes": _pair(kv_bytes(shape, full.lengths), kv_bytes(shape, reduced.lengths)),
        "vision": tower_flops(model, image) | {"tiles": image.tiles, "pixels": list(image.size)},
        "lengths": {"sequence": reduced.lengths, "visual": reduced.visual},
    }


def _pair(full: int, reduced: int) -> dict[str, Any]:
    return {"full": full, "reduced": reduced, "ratio": round(reduced / full, 4)}
