"""A LLaVA of a few thousand random weights and a few dozen questions, in the standard formats, for tests of running."""

import io
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

WORDS = ["USER:", "ASSISTANT:", "is", "there", "a", "red", "blue", "circle", "square", "what", "colour", "yes", "no"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<s>USER: ' if m['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def save_model(folder: Path, *, layers: int = 4, seed: int = 0) -> Path:
    """A random LLaVA-1.5 (28 px, 4 visual tokens, ``layers`` decoder layers of width 32) saved with its processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"], padding_side="left",
    )  # fmt: skip
    side = {"height": 28, "width": 28}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14, projection_dim=16,
        ),
        text_config=LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=len(words.get_vocab()), pad_token_id=0, bos_token_id=1, eos_token_id=2,
            initializer_range=0.4,
        ),
        image_token_index=4, image_seq_length=4,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_task(path: Path, rows: int = 24) -> Path:
    """``rows`` questions about flat pictures, of two kinds and of different lengths, as a task's parquet file."""
    questions = ["is there a red circle", "what colour", "is there a blue square there"]
    table = pd.DataFrame(
        {
            "id": [f"row-{i:03d}" for i in range(rows)],
            "image": [png((40 * i % 256, 90 * i % 256, 20 * i % 256)) for i in range(rows)],
            "question": [questions[i % 3] for i in range(rows)],
            "answer": [["yes", "red", "no"][i % 3] for i in range(rows)],
            "kind": [["exist", "colour"][i % 2] for i in range(rows)],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)
    return path


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 28)) -> bytes:
    """A flat picture, wider than high, so that cropping and padding differ."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()
