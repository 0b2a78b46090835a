"""Checkpoints of the hub in small: the files, names, keys and tokenizers of their repositories, with random weights.

LLaVA-1.5's files are written as llava-hf/llava-1.5-7b-hf has them: configs that leave defaults out, a Llama tokenizer
with byte fallback, fp16 in three shards whose index has the names of the first port, the chat template twice. Others
are laid out likewise, as far as it is known how they are. Only sizes differ, and the number of layers of most.

A model says one word of `WORDS`, which hangs on the picture and the question, and ends.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from helpers import hub_cache

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
"""Two commits of each repository; the second is the newest."""

WORDS = ["yes", "no", "Yes", "No", "A", "B", "C", "D", "red", "green", "blue", "orange", "purple", "2", "ball"]

SPOKEN = [*WORDS, "is", "there", "a", "in", "the", "image", "what", "colour", "thing", "USER:", "ASSISTANT:", "Answer"]

STEPS = [
    *("is", "er", "in", "on", "en", "at", "or", "re", "it", "st", "an", "ou", "im", "ag"),
    *("ge", "ma", "co", "ol", "lo", "th", "hi", "wh", "qu", "es", "ue", "us"),
]
"""Pairs of letters that the small vocabularies join."""

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 4}
"""Of a decoder; some have fewer key and value heads."""
FOUND = {"bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Tokens:
    """A tokenizer: ``pieces`` in the order of their ids, ``merges``, the ``special`` ones by what they are for."""

    pieces: list[str]
    merges: list[tuple[str, str]]
    added: list[str]
    rest: Mapping[str, Any]
    kind: str
    parts: Mapping[str, Any]

    def id_of(self, piece: str) -> int:
        return [*self.pieces, *self.added].index(piece)

    @property
    def size(self) -> int:
        """Rows of an embedding: the tokens, filled up to a multiple of 64 as on the hub."""
        return -(-(len(self.pieces) + len(self.added)) // 64) * 64

    def save(self, folder: Path) -> None:
        """tokenizer.json, tokenizer_config.json, special_tokens_map.json."""
        first = 3 if self.kind == "LlamaTokenizer" else 0  # <unk>, <s> and </s> stand in front of the vocabulary
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        named = [*enumerate(self.pieces[:first]), *enumerate(self.added, len(self.pieces))]
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added = [{"id": i, "content": piece, **plain} for i, piece in named]
        model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
        model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
        own = self.parts["model"]
        model |= {**own, "vocab": ids, "merges": [" ".join(pair) for pair in self.merges]}
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
        whole |= {**self.parts, "model": model}
        write(folder / "tokenizer.json", whole)
        decoder = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in added}
        write(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder, **self.rest})
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        write(folder / "special_tokens_map.json", {name: self.rest[name] for name in names if self.rest.get(name)})
        write(folder / "added_tokens.json", {piece: i for i, piece in named[first:]})


def llama_tokens(*added: str, **rest: Any) -> Tokens:
    """A SentencePiece vocabulary with byte fallback as it is exported: a space is put in front of each piece of text
    between special tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *map(chr, range(33, 127))]
    merges = [(pair[0], pair[1]) for pair in STEPS]
    pieces += ["".join(pair) for pair in merges]
    spelled(["\u2581" + word for word in SPOKEN], pieces, merges)
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    begin, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    later = [{"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    first = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, space]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, *later],
            "special_tokens": first,
        },
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
    }
    named = {"add_bos_token": True, "add_eos_token": False, "add_prefix_space": None, "bos_token": "<s>"}
    named |= {"clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": False, "unk_token": "<unk>"}
    named |= {"model_max_length": 1000000000000000019884624838656, "tokenizer_class": "LlamaTokenizer"}
    named |= {"pad_token": "<pad>", "padding_side": "left", **rest}
    return Tokens(pieces, merges, list(added), named, "LlamaTokenizer", parts)


def byte_tokens(kind: str, *added: str, **rest: Any) -> Tokens:
    """A byte-level vocabulary, as GPT-2's and Qwen's."""
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = sorted(ByteLevel.alphabet())
    merges = [(pair[0], pair[1]) for pair in STEPS]
    pieces += ["".join(pair) for pair in merges]
    spelled([*("\u0120" + word for word in SPOKEN), *WORDS], pieces, merges)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    parts = {"normalizer": {"type": "NFC"}, "pre_tokenizer": level, "post_processor": None, "decoder": level}
    parts["model"] = {"end_of_word_suffix": "", "continuing_subword_prefix": ""}
    named = {"add_prefix_space": False, "bos_token": None, "clean_up_tokenization_spaces": False, "unk_token": None}
    named |= {"model_max_length": 131072, "tokenizer_class": kind, **rest}
    return Tokens(pieces, merges, list(added), named, kind, parts)


