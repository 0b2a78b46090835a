"""How many tiles and tokens a picture becomes in a model (`thinsight.models.families` knows how).

Where the size is the processor's choice (Qwen-VL, InternVL, SmolVLM), a setting that is not given is its default in
transformers.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from thinsight.models.architecture import ImageTokens
from thinsight.models.families import family_of, find_parts
from thinsight.models.loading import model_config, transformers_config


def largest_image(config: Any, settings: Mapping[str, Any] | None = None) -> ImageTokens:
    """The largest picture of a model with this transformers config, whose processor has these ``settings``."""
    return family_of(config).largest_image(config, settings or {})


@cache
def tokens_of(name: str) -> int:
    """Visual tokens of the largest picture of ``conf/model/NAME.yaml``: 576 for ``llava_1_5_7b``."""
    config = model_config(name)
    return largest_image(transformers_config(config), config.processor).tokens


def encode_size(model: nn.Module, image: ImageTokens) -> nn.Module:
    """Take an ``image`` through tower and projector on the meta device; the projector is returned."""
    empty = partial(torch.empty, dtype=model.dtype, device="meta")
    return family_of(model.config).encode(find_parts(model), model.config, image, empty)
