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

    anatomy: ModelParts
    passage: DecoderState
    prefill: bool
    cache: object | None
    memo: dict = field(default_factory=dict)


def decoder_arguments(call: DecoderCall, given: dict) -> dict | None:
    """Arguments of the decoder with everything cut that leaves before its first layer; None to leave them alone."""
    if call.prefill:
        if not call.passage.acts(0) and not call.passage.remembers:
            call.passage.advance(0, None)
            return None
        embeds = given.get("inputs_embeds")
        embeds = call.anatomy.decoder.embed_tokens(given["input_ids"]) if embeds is None else embeds
        call.passage.embeds = embeds if call.passage.remembers else None
        embeds = call.passage.advance(0, embeds)
        given = {**given, "inputs_embeds": embeds, "input_ids": None}
    else:
        embeds = given["input_ids"] if given.get("inputs_embeds") is None else given["inputs_embeds"]
        check_length(call, given, embeds.shape[1])
    full, base = call.passage.full, call.passage.layouts[0]
    if base is full:
        return given if call.prefill else None
    device, new = embeds.device, embeds.shape[1]
    past = 0 if call.prefill else call.cache.get_seq_length()
    mask = given.get("attention_mask")
    if mask is None and not embeds.is_meta:
        # Stated, since without mask and cache transformers takes gaps between positions for several packed sequences.
        mask = torch.ones(base.columns.shape[0], full.held + past + new - base.held, dtype=torch.long, device=device)
    mask = cut_mask(mask, base, full, new, past + new, call.anatomy.flash)
    return {**given, "attention_mask": mask, "position_ids": _base_positions(call, given, past, new, device)}


def _base_positions(call: DecoderCall, given: dict, past: int, new: int, device: torch.device) -> Tensor:
    """Position numbers at the first layer: cut in the prefill, shifted after it where numbers are packed."""
    full, base, position = call.passage.full, call.passage.layouts[0], given.get("position_ids")
    packed = base.on("packed", device)[:, None]
    if call.prefill:
        if position is not None and position.dim() == 3:
            rows = base.rows_in(full, position.device)
            kept = position.expand(-1, len(rows), -1).gather(2, rows.expand(len(position), -1, -1))
            return torch.where(packed, base.on("position", device), kept)
        return base.on("position", device)
    if position is not None and position.dim() == 3:
        if len(position) == 3 and given.get("attention_mask") is None:  # Qwen counted them from the shortened cache
            position = position + full.held - base.held
        return torch.where(packed, position[:1] + _shift(base, full, device), position)
    if position is None:
        position = full.on("last", device)[:, None] + past - base.held + 1 + torch.arange(new, device=device)
    return position + _shift(base, full, device) if bool(base.packed.any()) else position


def check_length(call: DecoderCall, given: dict, new: int) -> None:
    """Several tokens after a prompt are a further turn. Are they just the new ones?"""
    full, base = call.passage.full, call.passage.layouts[0]
    if new == 1 or base is full:
        return
    before = full.held + call.cache.get_seq_length() - base.held
    mask, position = given.get("attention_mask"), given.get("position_ids")
    last = full.last + before - full.held + new
    wrong = mask is not None and mask.shape[-1] != before + new
    if wrong or (position is not None and position.dim() == 2 and bool((position[:, -1].cpu() != last).any())):
        raise UserError(
            f"mask or positions do not fit {new} tokens after {before}: this method removes tokens before the first "
            "layer, by which generate counts a cache, so pass the new tokens only"
        )


def layer_arguments(call: DecoderCall, number: int, hidden: Tensor, given: dict) -> dict | None:
    """Arguments of decoder layer ``number`` that have to change, ``hidden`` being what enters it; None for none."""
    changed, bias = _shortened(call, number, hidden, given), call.passage.biases[number]
    if bias is None:
        return changed
    if call.anatomy.flash:
        raise UserError(
            "sizes on attention logits are beyond FlashAttention: load the model with sdpa or eager attention"
        )
    changed, layout, new = changed or {}, call.passage.layouts[number], hidden.shape[1]
    keys = new + (0 if call.prefill else call.cache.get_seq_length(number))
    mask = changed.get("attention_mask", given.get("attention_mask"))
    return {**changed, "attention_mask": add_key_bias(mask, layout, new, keys, bias.to(hidden.device), hidden.dtype)}


def _shortened(call: DecoderCall, number: int, hidden: Tensor, given: dict) -> dict | None:
    """What has to change because columns are gone."""
    base, layout = call.passage.layouts[0], call.passage.layouts[number]
    if layout is base:
        # FlashAttention takes gaps in the position numbers for the borders of packed sequences.
        return {"position_ids": None} if call.anatomy.flash and base is not call.passage.full else None
    key = (id(layout), id(given.get("attention_mask")))
    if key not in call.memo:
        call.memo[key] = cut(call, number, hidden, given, layout, base)
    return call.memo[key]


def cut(call: DecoderCall, number: int, hidden: Tensor, given: dict, layout: Layout, base: Layout) -> dict:
    """What goes beside ``hidden`` into layer ``number``, which holds ``layout``; ``given`` was made for ``base``."""
    new, past = hidden.shape[1], 0 if call.prefill else call.cache.get_seq_length(number)
    mask = cut_mask(given.get("attention_mask"), layout, base, new, past + new, call.anatomy.flash)
    position, rotary = given.get("position_ids"), call.anatomy.decoder.rotary_emb
    tables = given["position_embeddings"]
    if call.prefill:
        rows = layout.rows_in(base, hidden.device)
        position = layout.on("position", hidden.device)
        packed = bool(layout.packed.any())
        tables = rotary(hidden, position) if packed else tuple(take_rows(table, rows) for table in tables)
    elif bool((layout.last != base.last).any()):
        position = position + _shift(layout, base, position.device)
        tables = rotary(hidden, position)
    mask = None if mask is None else mask.to(hidden.device)
    position = None if call.anatomy.flash else position
    return {"attention_mask": mask, "position_embeddings": tables, "position_ids": position}


def current_tables(call: DecoderCall, given: dict) -> tuple[Tensor, Tensor]:
    """Cosines and sines (batch or 1, held, width) for what the passage holds now; ``given`` was made for its base."""
    passage, (cos, sin) = call.passage, given["position_embeddings"]
    layout, base = passage.layout, passage.layouts[0]
    if layout is base:
        return cos, sin
    if bool(layout.packed.any()):
        return call.anatomy.decoder.rotary_emb(given["hidden_states"], layout.on("position", cos.device))
    return tuple(take_rows(table, layout.rows_in(base, cos.device)) for table in (cos, sin))


def _shift(layout: Layout, wide: Layout, device: torch.device) -> Tensor:
    """(batch, 1): how much lower the numbers of later tokens are than in the wider layout."""
    return (layout.last - wide.last)[:, None].to(device)
