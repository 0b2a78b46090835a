"""What a tiny model family is: how it is saved in the standard format, loaded from there, and asked about pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from thinsight.config.schema import ModelConfig
from thinsight.models.loading import load_model

NAMED = {
    "image_token": "<image>",
    "video_token": "<video>",
    "context_image_token": "<image>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
}
"""What processors ask a tokenizer for."""

TAGS = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
TAGS += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(NAMED.values()), *TAGS]
WORDS = ["what", "is", "there", "a", "red", "blue", "circle", "and", "square", "or", "colour", "here"]
VOCABULARY = SPECIAL + WORDS
IMAGE, VIDEO = SPECIAL.index("<image>"), SPECIAL.index("<video>")


def tokenizer() -> PreTrainedTokenizerFast:
    """Words apart by spaces; every special token is one of its own wherever it stands."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        padding_side="left", extra_special_tokens=NAMED,
    )  # fmt: skip
    made.add_tokens(TAGS, special_tokens=True)
    return made


@dataclass(frozen=True)
class Family:
    """One family: its model class in transformers, and what makes its config and its processor.

    axes   along how many axes its decoder numbers positions
    """

    kind: type
    config: Callable[[], PreTrainedConfig]
    processor: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    axes: int = 1

    def save(self, folder: Path) -> Path:
        """Save random weights and the processor in ``folder``."""
        torch.manual_seed(0)
        model = self.kind(self.config()).eval()
        for name, parameter in model.named_parameters():  # some start as zeros: InternVL's places, SmolVLM's norms
            if "vision" in name or "visual" in name:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
        model.save_pretrained(folder)
        self.processor(tokenizer()).save_pretrained(folder)
        return folder

    def load(self, folder: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
        """What `save` has written, from its files."""
        return load_model(OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(folder), device="cpu")))


def questions(processor: ProcessorMixin, count: int = 2) -> dict[str, Tensor]:
    """Model inputs: the first ``count`` of two questions of different lengths.

    One picture is wide and one is high, so that families that cut pictures into tiles cut them differently.
    """
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)) for size in [(16, 32), (44, 22)][:count]]
    texts = [f"<s> what is {processor.image_token} there", f"<s> {processor.image_token} a red circle or a square here"]
    inputs = processor(images=pictures, text=texts[:count], padding=True, return_tensors="pt", add_special_tokens=False)
    return dict(inputs)
