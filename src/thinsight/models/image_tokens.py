"""How many tiles and tokens a picture of a given size becomes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thinsight.models.architecture import find_parts

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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


def largest_image(config: "PreTrainedConfig", settings: Mapping[str, Any] | None = None) -> ImageTokens:
    """The largest picture of a model with this transformers config, whose processor has these ``settings``.

    Where the size is the processor's choice (Qwen-VL, InternVL, SmolVLM), a setting that is not given is its default in
    transformers.
    """
    vision, settings = config.vision_config, settings or {}
    if hasattr(vision, "spatial_merge_size"):
        return _packed(vision, settings)
    side, patch = _first(vision.image_size), _first(vision.patch_size)
    each = (side // patch) ** 2 // _shuffled(config)
    if getattr(config, "image_grid_pinpoints", None):
        size = max(map(tuple, config.image_grid_pinpoints), key=math.prod)
        cut = math.prod(size) // side**2
        limit = re.search(r"\d+", getattr(config, "vision_aspect_ratio", ""))  # OneVision shrinks what lies above it
        return ImageTokens(size, cut + 1, each * (1 + min(cut, int(limit[0]) if limit else cut)))
    if hasattr(config, "scale_factor"):
        rows = columns = math.ceil(settings.get("size", {}).get("longest_edge", 4 * side) / side)
    elif hasattr(config, "downsample_ratio"):
        rows, columns = _squarest(settings.get("max_patches", 12))
    else:
        rows = columns = 1
    tiles = rows * columns + (rows * columns > 1)
    return ImageTokens((rows * side, columns * side), tiles, tiles * each)


def encode_size(model: nn.Module, picture: ImageTokens) -> nn.Module:
    """Take a ``picture`` through tower and projector on the meta device; the projector is returned."""
    parts, config = find_parts(model), model.config.vision_config
    empty = partial(torch.empty, dtype=model.dtype, device="meta")
    if hasattr(parts.vision, "merger"):  # Qwen: the tower ends in its projector, and takes patches of any grid
        from transformers.vision_utils import get_vision_position_ids

        side, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
        grid = torch.tensor([[1, picture.size[0] // side, picture.size[1] // side]])
        places = get_vision_position_ids(grid, merge).to("meta")  # the grid itself is read, so it has to be real
        patches = empty(int(grid.prod()), config.in_channels * frames * side**2)
        parts.vision(patches, grid_thw=grid, position_ids=places)
        return parts.vision.merger
    side = parts.vision.config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    if hasattr(parts.assembler, "connector"):  # SmolVLM: where patches are and whether they are padding is data
        pixels = parts.vision.embeddings.patch_embedding(empty(picture.tiles, config.num_channels, height, width))
        states = parts.vision.encoder(inputs_embeds=pixels.flatten(2).transpose(1, 2)).last_hidden_state
        parts.assembler.connector(states.contiguous())
        return parts.assembler.connector
    pixels, more = empty(picture.tiles, config.num_channels, height, width), {}
    if hasattr(model.config, "image_grid_pinpoints"):
        pixels, more = pixels[None], {"image_sizes": torch.tensor([picture.size])}
    parts.assembler.get_image_features(pixel_values=pixels, **more)
    return parts.assembler.multi_modal_projector


def _packed(vision: "PreTrainedConfig", settings: Mapping[str, Any]) -> ImageTokens:
    """Qwen: any size up to a number of pixels, and one token for every ``spatial_merge_size`` squared patches."""
    cell = vision.patch_size * vision.spatial_merge_size
    rows, columns = _squarest(settings.get("size", {}).get("longest_edge", 1280 * 28 * 28) // cell**2)
    return ImageTokens((rows * cell, columns * cell), 1, rows * columns)


def _shuffled(config: "PreTrainedConfig") -> int:
    """How many patches the model puts together into one visual token."""
    if hasattr(config, "scale_factor"):
        return config.scale_factor**2
    return round(1 / getattr(config, "downsample_ratio", 1)) ** 2


def _squarest(count: int) -> tuple[int, int]:
    """(rows, columns) with rows * columns = ``count``, as near to a square as they can be."""
    rows = next(r for r in range(math.isqrt(count), 0, -1) if count % r == 0)
    return rows, count // rows


def _first(size: int | list[int] | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


def image_of(model: nn.Module, settings: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """(tiles, visual tokens) of the largest picture: 576 per tile for CLIP-L/336; any-resolution models add tiles.

    ``settings``: of the processor, where it has a say in the size (see `thinsight.models.image_tokens`).
    """
    found = largest_image(model.config, settings)
    return found.tiles, found.tokens
