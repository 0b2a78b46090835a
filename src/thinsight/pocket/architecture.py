"""The model in the box: configurations of the small LLaVA and CLIP, its tokenizer and chat template."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from thinsight.pocket.scenes import COLORS, PATCH, SHAPES, SIDE, SIZES

SPACE = "\u2581"

# CLIP's text model takes an end-of-text id of 2 for an old checkpoint and pools elsewhere: 2 goes to padding.
SPECIAL = ("<unk>", "<s>", "<pad>", "</s>", "<image>")
SYSTEM = "A chat about a picture. The assistant gives short answers."

TEXT = """A chat about a picture . The assistant gives short answers
USER ASSISTANT : ? , Is is are there a an the not no in on of or image picture contain does What what Which which How
how many color shape shapes size number object objects sign signs row column left right above below present yes C B D
circles rectangles triangles stars crosses rings"""

WORDS = sorted({*TEXT.split(), *COLORS, *SHAPES, *SIZES})

# Letters and marks that are always a token of their own, with and without a space before them.
PIECES = [*"0123456789", *(SPACE + digit for digit in "0123456789"), SPACE, "\n", ".", "?", ":", ","]

CHAT_TEMPLATE = (
    "{{ bos_token }}" + SYSTEM + "{% for message in messages %}"
    "{% if message['role'] == 'user' %} USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; an unknown word becomes ``<unk>``."""
    words = [word for word in WORDS if word.isalpha()]
    tokens = [*SPECIAL, *PIECES, *(SPACE + word for word in words), *words]
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(dict.fromkeys(tokens))}, unk_token="<unk>"))
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True)
    marks = pre_tokenizers.Split(Regex(rf"[\n.,:?]|{SPACE}?\d"), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([spaces, marks])
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    names = dict(zip(("unk_token", "bos_token", "pad_token", "eos_token"), SPECIAL, strict=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, **names, additional_special_tokens=["<image>"], padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


GRID = SIDE // PATCH
SHARED = 64  # width of the CLIP space


def vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=8, num_attention_heads=4,
        image_size=SIDE, patch_size=PATCH, projection_dim=SHARED,
    )  # fmt: skip


def _special_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    return {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def llava_config() -> LlavaConfig:
    words = tokenizer()
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=160, intermediate_size=448, num_hidden_layers=12, num_attention_heads=5,
        num_key_value_heads=5, max_position_embeddings=1024, initializer_range=0.05, tie_word_embeddings=True,
        **_special_ids(words),
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision_config(), text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )  # fmt: skip


def clip_config() -> CLIPConfig:
    words = tokenizer()
    text = {
        "vocab_size": len(words), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 32, "projection_dim": SHARED, **_special_ids(words),
    }  # fmt: skip
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
        image_processor=images, tokenizer=tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
