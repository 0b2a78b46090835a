"""Bytes that a prefill needs at once, from the lengths that it really has: weights, cache, and what is alive besides.

Activation memory is here the tensors alive at the same time while one prompt goes through the decoder, in inference,
without weights, without the key-value cache, and without what a fused attention kernel keeps to itself. In a gated
decoder it is largest inside an MLP: of n tokens and element size e, with d the width and m the MLP's,

    fused   e n (3d + 3m)                 the layer's input, the residual, the normed states; gate, up, product
    eager   the larger of                 whole attention maps are made, (heads, n, n), and one outlives its layer's
              e n (3d + 3m) + e H n^2     attention, because the layer's code gives it back
              e n (2d + q + 2q') + b H n^2

and in both cases the prompt's embeddings e n_0 d, the tables of the rotation, and the causal mask e n^2 (eager) on top.
b is 10 bytes in half precision: the logits, their copy in float32, and the softmax of it (8 in float32, which needs no
copy; 8 as well where a GPU's softmax converts by itself). q' is the queries' width if keys are repeated for groups.

Source: transformers 5 (modeling_llama), counted operation by operation; tests hold the formula to a count of
the bytes of real tensors while they live, byte by byte. `memory_traffic` is another thing that is printed as memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from thinsight.costs.flops import DecoderShape, kv_bytes
from thinsight.errors import UserError
from thinsight.models.architecture import TowerSize
from thinsight.models.families import find_parts

BYTES = {"FP16": 2.0, "INT8": 1.0, "INT4": 0.5}
"""Bytes of an element; the tables that print INT8 and INT4 scale weights, cache and activations alike."""


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of one prompt. ``activations``: the most alive besides weights and cache; ``at``: the most of cache and
    activations together, which need not be the sum of both largest (a cut prompt fills its cache later)."""

    cache: int
    activations: int
    at: int


def peak_memory(
    shape: DecoderShape, heads: int, lengths: Sequence[int], attention: str = "fused", element: int = 2
) -> PeakMemory:
    """Cache and activations of a prompt with ``lengths`` tokens entering each layer, (L,).

    ``heads``: query heads; ``attention``: "fused" (SDPA, FlashAttention) or "eager"; ``element``: bytes (2 or 4).
    """
    d, m, q, e = shape.width, shape.ffn, shape.queries, element
    if 3 * m < 4 * d:
        raise UserError("the MLP of this decoder is so narrow that its activations do not peak inside it")
    alive = []
    for number, n in enumerate(lengths):
        held = e * lengths[0] * d if number else 0  # the prompt's embeddings are the first layer's input
        held += 2 * e * n * (q // heads) + 8 * n  # cosines, sines, position numbers
        mlp = 3 * e * n * (d + m)
        if attention == "eager":
            maps, grouped = heads * n * n, 2 * q if shape.keys < q else 0
            held += e * n * n  # the causal mask
            mlp = max(mlp + e * maps, e * n * (2 * d + q + grouped) + (8 + e % 4) * maps)
        alive.append(held + mlp)
    cached = list(accumulate(kv_bytes(shape, [n], element_bytes=e) for n in lengths))
    return PeakMemory(cached[-1], max(alive), max(c + a for c, a in zip(cached, alive, strict=True)))


def tower_peak(tower: TowerSize, element: int = 2) -> int:
    """Activation bytes of a vision tower with fused attention.

    Inside an MLP as in the decoder, with the tower's embeddings besides: 4d + 3m a row. Where queries and keys turn in
    float32 (Qwen-VL), that takes 18d and is more where the MLP is not wide.
    """
    d, m = tower.width, tower.ffn
    return element * tower.rows * max(4 * d + 3 * m, 18 * d if tower.rotated else 0)


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of the parameters in the type that they are in (meta device included): decoder, head, vision, other."""
    parts, seen, sizes = find_parts(model), set(), {}
    named = {"decoder": parts.decoder, "head": parts.head, "vision": parts.vision, "other": model}
    for name, module in named.items():
        parameters = [p for p in ([] if module is None else module.parameters()) if id(p) not in seen]
        seen.update(map(id, parameters))
        sizes[name] = sum(p.numel() * p.element_size() for p in parameters)
    return sizes


def memory_traffic(shape: DecoderShape, heads: int, tokens: int, element: float = 2.0) -> float:
    """Bytes that a prefill reads and writes in the count of LLM-Viewer (hahnyuan/LLM-Viewer at 01b269d, memory_access):
    every operation loads its inputs and stores its output, nothing stays on the chip, attention is not fused.

    Per layer and token 26 rows of width d (linear maps 9, cache 2 written and 3 read, attention's output 1, two norms
    4, two sums 4, the MLP's product 3, which that tool takes to be d wide), 3 of the MLP's width, and 4 attention maps;
    besides, each weight and the head once. The width of grouped keys is not told apart: for equal heads only.
    """
    d, m = shape.width, shape.ffn
    layer = 4 * d * d + shape.matrices * d * m + tokens * (26 * d + 3 * m) + 4 * heads * tokens**2
    return element * (shape.layers * layer + d * shape.vocabulary)
