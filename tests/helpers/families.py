"""Every model family in small: 6 decoder layers of width 32, towers of 2 or 3 blocks. All share one vocabulary."""

from collections.abc import Callable

import transformers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

from helpers.model_family import IMAGE, VIDEO, VOCABULARY, Family
from thinsight.models.loading import stills

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(VOCABULARY),
    "initializer_range": 0.2,  # large enough that attention is not flat and tokens matter to each other
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = {**ROPE, "mrope_section": [1, 1, 2]}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "patch_size": 4}
MEAN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SQUARE = {"height": 16, "width": 16}
TILES = [[16, 16], [16, 32], [32, 16]]


def clip(layers: int = 3) -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(**TOWER, num_hidden_layers=layers, image_size=16)


def llava() -> PreTrainedConfig:
    """16 visual tokens."""
    text = transformers.LlamaConfig(**TEXT)
    return transformers.LlavaConfig(
        vision_config=clip(6), text_config=text, image_token_index=IMAGE, image_seq_length=16
    )


def llava_processor(tokens: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SQUARE)
    return transformers.LlavaProcessor(
        images, tokens, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def llava_next(text: PreTrainedConfig) -> PreTrainedConfig:
    """The whole picture and one or two tiles: 16 visual tokens, and the tiles' without padding and with newlines."""
    return transformers.LlavaNextConfig(
        vision_config=clip(), text_config=text, image_token_index=IMAGE, image_grid_pinpoints=TILES
    )


def llava_next_processor(tokens: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size=SQUARE, image_grid_pinpoints=TILES
    )
    return transformers.LlavaNextProcessor(
        images, tokens, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def llava_onevision() -> PreTrainedConfig:
    """SigLIP without a class token; two tiles are more than ``anyres_max_1``, so that they are shrunk again."""
    vision = transformers.SiglipVisionConfig(**TOWER, num_hidden_layers=3, image_size=16, vision_use_head=False)
    return transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config=transformers.Qwen2Config(**TEXT), image_token_index=IMAGE,
        video_token_index=VIDEO, image_grid_pinpoints=TILES, vision_aspect_ratio="anyres_max_1",
    )  # fmt: skip


def llava_onevision_processor(tokens: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = transformers.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=TILES, **MEAN)
    return stills(transformers.LlavaOnevisionProcessor)(
        images, tokens, num_image_tokens=16, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_1"
    )


def qwen2_vl() -> PreTrainedConfig:
    """A tower on flattened patches of any grid; one visual token for every 2 x 2 of them."""
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 4, "patch_size": 4}
    text = {**TEXT, "rope_parameters": MROPE}
    return transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO
    )


def qwen2_5_vl() -> PreTrainedConfig:
    """The same with windows in all blocks but the last."""
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    text = {**TEXT, "rope_parameters": MROPE}
    return transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO
    )


def qwen_processor(kind: type[ProcessorMixin]) -> Callable[[PreTrainedTokenizerFast], ProcessorMixin]:
    def make(tokens: PreTrainedTokenizerFast) -> ProcessorMixin:
        size = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
        return stills(kind)(transformers.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=size), tokens)

    return make


def internvl() -> PreTrainedConfig:
    """Tiles of 4 x 4 patches, shuffled into 4 visual tokens each."""
    vision = transformers.InternVLVisionConfig(
        **{**TOWER, "patch_size": [4, 4]}, num_hidden_layers=3, image_size=[16, 16], attention_bias=True
    )
    return transformers.InternVLConfig(
        vision_config=vision, text_config=transformers.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip


def internvl_processor(tokens: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = transformers.GotOcr2ImageProcessorPil(size=SQUARE, max_patches=3, **MEAN)
    return stills(transformers.InternVLProcessor)(images, tokens, image_seq_length=4)


def smolvlm(kind: type[PreTrainedConfig]) -> Callable[[], PreTrainedConfig]:
    """Tiles of 6 x 6 patches, of which 3 x 3 are shuffled into one visual token, with tags between the tiles."""

    def make() -> PreTrainedConfig:
        vision = {**TOWER, "num_hidden_layers": 3, "image_size": 24}
        text = {"model_type": "llama", **TEXT}
        return kind(
            vision_config=vision, text_config=text, image_token_id=IMAGE, scale_factor=3, tie_word_embeddings=False
        )

    return make


def smolvlm_processor(tokens: PreTrainedTokenizerFast) -> ProcessorMixin:
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 48}, max_image_size={"longest_edge": 24}, **MEAN
    )
    return transformers.Idefics3Processor(images, tokens, image_seq_len=4)


FAMILIES = {
    "llava": Family(transformers.LlavaForConditionalGeneration, llava, llava_processor),
    "llava_next_vicuna": Family(
        transformers.LlavaNextForConditionalGeneration,
        lambda: llava_next(transformers.LlamaConfig(**TEXT)),
        llava_next_processor,
    ),
    "llava_next_mistral": Family(
        transformers.LlavaNextForConditionalGeneration,
        lambda: llava_next(transformers.MistralConfig(**TEXT, sliding_window=None)),
        llava_next_processor,
    ),
    "llava_onevision": Family(
        transformers.LlavaOnevisionForConditionalGeneration, llava_onevision, llava_onevision_processor
    ),
    "qwen2_vl": Family(
        transformers.Qwen2VLForConditionalGeneration,
        qwen2_vl,
        qwen_processor(transformers.Qwen2VLProcessor),
        axes=3,
    ),
    "qwen2_5_vl": Family(
        transformers.Qwen2_5_VLForConditionalGeneration,
        qwen2_5_vl,
        qwen_processor(transformers.Qwen2_5_VLProcessor),
        axes=3,
    ),
    "internvl": Family(transformers.InternVLForConditionalGeneration, internvl, internvl_processor),
    "smolvlm": Family(
        transformers.Idefics3ForConditionalGeneration, smolvlm(transformers.Idefics3Config), smolvlm_processor
    ),
    "smolvlm2": Family(  # pictures are prepared for it as they are for the first SmolVLM, which is an Idefics3
        transformers.SmolVLMForConditionalGeneration, smolvlm(transformers.SmolVLMConfig), smolvlm_processor
    ),
}
