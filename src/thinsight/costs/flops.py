"""FLOPs and KV-cache bytes of a decoder by formula, for given tokens at each layer.

Let a decoder have L layers of width d and MLP width m, and let n_l tokens enter layer l. Every published count is

    sum over l of  c * (n_l * (P + F) + 2 * n_l^2 * a)  [+ biases]  [+ LM head]

with P the weights of the four attention matrices (4d^2 without grouped queries), F those of the MLP (2dm or 3dm), a the
width of all query heads, and c one or two operations per multiply-add. `thinsight.costs.conventions` names the choices.

    python -m thinsight.cost model=llava_1_5_7b method=vtw text_tokens=64
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from thinsight.costs.conventions import CONVENTIONS, Convention
from thinsight.errors import UserError

Lengths = Sequence[int]


@dataclass(frozen=True)
class DecoderShape:
    """What a stack of equal transformer layers costs per token; all counts are per layer except ``layers``.

    ``width`` d, ``ffn`` m, ``matrices`` of d x m in the MLP (3 if gated), ``queries`` width of all query heads,
    ``keys`` width of all key heads (smaller under grouped-query attention), ``biases`` bias elements of the linear
    maps, ``vocabulary`` rows of the LM head (0 without one).
    """

    layers: int
    width: int
    ffn: int
    matrices: int
    queries: int
    keys: int
    biases: int = 0
    vocabulary: int = 0

    @classmethod
    def of(cls, layers: nn.ModuleList, vocabulary: int = 0) -> "DecoderShape":
        """Read the shape off real modules (on any device, meta included): Llama-like or CLIP-like blocks."""
        attention, mlp = layers[0].self_attn, layers[0].mlp
        weights = [p for p in mlp.parameters() if p.dim() == 2]
        linear = [m for part in (attention, mlp) for m in part.modules() if getattr(m, "bias", None) is not None]
        return cls(
            layers=len(layers),
            width=attention.q_proj.in_features,
            ffn=max(max(w.shape) for w in weights),
            matrices=len(weights),
            queries=attention.q_proj.out_features,
            keys=attention.k_proj.out_features,
            biases=sum(m.bias.numel() for m in linear),
            vocabulary=vocabulary,
        )


def flops(
    shape: DecoderShape,
    lengths: Lengths,
    convention: Convention,
    *,
    visual: Lengths | None = None,
    steps: Sequence[Lengths] = (),
) -> int:
    """Operations of one sample's prefill and of the decoding ``steps`` after it.

    ``lengths``: tokens entering each layer in the prefill, padding excluded, (L,). ``visual``: how many of them are
    visual, (L,), needed by the conventions that count nothing else (which are silent on decoding: generated tokens are
    text). ``steps``: for each generated token that was fed back, the keys it attends to in each layer, itself included,
    (steps, L); see `decode_steps`. A reduction inside a block is charged the entering length in both of its halves.
    """
    _check(shape, lengths, visual, convention, steps)
    counted = visual if convention.visual_only else lengths
    total = sum(_layer(shape, convention, n, n) for n in counted)
    rows = {"none": 0, "last": 1, "all": lengths[-1]}[convention.head]
    if not convention.visual_only:
        total += sum(_layer(shape, convention, 1, keys) for step in steps for keys in step)
        rows += len(steps) * (convention.head != "none")
    return total + convention.per_mac * rows * shape.width * shape.vocabulary


def prefill_flops(shape: DecoderShape, visual: Lengths, text: int, convention: Convention) -> int:
    """`flops` of a prefill with ``visual`` tokens entering each layer, (L,), and ``text`` others in all of them."""
    return flops(shape, [n + text for n in visual], convention, visual=visual)


def flops_by_convention(
    shape: DecoderShape, lengths: Lengths, *, visual: Lengths | None = None, steps: Sequence[Lengths] = ()
) -> dict[str, int]:
    """`flops` in every named convention; the visual-only ones are left out when ``visual`` is not known."""
    usable = [c for c in CONVENTIONS if visual is not None or not c.visual_only]
    return {c.name: flops(shape, lengths, c, visual=visual, steps=steps) for c in usable}


def decode_steps(lengths: Lengths, generated: int) -> list[list[int]]:
    """Keys seen in each layer by each token that is fed back, when ``generated`` tokens follow a prefill.

    The prefill itself yields the first token and the last one is never fed back, hence ``generated - 1`` steps.
    """
    return [[n + g for n in lengths] for g in range(1, generated)]


def kv_bytes(shape: DecoderShape, lengths: Lengths, generated: int = 0, element_bytes: int = 2) -> int:
    """Bytes of the key-value cache of one sample after the prefill and ``generated`` fed-back tokens.

    Every layer keeps keys and values of the tokens that entered it: VTW's ``K n + (L - K)(n - v)`` entries.
    """
    return 2 * shape.keys * element_bytes * sum(n + generated for n in lengths)


def _layer(shape: DecoderShape, convention: Convention, queries: int, keys: int) -> int:
    """One layer: linear maps of ``queries`` tokens, attention of ``queries`` rows over ``keys`` columns."""
    d = shape.width
    attention = 2 * d * (shape.queries + shape.keys) if convention.exact else 4 * d * d
    mlp = (convention.matrices or shape.matrices) * d * shape.ffn
    rows = shape.queries if convention.exact else d
    macs = queries * (attention + mlp) + 2 * queries * keys * rows
    return convention.per_mac * macs + queries * shape.biases * convention.exact


def _check(
    shape: DecoderShape, lengths: Lengths, visual: Lengths | None, convention: Convention, steps: Sequence[Lengths]
):
    if convention.visual_only and visual is None:
        raise UserError(f"the convention '{convention.name}' counts visual tokens only and needs their lengths.")
    for what in (lengths, *([] if visual is None else [visual]), *steps):
        if len(what) != shape.layers:
            raise UserError(f"{len(what)} lengths were given for a stack of {shape.layers} layers.")


def decoder_shape(model: nn.Module) -> DecoderShape:
    """The `DecoderShape` of the language model inside ``model``, LM head included."""
    return DecoderShape.of(model.get_decoder().layers, vocabulary=model.get_output_embeddings().out_features)
