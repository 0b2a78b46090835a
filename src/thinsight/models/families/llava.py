"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision: a CLIP or SigLIP tower and a projector that takes patch by patch.

LLaVA-OneVision shrinks what lies above ``anyres_max_N`` tiles by interpolation, behind the projector.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from thinsight.errors import UserError
from thinsight.models.architecture import (
    BLOCK_PARTS,
    ImageTokens,
    ModelParts,
    TowerSize,
    VisionTower,
    first_side,
    no_rows,
)

MODEL_TYPES = ("llava", "llava_next", "llava_onevision")
DECODER, VISION = "language_model", "vision_tower"


def find_tower(model: nn.Module, parts: ModelParts) -> VisionTower:
    """Blocks of CLIP or SigLIP, up to the one layer that the projector reads."""
    vision, config, name = parts.vision, model.config, type(model).__name__
    stack = getattr(vision, "vision_model", vision)
    blocks = getattr(getattr(stack, "encoder", None), "layers", None)
    layer = getattr(config, "vision_feature_layer", None)
    plain = blocks is not None and all(hasattr(blocks[0], part) for part in BLOCK_PARTS)
    if not plain or not isinstance(layer, int) or not hasattr(parts.assembler, "multi_modal_projector"):
        raise no_rows(model)
    if config.model_type == "llava_onevision":
        raise UserError(
            f"{name} shrinks large pictures by interpolation behind its projector, which would mix patches that stay "
            "with those that are gone: choose a method that acts behind the projector or in the decoder"
        )
    used = layer if layer >= 0 else len(blocks) + 1 + layer
    classes = int(config.vision_feature_select_strategy == "default")
    if classes != int(hasattr(stack.embeddings, "class_embedding")):
        raise UserError(
            f"{name} passes its class token on as a patch: reductions in front of its projector would take it for one"
        )
    return VisionTower(blocks, used, classes, parts.assembler.multi_modal_projector)


def largest_image(config: Any, settings: Mapping[str, Any]) -> ImageTokens:
    """One square, or the largest of the grids that a picture is cut by and the whole picture once more."""
    side, patch = first_side(config.vision_config.image_size), first_side(config.vision_config.patch_size)
    each = (side // patch) ** 2
    if not getattr(config, "image_grid_pinpoints", None):
        return ImageTokens((side, side), 1, each)
    size = max(map(tuple, config.image_grid_pinpoints), key=math.prod)
    cut = math.prod(size) // side**2
    limit = re.search(r"\d+", getattr(config, "vision_aspect_ratio", ""))
    return ImageTokens(size, cut + 1, each * (1 + min(cut, int(limit[0]) if limit else cut)))


def tower_size(config: Any, image: ImageTokens) -> TowerSize:
    """A class token and the patches of each tile."""
    vision = config.vision_config
    rows = image.tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
    return TowerSize(rows, vision.hidden_size, vision.intermediate_size)


def encode(parts: ModelParts, config: Any, image: ImageTokens, empty: Callable[..., torch.Tensor]) -> nn.Module:
    """All tiles of a picture at once, as the model does."""
    side = first_side(config.vision_config.image_size)
    pixels, sizes = empty(image.tiles, config.vision_config.num_channels, side, side), {}
    if parts.tiled:
        pixels, sizes = pixels[None], {"image_sizes": torch.tensor([image.size])}
    parts.assembler.get_image_features(pixel_values=pixels, **sizes)
    return parts.assembler.multi_modal_projector


def pixel_inputs(config: Any, image: ImageTokens, count: int, noise: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """One picture a prompt; tiles of one picture stand in a row, with the picture's size."""
    side, channels = first_side(config.vision_config.image_size), config.vision_config.num_channels
    if not hasattr(config, "image_grid_pinpoints"):
        return {"pixel_values": noise(count, channels, side, side)}
    pixels = noise(count, image.tiles, channels, side, side)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([image.size] * count)}


def set_padding(processor: Any, value: bool) -> None:
    """CLIP's image processor takes ``do_pad`` and ignores it; LLaVA's pads to a square with the mean colour, as the
    original code does, so asking for padding swaps the class."""
    images = processor.image_processor
    if value and type(images).__name__.startswith("CLIPImageProcessor"):
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        fields = {k: v for k, v in images.to_dict().items() if k != "image_processor_type"}
        processor.image_processor = LlavaImageProcessorPil(**fields | {"do_pad": True})
    else:
        images.do_pad = value


PROCESSOR_SETTINGS = {"do_pad": set_padding}
