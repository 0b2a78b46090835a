"""Masks, rotary tables, positions and cache entries cut to what a decoder layer holds."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.models.architecture import ModelParts
from thinsight.runtime.decoder import DecoderState
from thinsight.runtime.layout import Layout, Layouts, add_key_bias, cut_mask, take_rows


@dataclass
class DecoderCall:
    """One call of the decoder: the prompt itself (prefill), or tokens after it.

    layouts  what each layer holds of the prompt, in the rows of this call
    numbers  (axes, batch, columns) position numbers of a prompt that has several axes; None for one axis
    memo     shared by the layers
    """

    parts: ModelParts
    state: DecoderState
    layouts: Layouts
    prefill: bool
    cache: object | None
    numbers: Tensor | None = None
    memo: dict = field(default_factory=dict)

    def past(self, layer: int = 0) -> int:
        """Tokens in the cache of a layer before this call."""
        return 0 if self.prefill else int(self.cache.get_seq_length(layer))


def padding_mask(arguments: dict, layouts: Layouts | None) -> dict:
    """The decoder's arguments with the padding mask (batch, keys) from which generate made a 4-D one for a cache of
    fixed length; ``layouts``: of the prompt that has filled the cache, None for a new one.

    Such a mask counts keys by their place in the cache, and there are fewer of them than columns in the prompt.
    """
    cache, mask = arguments.get("past_key_values"), arguments.get("attention_mask")
    mask = mask.get("full_attention") if isinstance(mask, dict) else mask
    if not getattr(cache, "is_compileable", False) or mask is None or mask.dim() != 4:
        return arguments
    new = mask.shape[-2]
    if layouts is None:
        alive = seen_later(mask)
    else:
        later = int(cache.get_seq_length()) - layouts.base.held + new
        alive = torch.nn.functional.pad(layouts.full.on("alive", mask.device), (0, later), value=True)
    return {**arguments, "attention_mask": alive.long()}


def seen_later(mask: Tensor) -> Tensor:
    """(batch, queries) bool: the columns of a 4-D prefill mask that a later query may see; others are padding.

    The last column counts if it may see itself.
    """
    new = mask.shape[-2]
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    allowed = allowed.any(1)[..., :new]
    alive = (allowed & torch.ones(new, new, dtype=torch.bool, device=mask.device).tril(-1)).any(1)
    alive[:, -1] = allowed[:, -1, -1]
    return alive


def decoder_arguments(call: DecoderCall, arguments: dict) -> dict | None:
    """Arguments of the decoder with everything cut that leaves before its first layer; None to leave them alone."""
    if call.prefill:
        position = arguments.get("position_ids")
        call.numbers = position if position is not None and position.dim() == 3 else None
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
    full, base = call.layouts.full, call.layouts.base
    if base is full:
        return arguments if call.prefill else None
    device, new, past = embeds.device, embeds.shape[1], call.past()
    mask = arguments.get("attention_mask")
    if mask is None and not embeds.is_meta:
        # Stated, since without mask and cache transformers takes gaps between positions for several packed sequences.
        mask = torch.ones(base.columns.shape[0], full.held + past + new - base.held, dtype=torch.long, device=device)
    mask = cut_mask(mask, base, full, new, past + new, call.parts.flash)
    return {**arguments, "attention_mask": mask, "position_ids": _base_positions(call, arguments, past, new, device)}


def _base_positions(call: DecoderCall, arguments: dict, past: int, new: int, device: torch.device) -> Tensor:
    """Position numbers at the first layer: cut in the prefill, shifted after it where numbers are packed."""
    full, base, position = call.layouts.full, call.layouts.base, arguments.get("position_ids")
    packed = base.on("packed", device)[:, None]
    if call.prefill:
        if call.numbers is not None:
            return torch.where(packed, base.on("position", device), numbers_of(call, base))
        return base.on("position", device)
    if position is not None and position.dim() == 3:
        if call.parts.counts_cache and len(position) == 3 and arguments.get("attention_mask") is None:
            position = position + full.held - base.held
        return torch.where(packed, position[:1] + _shift(base, full, device), position)
    if position is None:
        position = full.on("last", device)[:, None] + past - base.held + 1 + torch.arange(new, device=device)
    return position + _shift(base, full, device) if base.packs else position


def numbers_of(call: DecoderCall, layout: Layout) -> Tensor:
    """(axes, batch, held) position numbers of what ``layout`` holds, of a prompt that has several axes."""
    columns = layout.on("numbered", call.numbers.device)
    return call.numbers.expand(-1, len(columns), -1).gather(2, columns.expand(len(call.numbers), -1, -1))


def check_length(call: DecoderCall, arguments: dict, new: int) -> None:
    """Several tokens after a prompt are a further turn. Are they just the new ones?"""
    full, base = call.layouts.full, call.layouts.base
    if new == 1 or base is full:
        return
    before = full.held + call.past() - base.held
    mask, position = arguments.get("attention_mask"), arguments.get("position_ids")
    wrong = mask is not None and mask.shape[-1] != before + new
    if not wrong and position is not None and position.dim() == 2:
        last = full.on("last", position.device) + before - full.held + new
        wrong = bool((position[:, -1] != last).any())
    if wrong:
        raise UserError(
            f"mask or positions do not fit {new} tokens after {before}: this method removes tokens before the first "
            "layer, by which generate counts a cache, so pass the new tokens only"
        )


def layer_arguments(call: DecoderCall, number: int, hidden: Tensor, arguments: dict) -> dict | None:
    """Arguments of decoder layer ``number`` that have to change, ``hidden`` being what enters it; None for none."""
    changed, bias = _shortened(call, number, hidden, arguments), call.layouts.biases[number]
    if bias is None:
        return changed
    if call.parts.flash:
        raise UserError(
            "sizes on attention logits are beyond FlashAttention: load the model with sdpa or eager attention"
        )
    changed, layout, new = changed or {}, call.layouts.layers[number], hidden.shape[1]
    keys = new + call.past(number)
    mask = changed.get("attention_mask", arguments.get("attention_mask"))
    return {**changed, "attention_mask": add_key_bias(mask, layout, new, keys, bias.to(hidden.device), hidden.dtype)}


def _shortened(call: DecoderCall, number: int, hidden: Tensor, arguments: dict) -> dict | None:
    """What has to change because columns are gone."""
    base, layout = call.layouts.base, call.layouts.layers[number]
    if layout is base:
        # FlashAttention takes gaps in the position numbers for the borders of packed sequences.
        return {"position_ids": None} if call.parts.flash and base is not call.layouts.full else None
    key = (id(layout), id(arguments.get("attention_mask")))
    if key not in call.memo:
        call.memo[key] = cut_arguments(call, number, hidden, arguments, layout, base)
    return call.memo[key]


def cut_arguments(
    call: DecoderCall, number: int, hidden: Tensor, arguments: dict, layout: Layout, base: Layout
) -> dict:
    """The arguments besides ``hidden`` of layer ``number`` with ``layout``, from those that were made for ``base``."""
    new, past = hidden.shape[1], call.past(number)
    mask = cut_mask(arguments.get("attention_mask"), layout, base, new, past + new, call.parts.flash)
    position, rotary = arguments.get("position_ids"), call.parts.decoder.rotary_emb
    tables = arguments["position_embeddings"]
    if call.prefill:
        position = layout.on("position", hidden.device)
        tables = _tables(call, layout, base, hidden, tables)
    elif layout.packs or layout.moved or base.moved:
        position = position + _shift(layout, base, position.device)
        tables = rotary(hidden, position)
    mask = None if mask is None else mask.to(hidden.device)
    position = None if call.parts.flash else position
    return {"attention_mask": mask, "position_embeddings": tables, "position_ids": position}


def current_tables(call: DecoderCall, arguments: dict) -> tuple[Tensor, Tensor]:
    """Cosines and sines (batch or 1, held, width) of the tokens that there are now; ``arguments`` are a layer's."""
    layout, base, tables = call.state.layout, call.layouts.base, arguments["position_embeddings"]
    return tables if layout is base else _tables(call, layout, base, arguments["hidden_states"], tables)


def _tables(
    call: DecoderCall, layout: Layout, base: Layout, hidden: Tensor, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of what ``layout`` holds in a prefill, ``tables`` being those of ``base``."""
    if layout.packs:
        return call.parts.decoder.rotary_emb(hidden, layout.on("position", hidden.device))
    if layout.moved or base.moved:  # the model's own tables go by place
        position = layout.on("position", hidden.device) if call.numbers is None else numbers_of(call, layout)[-3:]
        return call.parts.decoder.rotary_emb(hidden, position.to(hidden.device))
    return tuple(take_rows(table, layout.rows_in(base, table.device)) for table in tables)


def _shift(layout: Layout, wide: Layout, device: torch.device) -> Tensor:
    """(batch, 1): how much lower the numbers of later tokens are than in the wider layout."""
    return (layout.last - wide.last)[:, None].to(device)
