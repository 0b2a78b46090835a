"""Masks, rotary tables, positions and cache entries cut to what a decoder layer holds."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.models.architecture import ModelParts
from thinsight.runtime.decoder import DecoderState
from thinsight.runtime.layout import Layout, add_key_bias, cut_mask, take_rows


@dataclass
class DecoderCall:
    """One call of the decoder: the prompt itself (prefill), or tokens after it. ``memo`` is shared by its layers."""

    parts: ModelParts
    state: DecoderState
    prefill: bool
    cache: object | None
    memo: dict = field(default_factory=dict)


def decoder_arguments(call: DecoderCall, arguments: dict) -> dict | None:
    """Arguments of the decoder with everything cut that leaves before its first layer; None to leave them alone."""
    if call.prefill:
        if not call.state.acts(0) and not call.state.remembers:
            call.state.advance(0, None)
            return None
        embeds = arguments.get("inputs_embeds")
        embeds = call.parts.decoder.embed_tokens(arguments["input_ids"]) if embeds is None else embeds
        call.state.embeds = embeds if call.state.remembers else None
        embeds = call.state.advance(0, embeds)
        arguments = {**arguments, "inputs_embeds": embeds, "input_ids": None}
    else:
        embeds = arguments["input_ids"] if arguments.get("inputs_embeds") is None else arguments["inputs_embeds"]
        check_length(call, arguments, embeds.shape[1])
    full, base = call.state.full, call.state.layouts[0]
    if base is full:
        return arguments if call.prefill else None
    device, new = embeds.device, embeds.shape[1]
    past = 0 if call.prefill else call.cache.get_seq_length()
    mask = arguments.get("attention_mask")
    if mask is None and not embeds.is_meta:
        # Stated, since without mask and cache transformers takes gaps between positions for several packed sequences.
        mask = torch.ones(base.columns.shape[0], full.held + past + new - base.held, dtype=torch.long, device=device)
    mask = cut_mask(mask, base, full, new, past + new, call.parts.flash)
    return {**arguments, "attention_mask": mask, "position_ids": _base_positions(call, arguments, past, new, device)}


def _base_positions(call: DecoderCall, arguments: dict, past: int, new: int, device: torch.device) -> Tensor:
    """Position numbers at the first layer: cut in the prefill, shifted after it where numbers are packed."""
    full, base, position = call.state.full, call.state.layouts[0], arguments.get("position_ids")
    packed = base.on("packed", device)[:, None]
    if call.prefill:
        if position is not None and position.dim() == 3:
            rows = base.rows_in(full, position.device)
            kept = position.expand(-1, len(rows), -1).gather(2, rows.expand(len(position), -1, -1))
            return torch.where(packed, base.on("position", device), kept)
        return base.on("position", device)
    if position is not None and position.dim() == 3:
        if call.parts.counts_cache and len(position) == 3 and arguments.get("attention_mask") is None:
            position = position + full.held - base.held
        return torch.where(packed, position[:1] + _shift(base, full, device), position)
    if position is None:
        position = full.on("last", device)[:, None] + past - base.held + 1 + torch.arange(new, device=device)
    return position + _shift(base, full, device) if bool(base.packed.any()) else position


def check_length(call: DecoderCall, arguments: dict, new: int) -> None:
    """Several tokens after a prompt are a further turn. Are they just the new ones?"""
    full, base = call.state.full, call.state.layouts[0]
    if new == 1 or base is full:
        return
    before = full.held + call.cache.get_seq_length() - base.held
    mask, position = arguments.get("attention_mask"), arguments.get("position_ids")
    last = full.last + before - full.held + new
    wrong = mask is not None and mask.shape[-1] != before + new
    if wrong or (position is not None and position.dim() == 2 and bool((position[:, -1].cpu() != last).any())):
        raise UserError(
            f"mask or positions do not fit {new} tokens after {before}: this method removes tokens before the first "
            "layer, by which generate counts a cache, so pass the new tokens only"
        )


def layer_arguments(call: DecoderCall, number: int, hidden: Tensor, arguments: dict) -> dict | None:
    """Arguments of decoder layer ``number`` that have to change, ``hidden`` being what enters it; None for none."""
    changed, bias = _shortened(call, number, hidden, arguments), call.state.biases[number]
    if bias is None:
        return changed
    if call.parts.flash:
        raise UserError(
            "sizes on attention logits are beyond FlashAttention: load the model with sdpa or eager attention"
        )
    changed, layout, new = changed or {}, call.state.layouts[number], hidden.shape[1]
    keys = new + (0 if call.prefill else call.cache.get_seq_length(number))
    mask = changed.get("attention_mask", arguments.get("attention_mask"))
    return {**changed, "attention_mask": add_key_bias(mask, layout, new, keys, bias.to(hidden.device), hidden.dtype)}


def _shortened(call: DecoderCall, number: int, hidden: Tensor, arguments: dict) -> dict | None:
    """What has to change because columns are gone."""
    base, layout = call.state.layouts[0], call.state.layouts[number]
    if layout is base:
        # FlashAttention takes gaps in the position numbers for the borders of packed sequences.
        return {"position_ids": None} if call.parts.flash and base is not call.state.full else None
    key = (id(layout), id(arguments.get("attention_mask")))
    if key not in call.memo:
        call.memo[key] = cut_arguments(call, number, hidden, arguments, layout, base)
    return call.memo[key]


def cut_arguments(
    call: DecoderCall, number: int, hidden: Tensor, arguments: dict, layout: Layout, base: Layout
) -> dict:
    """The arguments besides ``hidden`` of layer ``number`` with ``layout``, from those that were made for ``base``."""
    new, past = hidden.shape[1], 0 if call.prefill else call.cache.get_seq_length(number)
    mask = cut_mask(arguments.get("attention_mask"), layout, base, new, past + new, call.parts.flash)
    position, rotary = arguments.get("position_ids"), call.parts.decoder.rotary_emb
    tables = arguments["position_embeddings"]
    if call.prefill:
        rows = layout.rows_in(base, hidden.device)
        position = layout.on("position", hidden.device)
        packed = bool(layout.packed.any())
        tables = rotary(hidden, position) if packed else tuple(take_rows(table, rows) for table in tables)
    elif bool((layout.last != base.last).any()):
        position = position + _shift(layout, base, position.device)
        tables = rotary(hidden, position)
    mask = None if mask is None else mask.to(hidden.device)
    position = None if call.parts.flash else position
    return {"attention_mask": mask, "position_embeddings": tables, "position_ids": position}


def current_tables(call: DecoderCall, arguments: dict) -> tuple[Tensor, Tensor]:
    """Cosines and sines (batch or 1, held, width) of the tokens that there are now; ``arguments`` are a layer's."""
    state, (cos, sin) = call.state, arguments["position_embeddings"]
    layout, base = state.layout, state.layouts[0]
    if layout is base:
        return cos, sin
    if bool(layout.packed.any()):
        return call.parts.decoder.rotary_emb(arguments["hidden_states"], layout.on("position", cos.device))
    return tuple(take_rows(table, layout.rows_in(base, cos.device)) for table in (cos, sin))


def _shift(layout: Layout, wide: Layout, device: torch.device) -> Tensor:
    """(batch, 1): how much lower the numbers of later tokens are than in the wider layout."""
    return (layout.last - wide.last)[:, None].to(device)