def spelled(words: Sequence[str], pieces: list[str], merges: list[tuple[str, str]]) -> None:
    """Add the joins that make one token of each word, and what they make."""
    for word in words:
        parts = list(word)
        for pair in list(merges):  # as the tokenizer joins them, earlier ones first
            at = 0
            while at + 1 < len(parts):
                if (parts[at], parts[at + 1]) == pair:
                    parts[at : at + 2] = ["".join(pair)]
                at += 1
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            if parts[0] not in pieces:
                pieces.append(parts[0])


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Repository:
    """What a repository of the hub holds.

    tokens    its tokenizer
    config    config.json
    files     other JSON files by name
    template  the chat template, as ``chat_template.json`` and, if ``twice``, as ``chat_template.jinja`` too
    shards    files of weights, of numbers of ``dtype``; ``old``: name in today's model -> name in the files
    """

    tokens: Tokens
    config: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    template: str
    shards: int
    dtype: torch.dtype
    old: Callable[[str], str]
    twice: bool = True
    end: str = "</s>"

    def save(self, folder: Path, seed: int = 0) -> Path:
        """Write all files; ``seed``: of the weights."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        folder.mkdir(parents=True, exist_ok=True)
        self.tokens.save(folder)
        write(folder / "config.json", self.config)
        for name, content in self.files.items():
            write(folder / name, content)
        write(folder / "chat_template.json", {"chat_template": self.template})
        if self.twice:
            (folder / "chat_template.jinja").write_text(self.template, encoding="utf-8")
        shape = AutoConfig.from_pretrained(folder)
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(shape, dtype=torch.float32)
        say_one_word(model, self.tokens, self.last(folder), self.end)
        weights = {self.old(name): tensor.to(self.dtype) for name, tensor in model.state_dict().items()}
        save_shards(folder, weights, self.shards)
        return folder

    def last(self, folder: Path) -> int:
        """The id of a prompt's last token."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        talk = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
        ids = tokenizer.apply_chat_template(
            talk, chat_template=self.template, add_generation_prompt=True, return_dict=True, tokenize=True
        )["input_ids"]
        return ids[-1]


def say_one_word(model: Any, tokens: Tokens, last: int, end: str) -> None:
    """Make the random decoder answer with one of `WORDS` and the token ``end``.

    The first number of a state tells whether its own token is ``last``, the last one of every prompt: no layer adds to
    it, and the head reads it for ``end`` alone.
    """
    from thinsight.models.families import find_parts

    parts = find_parts(model)
    embedding, head = parts.decoder.embed_tokens.weight.data, parts.head.weight.data
    for layer in parts.layers:  # strong enough that the answer hangs on all that was read
        for name, weight in layer.named_parameters():
            if name.endswith("proj.weight"):
                weight.data.normal_(0, 0.5)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.data[0] = 0
    embedding.normal_(0, 0.5)
    embedding[last] *= 0.1
    embedding[:, 0] = 1
    embedding[last, 0] = 0
    said = [i for i, piece in enumerate(tokens.pieces) if piece.lstrip("\u2581\u0120") in WORDS]
    words = torch.randn(len(said), head.shape[1])
    head.zero_()
    head[said] = words
    head[said, 0] = 0
    head[tokens.id_of(end), 0] = 1000


