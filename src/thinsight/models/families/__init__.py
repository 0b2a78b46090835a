"""Model families: one file each, found by the ``model_type`` of a transformers config. A new family is a new file.

A family's file has

    MODEL_TYPES                        values of ``model_type`` that belong to it
    DECODER, VISION                    what the module with both calls its decoder and its vision tower
    largest_image(config, settings)    -> `ImageTokens` of the largest picture
    tower_size(config, image)          -> `TowerSize`
    encode(parts, config, image, empty)  takes a picture through tower and projector; returns the projector
    pixel_inputs(config, image, count, noise)  what the model is given of ``count`` such pictures, by name

and, where it applies,

    find_tower(model, parts)    -> `VisionTower`, or a `UserError`; a family without it refuses reductions in there
    tower_flops(config, image)  -> FLOPs of tower and projector by formula, where counting them takes long
    COUNTS_CACHE                see `ModelParts.counts_cache`
    PROCESSOR_SETTINGS          setting -> function that puts it in place, where it is not just set

with ``config`` the model's, ``settings`` those of its processor, and
``empty`` and ``noise`` functions shape -> tensor, without data and with random numbers.
A type that no file names is taken to be like LLaVA if its config has a vision part, else to be a bare decoder.
"""

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from thinsight.errors import UserError
from thinsight.models.architecture import ModelParts, VisionTower, decoder_parts, no_rows


def family_of(config: Any) -> ModuleType | None:
    """The file of the family that a transformers ``config`` belongs to; None for a bare decoder."""
    kind = getattr(config, "model_type", None)
    files = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    family = next((file for file in files if kind in file.MODEL_TYPES), None)
    return family or (import_module(f"{__name__}.llava") if hasattr(config, "vision_config") else None)


def find_parts(model: nn.Module) -> ModelParts:
    """Take the model apart; a model that is not built like Llama or LLaVA is a `UserError`."""
    config = getattr(model, "config", None)
    family, assembler = family_of(config), model
    if family is None:
        return decoder_parts(model, model)
    while not isinstance(getattr(assembler, family.DECODER, None), nn.Module):  # models come with and without LM head
        if not isinstance(getattr(assembler, "model", None), nn.Module):
            return decoder_parts(model, model)
        assembler = assembler.model
    return decoder_parts(
        model,
        getattr(assembler, family.DECODER),
        assembler=assembler,
        vision=getattr(assembler, family.VISION, None),
        image_token=getattr(config, "image_token_id", getattr(config, "image_token_index", None)),
        tiled=hasattr(config, "image_grid_pinpoints"),
        counts_cache=getattr(family, "COUNTS_CACHE", False),
    )


def find_tower(model: nn.Module) -> VisionTower:
    """The tower of ``model``; one that packs, merges or shuffles patches before its projector is a `UserError`."""
    parts, family = find_parts(model), family_of(model.config)
    if parts.vision is None:
        raise UserError(f"{type(model).__name__} has no vision tower: choose a method that acts in the decoder")
    if not hasattr(family, "find_tower"):
        raise no_rows(model)
    return family.find_tower(model, parts)
