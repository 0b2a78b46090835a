"""Pocket's shapes: transformers' own LLaVA with a CLIP tower of 144 patches and a 12-layer Llama, and its CLIP twin."""

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from thinsight.pocket.scenes import PATCH, SIDE
from thinsight.pocket.vocabulary import CHAT_TEMPLATE, tokenizer

GRID = SIDE // PATCH
SHARED = 64  # width of the CLIP space


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=SHARED,
    )


def llava_config() -> LlavaConfig:
    words = tokenizer()
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=12,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )


def clip_config() -> CLIPConfig:
    words = tokenizer()
    text = {
        "vocab_size": len(words),
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 32,
        "projection_dim": SHARED,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    return CLIPConfig(text_config=text, vision_config=vision_config().to_dict(), projection_dim=SHARED)


def new_models(seed: int = 0) -> tuple[LlavaForConditionalGeneration, CLIPModel]:
    """A LLaVA and a CLIP that share one vision tower (the same module object), with random weights."""
    torch.manual_seed(seed)
    llava, clip = LlavaForConditionalGeneration(llava_config()), CLIPModel(clip_config())
    share_tower(llava, clip)
    return llava, clip


def share_tower(llava: LlavaForConditionalGeneration, clip: CLIPModel) -> None:
    tower = llava.model.vision_tower
    clip.vision_model = getattr(tower, "vision_model", tower)


def processor() -> LlavaProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, resample=3)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
