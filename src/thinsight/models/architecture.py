"""What `thinsight` has to know of a model: its parts, its vision tower, and what a picture becomes in it.

`thinsight.models.families` finds them, with one file for each model family; the functions here are shared by several.
"""

import math
from dataclasses import dataclass

from torch import nn

from thinsight.errors import UserError

BLOCK_PARTS = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
"""What CLIP and SigLIP call the parts of a block."""


@dataclass(frozen=True)
class ModelParts:
    """The parts of one model.

    decoder      the stack itself: has ``layers``, ``norm``, ``rotary_emb`` and ``embed_tokens`` (LlamaModel or alike)
    layers       the decoder layers that run, in order
    flash        whether attention wants 2-D masks (the FlashAttention kernels)
    head         hidden states -> logits; None for a model without one
    assembler    the module that puts image features into the prompt and calls the decoder; None for a text-only model
    vision       the module that takes the pixels; None for a text-only model
    image_token  id of the placeholder token, one per visual token; None for a text-only model
    tiled        whether the vision module gets tiles, so that its rows are not pictures
    counts_cache whether positions of new tokens are counted from the cache's length where no mask is given (Qwen-VL)
    """

    decoder: nn.Module
    layers: nn.ModuleList
    flash: bool
    head: nn.Module | None
    assembler: nn.Module | None = None
    vision: nn.Module | None = None
    image_token: int | None = None
    tiled: bool = False
    counts_cache: bool = False

    @property
    def depth(self) -> int:
        """Number of decoder layers that run."""
        return len(self.layers)


@dataclass(frozen=True)
class VisionTower:
    """A CLIP- or SigLIP-like tower whose projector reads one row for each patch.

    blocks     its transformer blocks
    used       how many of them the projector's features have gone through
    classes    class tokens in front of the patches (CLIP 1, SigLIP 0)
    projector  the module that the features enter
    """

    blocks: nn.ModuleList
    used: int
    classes: int
    projector: nn.Module


@dataclass(frozen=True)
class ImageTokens:
    """One picture.

    size    (height, width) in pixels of what is cut into tiles
    tiles   what the tower encodes, the overview of the whole picture included; 1 where nothing is cut
    tokens  visual tokens as papers count them: without what unpadding takes away, and without newline tokens
    """

    size: tuple[int, int]
    tiles: int
    tokens: int


@dataclass(frozen=True)
class TowerSize:
    """What a vision tower's activations depend on.

    rows     that its blocks take for one picture, all tiles together, class tokens included
    width    of a row;  ffn  of its MLP
    rotated  whether queries and keys turn in float32 (rotary embedding)
    """

    rows: int
    width: int
    ffn: int
    rotated: bool = False


def decoder_parts(model: nn.Module, decoder: nn.Module, **fields: object) -> ModelParts:
    """The parts of a model whose stack of layers is ``decoder`` or lies inside it; ``fields``: those of `ModelParts`.

    A decoder that is not built like Llama's, or that does not attend to everything, is a `UserError`.
    """
    while not _is_stack(decoder):
        if not isinstance(getattr(decoder, "model", None), nn.Module):
            raise UserError(f"{type(model).__name__} has no Llama-like decoder (layers, norm, rotary_emb) to reduce in")
        decoder = decoder.model
    config = decoder.config
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise UserError(f"{type(decoder).__name__} mixes kinds of attention: only full attention can be reduced")
    if getattr(config, "sliding_window", None) is not None:
        raise UserError(f"{type(decoder).__name__} has a sliding window: only full attention can be reduced")
    layers, flash = decoder.layers[: config.num_hidden_layers], "flash" in (config._attn_implementation or "")
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return ModelParts(decoder, layers, flash, head, **fields)


def _is_stack(module: nn.Module) -> bool:
    layers = getattr(module, "layers", None)
    return isinstance(layers, nn.ModuleList) and hasattr(module, "norm") and hasattr(module, "rotary_emb")


def no_rows(model: nn.Module) -> UserError:
    """The refusal of a model whose projector does not read the tower's rows one by one."""
    return UserError(
        f"the projector of {type(model).__name__} does not read one row for each patch of a CLIP- or SigLIP-like "
        "tower, so nothing can be reduced in front of it: choose a method that acts behind the projector or in the "
        "decoder"
    )


def first_side(size: int | list[int] | tuple[int, ...]) -> int:
    """A size that configs write as one number or as (height, width)."""
    return size if isinstance(size, int) else size[0]


def squarest(count: int) -> tuple[int, int]:
    """(rows, columns) with rows * columns = ``count``, as near to a square as they can be."""
    rows = next(r for r in range(math.isqrt(count), 0, -1) if count % r == 0)
    return rows, count // rows
