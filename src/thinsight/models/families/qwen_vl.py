"""Qwen2-VL and Qwen2.5-VL: pictures of any size, whose tower packs all patches and merges each 2 x 2 at its end.

Positions run along three axes. Qwen2.5-VL attends within windows of ``window_size`` pixels, but for the blocks
``fullatt_block_indexes``.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from thinsight.models.architecture import ImageTokens, ModelParts, TowerSize, squarest

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")
DECODER, VISION = "language_model", "visual"
COUNTS_CACHE = True


def largest_image(config: Any, settings: Mapping[str, Any]) -> ImageTokens:
    """Any size up to a number of pixels, a setting of the processor; one token for every merged square of patches."""
    vision = config.vision_config
    cell = vision.patch_size * vision.spatial_merge_size
    rows, columns = squarest(settings.get("size", {}).get("longest_edge", 1280 * 28 * 28) // cell**2)
    return ImageTokens((rows * cell, columns * cell), 1, rows * columns)


def tower_size(config: Any, image: ImageTokens) -> TowerSize:
    """Every patch of the picture."""
    vision, rows = config.vision_config, image.tokens * config.vision_config.spatial_merge_size**2
    if config.model_type == "qwen2_vl":
        return TowerSize(rows, vision.embed_dim, vision.embed_dim * vision.mlp_ratio, rotated=True)
    return TowerSize(rows, vision.hidden_size, vision.intermediate_size, rotated=True)


def encode(parts: ModelParts, config: Any, image: ImageTokens, empty: Callable[..., torch.Tensor]) -> nn.Module:
    """The picture as one grid of patches."""
    from transformers.vision_utils import get_vision_position_ids

    tower, vision = parts.vision, config.vision_config
    side, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    grid = torch.tensor([[1, image.size[0] // side, image.size[1] // side]])
    places = get_vision_position_ids(grid, merge).to("meta")  # the grid itself is read, so it has to be real
    patches = empty(int(grid.prod()), vision.in_channels * frames * side**2)
    tower(patches, grid_thw=grid, position_ids=places)
    return tower.merger


def pixel_inputs(config: Any, image: ImageTokens, count: int, noise: Callable[..., torch.Tensor]) -> dict[str, Any]:
    """All patches of all pictures in one sequence, and each picture's grid."""
    vision = config.vision_config
    grid = torch.tensor([[1, *(pixels // vision.patch_size for pixels in image.size)]] * count)
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {"pixel_values": noise(int(grid.prod(1).sum()), patch), "image_grid_thw": grid}


def tower_flops(config: Any, image: ImageTokens) -> dict[str, int]:
    """FLOPs of tower and projector, two per multiply-add and no biases, equal to what torch counts, which takes half a
    minute for the windows of Qwen2.5-VL.

    Linear maps see every patch (the MLP is gated: three matrices; in Qwen2-VL two); attention stays in its window, or
    sees all; patches become the tower's input by one linear map, and the merger is two on each merged square.
    """
    vision, size, merge = config.vision_config, tower_size(config, image), config.vision_config.spatial_merge_size
    n, d, side, windowed = size.rows, size.width, vision.patch_size, config.model_type == "qwen2_5_vl"
    full = len(vision.fullatt_block_indexes) if windowed else vision.depth
    linear = vision.depth * n * (4 * d**2 + (3 if windowed else 2) * d * size.ffn)
    window = vision.window_size // side if windowed else n
    in_windows = math.prod(_squares(pixels // side, window) for pixels in image.size)
    attention = 2 * d * (full * n**2 + (vision.depth - full) * in_windows)
    embedding = n * vision.in_channels * vision.temporal_patch_size * side**2 * d
    merged, out = d * merge**2, vision.out_hidden_size if windowed else vision.hidden_size
    projector = 2 * (n // merge**2) * merged * (merged + out)
    return {"vision_tower": 2 * (linear + attention + embedding), "projector": projector}


def _squares(length: int, window: int) -> int:
    """The sum of squared lengths of the windows along one side, the last one cut."""
    return (length // window) * window**2 + (length % window) ** 2
