"""Where the parts of a vision tower are that a reduction in front of the projector has to reach."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from thinsight.anatomy import Anatomy
from thinsight.errors import UserError


@dataclass(frozen=True)
class Tower:
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


def find_tower(model: nn.Module, anatomy: Anatomy) -> Tower:
    """The tower of ``model``; one that packs, merges or shuffles patches before its projector is a `UserError`."""
    vision, assembler, config = anatomy.vision, anatomy.assembler, model.config
    name = type(model).__name__
    if vision is None:
        raise UserError(f"{name} has no vision tower: choose a method that acts in the decoder")
    stack = getattr(vision, "vision_model", vision)
    blocks = getattr(getattr(stack, "encoder", None), "layers", None)
    projector, layer = getattr(assembler, "multi_modal_projector", None), getattr(config, "vision_feature_layer", None)
    plain = blocks is not None and all(hasattr(blocks[0], part) for part in PARTS)
    if not plain or projector is None or not isinstance(layer, int) or hasattr(config, "downsample_ratio"):
        raise UserError(
            f"the projector of {name} does not read one row for each patch of a CLIP- or SigLIP-like tower, so nothing "
            "can be reduced in front of it: choose a method that acts behind the projector or in the decoder"
        )
    if hasattr(config, "vision_aspect_ratio"):
        raise UserError(
            f"{name} shrinks large pictures by interpolation behind its projector, which would mix patches that stay "
            "with those that are gone: choose a method that acts behind the projector or in the decoder"
        )
    depth = len(blocks)
    used = layer if layer >= 0 else depth + 1 + layer
    classes = int(getattr(config, "vision_feature_select_strategy", "full") == "default")
    has_class = hasattr(getattr(stack, "embeddings", None), "class_embedding")
    if classes != int(has_class):
        raise UserError(
            f"{name} passes its class token on as a patch: reductions in front of its projector would take it for one"
        )
    return Tower(blocks, used, classes, projector)


PARTS = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
"""What CLIP and SigLIP call the parts of a block."""


def split(
    block: nn.Module, names: tuple[str, str, str, str], between: Callable[[Tensor], Tensor], stack: ExitStack
) -> None:
    """Give ``block`` the forward of `halves` until ``stack`` is left. A block whose forward has been replaced already
    (by a library that moves weights between devices, say) is a `UserError`: it would be bypassed."""
    if "forward" in vars(block):
        raise UserError(
            f"the forward of this {type(block).__name__} has been replaced (device_map?), so nothing can be reduced "
            "in it: load the model on one device"
        )
    block.forward = halves(block, names, between)
    stack.callback(delattr, block, "forward")


def halves(block: nn.Module, names: tuple[str, str, str, str], between: Callable[[Tensor], Tensor]) -> Callable:
    """A forward for a pre-norm ``block`` that runs the block's own parts, with ``between`` applied between its halves:
    ``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``."""
    norm1, attention, norm2, mlp = (getattr(block, name) for name in names)
    signature = inspect.signature(block.forward)
    others = list(signature.parameters)[1:]

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        beside = dict(zip(others, args, strict=False)) | kwargs
        attended = attention(hidden_states=norm1(hidden_states), **beside)
        hidden_states = hidden_states + (attended[0] if isinstance(attended, tuple) else attended)
        hidden_states = between(hidden_states)
        return hidden_states + mlp(norm2(hidden_states))

    forward.__signature__ = signature  # hooks go by the names of the arguments
    return forward
