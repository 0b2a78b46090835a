"""Attention rows of a plain model, recomputed layer by layer.

A = softmax(q k^T / sqrt(head_dim) + mask), averaged over heads

Eager attention would keep (heads, columns, columns) for every layer; this keeps the rows that are asked for.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from thinsight.errors import UserError
from thinsight.models.families import find_parts
from thinsight.reduction.attention import rotate, split_heads
from thinsight.runtime.attach import is_attached
from thinsight.runtime.hooks import pre_hook

BLOCKED = torch.finfo(torch.float32).min
"""What hides a column. Finite, so that the row of a padding token, which may look at nothing, is no NaN."""


@torch.no_grad()
def attention_rows(model: nn.Module, inputs: Mapping[str, Tensor], rows: Sequence[int] | Tensor) -> list[Tensor]:
    """What the tokens at the columns ``rows`` attend to, per layer: (batch, rows, columns) fp32, rows summing to 1.

    ``inputs`` are model inputs for one prompt without a cache; ``rows`` count from the end if negative, or are given
    per sample as (batch, rows). The plain model runs once; inside ``reduce`` columns move, so there it is refused.
    """
    parts = find_parts(model)
    if is_attached(parts.decoder):
        raise UserError("attention_rows() looks at the plain model: call it outside reduce()")
    maps: list[Tensor] = []
    modules = [layer.self_attn for layer in parts.layers]
    for module in modules:
        if not hasattr(module, "q_proj") or hasattr(module, "q_norm"):
            raise UserError(
                f"{type(module).__name__} does not make queries as Llama does: its rows cannot be recomputed"
            )
    handles = [pre_hook(module, partial(_record, module, torch.as_tensor(rows), maps)) for module in modules]
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return maps


def attention_by_group(attention: Tensor, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention (batch, rows, columns) summed over groups of columns, (batch, columns) bool: name -> (batch, rows)."""
    return {name: (attention * mask.to(attention.device)[:, None]).sum(-1) for name, mask in groups.items()}


def prompt_groups(visual: Tensor, alive: Tensor, answer: int = 0) -> dict[str, Tensor]:
    """The parts of a prompt: system (text before the image), visual, question (text after it), answer; no padding.

    visual, alive (batch, columns) bool; the last ``answer`` columns are the answer. Returns name -> (batch, columns).
    """
    columns = torch.arange(visual.shape[1], device=visual.device)
    replied = (columns >= visual.shape[1] - answer).expand_as(visual)
    text = alive.bool() & ~visual & ~replied
    before = visual.cumsum(1) == 0
    return {
        "system": text & before,
        "visual": visual & alive.bool(),
        "question": text & ~before,
        "answer": replied & alive.bool(),
    }


def _record(module: nn.Module, rows: Tensor, maps: list[Tensor], arguments: dict) -> None:
    """The rows of one layer, from what enters its attention."""
    hidden, (cos, sin), mask = (
        arguments["hidden_states"],
        arguments["position_embeddings"],
        arguments.get("attention_mask"),
    )
    batch, columns, _ = hidden.shape
    rows = (rows.to(hidden.device) % columns).expand(batch, -1)  # (batch, rows)
    cos, sin = cos.expand(batch, -1, -1), sin.expand(batch, -1, -1)
    at = rows[:, :, None]
    query = split_heads(module.q_proj(hidden.gather(1, at.expand(-1, -1, hidden.shape[-1]))), module.head_dim)
    tables = (table.gather(1, at.expand(-1, -1, table.shape[-1]))[:, None] for table in (cos, sin))
    query = rotate(query, *tables)
    key = rotate(split_heads(module.k_proj(hidden), module.head_dim), cos[:, None], sin[:, None])
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)  # grouped-query attention
    scores = (query @ key.transpose(2, 3)).float() * module.scaling  # (batch, heads, rows, columns)
    maps.append((scores + _seen(mask, rows, columns)).softmax(-1).mean(1))


def _seen(mask: Tensor | None, rows: Tensor, columns: int) -> Tensor:
    """(batch, 1, rows, columns) fp32: 0 where a row may look, `BLOCKED` elsewhere."""
    if mask is None or mask.dim() == 2:
        seen = torch.arange(columns, device=rows.device) <= rows[:, None, :, None]
        seen = seen if mask is None else seen & mask.bool()[:, None, None]
        return torch.zeros(seen.shape, dtype=torch.float32, device=rows.device).masked_fill(~seen, BLOCKED)
    mask = mask.expand(len(rows), -1, -1, -1)
    mask = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, columns))
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=torch.float32, device=rows.device).masked_fill(~mask, BLOCKED)
    return mask.float()
