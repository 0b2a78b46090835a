"""Prompts of noise in the form that each model family takes them: one picture of the largest size, text around it."""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thinsight.errors import UserError
from thinsight.models.architecture import ImageTokens
from thinsight.models.families import family_of, find_parts

SPECIAL = 100
"""Ids below it are left out of the text: most vocabularies begin with signs that mean something to the model."""


def random_inputs(
    model: PreTrainedModel, image: ImageTokens, count: int, text: int, seed: int = 0
) -> dict[str, Tensor]:
    """Inputs of ``model`` for ``count`` prompts with one ``image`` each, half of ``text`` random tokens before it.

    How many visual tokens a picture becomes is asked of the model, which encodes one: LLaVA-NeXT adds newline tokens.
    """
    if text < 2:
        raise UserError(f"text_tokens must be at least 2 (one before the picture, one after), not {text}.")
    generator = torch.Generator().manual_seed(seed)
    config, token, device = model.config, find_parts(model).image_token, model.device

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, model.dtype)

    pixels = partial(family_of(config).pixel_inputs, config, image)
    with torch.inference_mode():
        encoded = model.get_image_features(**_on(device, pixels(1, noise))).pooler_output
    visual = sum(rows.shape[:-1].numel() for rows in encoded)
    vocabulary = config.get_text_config().vocab_size
    words = torch.randint(min(SPECIAL, vocabulary // 2), vocabulary - 1, (count, text), generator=generator)
    words = torch.where(words == token, words - 1, words)
    before = text // 2
    ids = torch.cat([words[:, :before], torch.full((count, visual), token), words[:, before:]], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels(count, noise)}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # Qwen-VL makes positions of it
        inputs["mm_token_type_ids"] = (ids == token).int()
    return _on(device, inputs)


def visual_count(model: PreTrainedModel, inputs: dict[str, Tensor]) -> int:
    """Visual tokens of the first prompt."""
    return int((inputs["input_ids"][0] == find_parts(model).image_token).sum())


def _on(device: torch.device, inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: value.to(device) for key, value in inputs.items()}