def save_shards(folder: Path, weights: Mapping[str, torch.Tensor], count: int) -> None:
    """The weights in ``count`` files with an index, or in one without."""
    weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    if count == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    each = -(-len(names) // count)
    where = {name: f"model-{i // each + 1:05d}-of-{count:05d}.safetensors" for i, name in enumerate(names)}
    for file in dict.fromkeys(where.values()):
        held = {name: weights[name] for name in names if where[name] == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.itemsize for tensor in weights.values())
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def first_port(name: str) -> str:
    """LLaVA's and InternVL's keys as the first port has them: a whole causal decoder beside the tower."""
    name = name.removeprefix("model.")
    name = name.replace("language_model.", "language_model.model.", 1).replace("lm_head.", "language_model.lm_head.", 1)
    return name


def first_port_clip(name: str) -> str:
    """The same, with CLIP's tower one module deeper."""
    return first_port(name).replace("vision_tower.", "vision_tower.vision_model.", 1)


def llava(layers: int = 12, blocks: int = 12, side: int = 112) -> Repository:
    """llava-hf/llava-1.5-7b-hf: ``side`` pixels for 336, andfewer layers."""
    tokens = llama_tokens(
        "<image>", "<pad>", processor_class="LlavaProcessor", image_token="<image>", use_default_system_prompt=False,
        extra_special_tokens={"image_token": "<image>"}, sp_model_kwargs={}, trust_remote_code=False,
    )  # fmt: skip
    pad = tokens.id_of("<pad>")
    text = {**TEXT, "num_hidden_layers": layers, "vocab_size": tokens.size, "max_position_embeddings": 4096}
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": tokens.id_of("<image>"),
        "model_type": "llava",
        "pad_token_id": pad,
        "projector_hidden_act": "gelu",
        "text_config": {"model_type": "llama", "rms_norm_eps": 1e-05, "torch_dtype": "float16", **text},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.36.0.dev0",
        "vision_config": clip_vision(blocks, side),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": tokens.size,
    }
    files = {
        "generation_config.json": {"_from_model_config": True, **FOUND, "pad_token_id": pad},
        "preprocessor_config.json": clip_pictures(side, "CLIPImageProcessor", "LlavaProcessor"),
    }
    return Repository(tokens, config, files, VICUNA, 3, torch.float16, first_port_clip)


def clip_vision(blocks: int, side: int) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "image_size": side,
        "intermediate_size": 32,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": blocks,
        "patch_size": 14,
        "projection_dim": 16,
        "vocab_size": 32000,
    }


def clip_pictures(side: int, images: str, processor: str, **more: Any) -> dict[str, Any]:
    """preprocessor_config.json, which pads nothing."""
    return {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_processor_type": images,
        "image_std": CLIP_STD,
        "processor_class": processor,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": side},
        **more,
    }


