"""Whether a decoder's layers work as Llama's do: seen on a small layer of the same kind, with random weights."""

from copy import deepcopy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from thinsight.errors import UserError
from thinsight.runtime.hooks import full_precision, halves, project_attention

LAYER_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
"""What Llama and its relatives call the parts of a layer."""

TOKENS = 5
"""How many random tokens go through the small layer."""

_checked: WeakKeyDictionary[nn.Module, dict[tuple[str, int], bool]] = WeakKeyDictionary()


def check_attention(decoder: nn.Module, number: int) -> None:
    """Refuse a layer whose attention is not what its projections, Llama's rotation and its scaling give."""
    if not _same(decoder, "attention", number):
        kind = type(decoder.layers[number].self_attn).__name__
        raise UserError(
            f"{kind} does not attend as Llama does (its rotation, say), so what it attends to cannot be looked at: "
            "choose a method that does not look at the decoder's attention"
        )


def check_halves(decoder: nn.Module, number: int) -> None:
    """Refuse a layer that does more than add its attention, then its MLP, to what enters it."""
    if not _same(decoder, "halves", number):
        raise UserError(
            f"{type(decoder.layers[number]).__name__} is not Llama's sum of attention and MLP, so nothing can be "
            "reduced inside it: choose a method that acts in front of a layer of the decoder"
        )


def _same(decoder: nn.Module, what: str, number: int) -> bool:
    known = _checked.setdefault(decoder, {})
    if (what, number) not in known:
        try:
            known[what, number] = {"attention": _same_attention, "halves": _same_halves}[what](decoder, number)
        except Exception:  # whatever a layer of another kind lacks
            known[what, number] = False
    return known[what, number]


def _same_attention(decoder: nn.Module, number: int) -> bool:
    layer, states, given = _small(decoder, number)
    index, attention = torch.arange(TOKENS), layer.self_attn
    with torch.no_grad(), full_precision(states.device):
        expected = attention(hidden_states=states, **given)[1][0]
        tables = tuple(table[0] for table in given["position_embeddings"])
        ours = project_attention(attention, states[0], index, attention.scaling, None, tables).attention(index, index)
    return torch.allclose(ours, expected, rtol=1e-3, atol=1e-4)


def _same_halves(decoder: nn.Module, number: int) -> bool:
    layer, states, given = _small(decoder, number)
    with torch.no_grad(), full_precision(states.device):
        expected = layer(states, **given)
        ours = halves(layer, LAYER_PARTS, lambda hidden: hidden)(states, **given)
    expected = expected[0] if isinstance(expected, tuple) else expected
    return torch.allclose(ours, expected, rtol=1e-3, atol=1e-4)


def _small(decoder: nn.Module, number: int) -> tuple[nn.Module, Tensor, dict]:
    """A layer like ``decoder.layers[number]`` with two heads, states (1, tokens, width), and its other arguments."""
    layer, config = decoder.layers[number], deepcopy(decoder.config)
    heads, width = 2, layer.self_attn.head_dim
    alone = config.num_key_value_heads == config.num_attention_heads
    config.num_attention_heads, config.num_key_value_heads = heads, heads if alone else 1
    config.hidden_size, config.intermediate_size = heads * width, 2 * width
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        small = type(layer)(config, number).to(torch.float32).eval()
        rotation = type(decoder.rotary_emb)(config)
        for weight in small.parameters():
            nn.init.normal_(weight, std=0.2) if weight.dim() > 1 else nn.init.uniform_(weight, 0.5, 1.5)
        states = torch.randn(1, TOKENS, config.hidden_size, dtype=torch.float32)
        hidden = torch.full((TOKENS, TOKENS), torch.finfo(torch.float32).min, dtype=torch.float32).triu(1)
        tables = rotation(states, torch.arange(TOKENS)[None] + 1)
    return small, states, {"position_embeddings": tables, "attention_mask": hidden[None, None]}
