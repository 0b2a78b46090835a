"""Decoders that are not quite Llama's: each method is right there, or refused."""

import copy

import pytest
import torch
import transformers
from helpers.generation import CLOSE
from helpers.prompts import BATCHES, IMAGE

from thinsight import load_method, reduce, select_layer
from thinsight.errors import UserError

ONE = BATCHES["one"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
LOOKING = {"fastv", "sparsevlm", "dart", "ficoco_l"}
METHODS = ["vtw", "divprune", "fastervlm", *sorted(LOOKING)]
NARROW = {"head_dim": 8}
SCALED = {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "attention_multiplier": 0.35}
DECODERS = {
    "Llama": ({}, set()),
    "Gemma": (NARROW, set()),
    "Qwen2": ({}, set()),
    "Starcoder2": ({}, set()),
    "Olmo": ({}, set()),
    "Granite": ({**SCALED, "logits_scaling": 8.0}, {"ficoco_l"}),  # scales what it adds
    "SmolLM3": ({}, {"ficoco_l"}),  # every fourth layer does not rotate
    "Cohere": ({}, LOOKING),  # rotates neighbours
    "Helium": (NARROW, LOOKING),
    "Glm": (NARROW, LOOKING),  # rotates a half of each head
    "StableLm": ({}, LOOKING),
    "Nemotron": ({}, LOOKING),
    "Phi3": ({}, LOOKING),  # one projection for queries, keys and values
    "Qwen3": (NARROW, LOOKING),  # norms between projection and rotation
    "Phi": ({}, set(METHODS)),  # another name for its last norm
}


def text(name: str) -> transformers.PreTrainedConfig:
    return getattr(transformers, f"{name}Config")(**{**SIZES, **DECODERS[name][0]})


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request, llava):
    """Its name, and a LLaVA around it under sdpa and under eager attention."""
    models = []
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = transformers.LlavaConfig(
            vision_config=copy.deepcopy(llava.config.vision_config),  # the model made of it sets its attention
            text_config=text(request.param),
            image_token_id=IMAGE,
            image_seq_length=16,
            attn_implementation=attention,
        )
        models.append(transformers.LlavaForConditionalGeneration(config).eval())
    return request.param, *models


@pytest.mark.parametrize("name", METHODS)
def test_keeping_all_is_the_plain_model(decoder, name):
    kind, model, _ = decoder
    method = load_method(name, **({"layer": 6} if name == "vtw" else {"keep": 1.0}))
    if name in DECODERS[kind][1]:
        with pytest.raises(UserError, match=r"choose a method|no Llama-like decoder"), reduce(model, method):
            model(**ONE)
        return
    with torch.no_grad(), reduce(model, method):
        reduced = model(**ONE).logits
    torch.testing.assert_close(reduced, model(**ONE).logits, **CLOSE)


def test_fastv_sees_the_attention_of_the_model(decoder):
    kind, model, eager = decoder
    if "fastv" in DECODERS[kind][1]:
        pytest.skip("refused")
    visual = (ONE["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    with torch.no_grad(), reduce(model, load_method("fastv", keep=8, layer=2)) as trace:
        model(**ONE)
    with torch.no_grad():
        attention = eager(**ONE, output_attentions=True).attentions[1][0].mean(0)[-1, visual]
    assert trace.kept[-1] == sorted(attention.topk(8).indices.tolist())


@pytest.mark.parametrize("name", ["Granite", "Cohere", "Llama"])
def test_the_criterion_of_a_model_that_scales_its_logits_is_refused(name):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(text(name)).eval()
    marked = {"input_ids": ONE["input_ids"], "visual": ONE["input_ids"] == IMAGE}
    if name == "Llama":
        assert select_layer(model, [marked], threshold=1e9).layer == 1
    else:
        with pytest.raises(UserError, match="LM head alone"):
            select_layer(model, [marked], threshold=1e9)