def llava_next(decoder: str, template: str) -> Repository:
    """llava-hf/llava-v1.6-*-hf: tiles of 56 pixels for 336."""
    tokens = llama_tokens("<image>", "<pad>", processor_class="LlavaNextProcessor")
    side, tiles = 56, [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    own = {"num_key_value_heads": 2, "rope_theta": 1000000.0, "sliding_window": None} if decoder == "mistral" else {}
    text = {**TEXT, **own, "vocab_size": tokens.size, "max_position_embeddings": 32768 if own else 4096}
    config = {
        "architectures": ["LlavaNextForConditionalGeneration"],
        "ignore_index": -100,
        "image_grid_pinpoints": tiles,
        "image_token_index": tokens.id_of("<image>"),
        "model_type": "llava_next",
        "projector_hidden_act": "gelu",
        "text_config": {"model_type": decoder, "rms_norm_eps": 1e-05, "torch_dtype": "float16", **text},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.39.0.dev0",
        "use_image_newline_parameter": True,
        "vision_config": clip_vision(6, side),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    pictures = {"aspect_ratio_setting": "anyres", "do_pad": True, "image_grid_pinpoints": tiles}
    files = {
        "generation_config.json": {"_from_model_config": True, **FOUND},
        "preprocessor_config.json": clip_pictures(side, "LlavaNextImageProcessor", "LlavaNextProcessor", **pictures),
        "processor_config.json": {
            "image_token": "<image>",
            "patch_size": 14,
            "processor_class": "LlavaNextProcessor",
            "vision_feature_select_strategy": "default",
        },
    }
    return Repository(tokens, config, files, template, 4, torch.float16, first_port_clip)


MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ ' [/INST]' }}{% else %}{{ ' ' + message['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def qwen_2_5() -> Repository:
    """Qwen/Qwen2.5-VL-7B-Instruct: the decoder's fields stand at the top of config.json."""
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"]
    tokens = byte_tokens(
        "Qwen2Tokenizer", *added, "<|image_pad|>", "<|video_pad|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        errors="replace", split_special_tokens=False,
    )  # fmt: skip
    ids = {name: tokens.id_of(f"<|{name}|>") for name in ("endoftext", "im_end", "vision_start", "vision_end")}
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "vision_token_id": tokens.id_of("<|vision_pad|>"),
        "image_token_id": tokens.id_of("<|image_pad|>"),
        "video_token_id": tokens.id_of("<|video_pad|>"),
        "hidden_act": "silu",
        **TEXT,
        "hidden_size": 32,
        "num_key_value_heads": 2,
        "initializer_range": 0.02,
        "max_position_embeddings": 128000,
        "max_window_layers": 28,
        "model_type": "qwen2_5_vl",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_act": "silu",
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "in_chans": 3,
            "out_hidden_size": 32,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        "vocab_size": tokens.size,
    }
    pictures = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    sampling = {"do_sample": True, "temperature": 1e-06, "repetition_penalty": 1.05}
    files = {
        "generation_config.json": {
            "bos_token_id": ids["endoftext"],
            "pad_token_id": ids["endoftext"],
            "eos_token_id": [ids["im_end"], ids["endoftext"]],
            **sampling,
        },
        "preprocessor_config.json": pictures,
    }
    return Repository(
        tokens, config, files, chatml("<|vision_start|><|image_pad|><|vision_end|>"), 5, torch.bfloat16, qwen_port,
        twice=False, end="<|im_end|>",
    )  # fmt: skip


def qwen_port(name: str) -> str:
    return name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)


def chatml(picture: str) -> str:
    """Turns between tags, after the first of which a system text stands."""
    return (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
        "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
        "{% for content in message['content'] %}{% if content['type'] == 'image' %}" + picture + "{% else %}"
        "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def internvl3() -> Repository:
    """OpenGVLab/InternVL3-8B-hf: tiles of 56 pixels for 448."""
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    named |= {"video_token": "<video>"}
    tokens = byte_tokens(
        "Qwen2Tokenizer", *added, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named, **named
    )
    text = {**TEXT, "num_key_value_heads": 2, "vocab_size": tokens.size, "max_position_embeddings": 32768}
    text |= {"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": None}
    text |= {"rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"}}
    text |= {"bos_token_id": tokens.id_of("<|endoftext|>"), "eos_token_id": tokens.id_of("<|im_end|>")}
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "image_token_id": tokens.id_of("<IMG_CONTEXT>"),
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "torch_dtype": "bfloat16",
            **text,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.0.dev0",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "attention_bias": True,
            "hidden_size": 16,
            "image_size": [56, 56],
            "intermediate_size": 24,
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": [14, 14],
            "use_qk_norm": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
    pictures = {
        "crop_to_patches": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "image_std": CLIP_STD,
        "max_patches": 12,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 56, "width": 56},
    }
    ends = {"eos_token_id": tokens.id_of("<|im_end|>"), "pad_token_id": tokens.id_of("<|endoftext|>")}
    files = {
        "generation_config.json": {"_from_model_config": True, **ends},
        "preprocessor_config.json": pictures,
        "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
    }
    return Repository(tokens, config, files, chatml("<IMG_CONTEXT>\n"), 4, torch.bfloat16, first_port, end="<|im_end|>")


def smolvlm_256m() -> Repository:
    """HuggingFaceTB/SmolVLM-256M-Instruct: tiles of 512 pixels, patches of 16, 4 x 4 of which are one token."""
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>", "<global-img>"]
    added += ["<end_of_utterance>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
    tokens = byte_tokens(
        "GPT2Tokenizer", *added, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", processor_class="Idefics3Processor", truncation_side="left",
    )  # fmt: skip
    text = {**TEXT, "num_key_value_heads": 2, "vocab_size": tokens.size, "max_position_embeddings": 8192}
    ids = {"bos_token_id": tokens.id_of("<|im_start|>"), "eos_token_id": tokens.id_of("<end_of_utterance>")}
    ids["pad_token_id"] = tokens.id_of("<|im_end|>")
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "image_token_id": tokens.id_of("<image>"),
        "model_type": "idefics3",
        "scale_factor": 4,
        "text_config": {"model_type": "llama", "rms_norm_eps": 1e-05, "rope_theta": 100000, **text, **ids},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.0",
        "use_cache": True,
        "vision_config": {
            "hidden_size": 16,
            "image_size": 512,
            "intermediate_size": 24,
            "model_type": "idefics3",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 16,
        },
        "vocab_size": tokens.size,
    }
    pictures = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        **HALF,
        "image_processor_type": "Idefics3ImageProcessor",
        "max_image_size": {"longest_edge": 512},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 2048},
    }
    files = {
        "generation_config.json": {"_from_model_config": True, **ids},
        "preprocessor_config.json": pictures,
        "processor_config.json": {"image_seq_len": 64, "processor_class": "Idefics3Processor"},
    }
    template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
        "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    return Repository(
        tokens, config, files, template, 1, torch.bfloat16, lambda name: name, twice=False, end="<end_of_utterance>"
    )


