"""InternVL: square tiles, of which each 2 x 2 patches are shuffled into one visual token in front of the projector."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from thinsight.models.architecture import ImageTokens, ModelParts, TowerSize, first_side, squarest

MODEL_TYPES = ("internvl",)
DECODER, VISION = "language_model", "vision_tower"


def largest_image(config: Any, settings: Mapping[str, Any]) -> ImageTokens:
    """As many tiles as the processor's ``max_patches``, and the whole picture once more."""
    side, each = first_side(config.vision_config.image_size), _patches(config)
    rows, columns = squarest(settings.get("max_patches", 12))
    tiles = rows * columns + (rows * columns > 1)
    shuffled = round(1 / config.downsample_ratio) ** 2
    return ImageTokens((rows * side, columns * side), tiles, tiles * (each // shuffled))


def tower_size(config: Any, image: ImageTokens) -> TowerSize:
    """A class token and the patches of each tile."""
    vision = config.vision_config
    return TowerSize(image.tiles * (_patches(config) + 1), vision.hidden_size, vision.intermediate_size)


def encode(parts: ModelParts, config: Any, image: ImageTokens, empty: Callable[..., torch.Tensor]) -> nn.Module:
    """All tiles of a picture at once."""
    assembler, vision = parts.assembler, config.vision_config
    side = first_side(vision.image_size)
    assembler.get_image_features(pixel_values=empty(image.tiles, vision.num_channels, side, side))
    return assembler.multi_modal_projector


def pixel_inputs(config: Any, image: ImageTokens, count: int, noise: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """The tiles of all pictures one after the other."""
    side = first_side(config.vision_config.image_size)
    return {"pixel_values": noise(count * image.tiles, config.vision_config.num_channels, side, side)}


def _patches(config: Any) -> int:
    return (first_side(config.vision_config.image_size) // first_side(config.vision_config.patch_size)) ** 2
