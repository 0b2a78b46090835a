"""SmolVLM and Idefics3: square tiles, of which each ``scale_factor`` squared patches become one visual token."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from thinsight.models.architecture import ImageTokens, ModelParts, TowerSize

MODEL_TYPES = ("idefics3", "smolvlm")
DECODER, VISION = "text_model", "vision_model"


def largest_image(config: Any, settings: Mapping[str, Any]) -> ImageTokens:
    """A square of tiles up to the processor's ``size``, and the whole picture once more."""
    side, each = config.vision_config.image_size, _patches(config) // config.scale_factor**2
    rows = math.ceil(settings.get("size", {}).get("longest_edge", 4 * side) / side)
    tiles = rows**2 + (rows > 1)
    return ImageTokens((rows * side, rows * side), tiles, tiles * each)


def tower_size(config: Any, image: ImageTokens) -> TowerSize:
    """The patches of each tile; there is no class token."""
    vision = config.vision_config
    return TowerSize(image.tiles * _patches(config), vision.hidden_size, vision.intermediate_size)


def encode(parts: ModelParts, config: Any, image: ImageTokens, empty: Callable[..., torch.Tensor]) -> nn.Module:
    """Part by part, since where patches are and whether they are padding is read from data."""
    vision = config.vision_config
    pixels = empty(image.tiles, vision.num_channels, vision.image_size, vision.image_size)
    patches = parts.vision.embeddings.patch_embedding(pixels)
    states = parts.vision.encoder(inputs_embeds=patches.flatten(2).transpose(1, 2)).last_hidden_state
    parts.assembler.connector(states.contiguous())
    return parts.assembler.connector


def pixel_inputs(config: Any, image: ImageTokens, count: int, noise: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """The tiles of a picture in a row."""
    vision = config.vision_config
    return {"pixel_values": noise(count, image.tiles, vision.num_channels, vision.image_size, vision.image_size)}


def _patches(config: Any) -> int:
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2