REPOSITORIES: dict[str, Callable[[], Repository]] = {
    "llava_1_5_7b": llava,
    "llava_next_mistral_7b": lambda: llava_next("mistral", MISTRAL),
    "llava_next_vicuna_7b": lambda: llava_next("llama", VICUNA),
    "qwen2_5_vl_7b": qwen_2_5,
    "internvl3": internvl3,
    "smolvlm_256m": smolvlm_256m,
}
"""Name in conf/model -> its repository."""


def put_model(name: str, folder: Path, **sizes: int) -> None:
    """Two commits of the repository of ``conf/model/NAME.yaml`` in the hub's cache; ``folder``: an empty one."""
    from thinsight.models.loading import model_config

    repository = REPOSITORIES[name](**sizes)
    for seed, commit in enumerate((OLD, NEW)):
        hub_cache.put(model_config(name).checkpoint, commit, repository.save(folder / f"{name}-{commit}", seed))


def save_clip(folder: Path, blocks: int = 12, side: int = 112, seed: int = 0) -> Path:
    """openai/clip-vit-large-patch14-336: weights as torch pickles them, buffers of positions among them."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    pieces, merges = clip_pieces()
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges).save_pretrained(folder)
    begin, end = (pieces.index(f"<|{name}|>") for name in ("startoftext", "endoftext"))
    text = {"hidden_size": 12, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    text |= {"max_position_embeddings": 77, "vocab_size": len(pieces), "bos_token_id": begin, "eos_token_id": end}
    text |= {"projection_dim": 16, "pad_token_id": 1, "model_type": "clip_text_model"}
    whole = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 16, "torch_dtype": "float32"}
    whole |= {"logit_scale_init_value": 2.6592, "text_config": text, "vision_config": clip_vision(blocks, side)}
    whole |= {"text_config_dict": text, "vision_config_dict": clip_vision(blocks, side), "transformers_version": None}
    write(folder / "config.json", whole)
    write(folder / "preprocessor_config.json", clip_pictures(side, "CLIPImageProcessor", "CLIPProcessor"))
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig.from_pretrained(folder))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange((side // 14) ** 2 + 1)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def clip_pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """CLIP's vocabulary: bytes, the same at the end of a word, what is joined of them, the begin and the end."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces, merges = [*letters, *(f"{letter}</w>" for letter in letters)], [(pair[0], pair[1]) for pair in STEPS]
    pieces += ["".join(pair) for pair in merges]
    return [*pieces, "<|startoftext|>", "<|endoftext|>"], merges


def put_clip(folder: Path, **sizes: int) -> None:
    """Two commits of the text tower of LLaVA-1.5 in the hub's cache."""
    for seed, commit in enumerate((OLD, NEW)):
        where = save_clip(folder / f"clip-{commit}", seed=seed, **sizes)
        hub_cache.put("openai/clip-vit-large-patch14-336", commit, where)


def put_benchmark(name: str, folder: Path) -> None:
    """Twenty rows of a benchmark in the hub's cache, also as the split to fit settings on; ``folder``: an empty one."""
    from helpers import benchmark_replicas
    from thinsight.config.compose import load_task

    task = load_task(name)
    place = benchmark_replicas.ALL[name](folder / name)
    fit = task.calibration or {}
    for own, other in ((task.subset, fit.get("subset")), (task.pictures, fit.get("pictures"))):
        for file in place.glob(f"{'data' if own == 'default' else own}/{task.split}-*.parquet") if fit else ():
            copy = place / (other or file.parent.name) / file.name.replace(task.split, fit.get("split") or task.split)
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    hub_cache.put(task.hub, task.revision or NEW, place, "dataset")


def main() -> None:
    """Fill the hub's cache (HF_HOME) for ``python -m thinsight.replicate model=llava_1_5_7b`` on stand-ins."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        put_model("llava_1_5_7b", Path(name))
        put_clip(Path(name))
        for task in ("pope", "gqa", "textvqa", "scienceqa", "mmbench", "mme"):
            put_benchmark(task, Path(name))


if __name__ == "__main__":
    main()
