"""The oracle: a full-length run of the plain model in which removed columns are hidden instead of removed.

Pruning is exactly this on the rows that stay: from the layer of the removal on nobody attends to a removed column. It
shares no code with the library beyond a trace's account of what was removed where.
"""

import torch
from torch import Tensor

from thinsight.runtime.trace import Trace


def masked_logits(model, inputs: dict, trace: Trace, pack: bool = False, generated: Tensor | None = None) -> Tensor:
    """Logits (batch, 1 + generated, vocabulary) of a teacher-forced run, the first one after the last prompt token.

    For removals before a layer. Where ``pack``, the rotary numbers of what is left close ranks.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    prompt = ids.shape[1]
    new = 0 if generated is None else generated.shape[1]
    if new:
        ids = torch.cat([ids, generated], 1)
        mask = torch.cat([mask, torch.ones_like(generated)], 1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    decoder = model.model.language_model
    handles = []
    for number, layer in enumerate(decoder.layers):
        hook = _hide(decoder, trace.entered(number), mask.bool(), position, prompt, pack)
        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            pixel_values=inputs.get("pixel_values"),
            use_cache=False,
        ).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[:, prompt - 1 :]


def _hide(decoder, entered: list[list[int]], mask: Tensor, position: Tensor, prompt: int, pack: bool):
    """The pre-hook of one layer: its own mask, and its own rotary tables if numbers are packed."""
    alive = mask.clone()
    for sample, columns in enumerate(entered):
        alive[sample, :prompt] = False
        alive[sample, columns] = True
    length = mask.shape[1]
    attend = alive[:, None, None, :] & torch.ones(length, length, dtype=torch.bool).tril()
    attend |= torch.eye(length, dtype=torch.bool)  # a row that sees nothing would be NaN under eager attention
    if pack:
        position = torch.where(alive, alive.cumsum(1) - 1, position)

    def hook(module, args, kwargs):
        dense = attend
        if decoder.config._attn_implementation == "eager":
            dense = torch.zeros(attend.shape, dtype=args[0].dtype).masked_fill(~attend, torch.finfo(args[0].dtype).min)
        tables = decoder.rotary_emb(args[0], position)
        return args, {**kwargs, "attention_mask": dense, "position_embeddings": tables}

    return hook
