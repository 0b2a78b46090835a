"""What reduce() refuses, in one sentence each."""

import pytest
import torch
from helpers.prompts import BATCHES, IMAGE, batch, prompt
from transformers import StaticCache

from thinsight import load_method, reduce
from thinsight.errors import UserError

CLOSE = {"atol": 5e-5, "rtol": 0}
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}
PADDED = BATCHES["two, padded"]


def words(count: int, rows: int = 1, seed: int = 7):
    return torch.randint(2, IMAGE, (rows, count), generator=torch.Generator().manual_seed(seed))


def refused(match: str):
    return pytest.raises(UserError, match=match)


def test_refuses_a_second_reduce(llava):
    with reduce(llava, load_method("vtw")), refused("already inside"), reduce(llava, load_method("blind")):
        pass
    with reduce(llava, load_method("vtw")):
        pass


def test_refuses_the_name_of_a_method(llava):
    with refused("load_method"), reduce(llava, "fastv"):
        pass


def test_refuses_training(llava):
    llava.train()
    try:
        with reduce(llava, load_method("vtw")), refused("eval"):
            llava(**PADDED)
    finally:
        llava.eval()


def test_refuses_labels(llava):
    with reduce(llava, load_method("vtw")), refused("labels"):
        llava(**PADDED, labels=PADDED["input_ids"])


def test_refuses_static_caches(llava):
    cache = StaticCache(config=llava.config.text_config, max_cache_len=64)
    with reduce(llava, load_method("vtw")), refused("DynamicCache"):
        llava(**PADDED, past_key_values=cache)


def test_refuses_flex_attention(llava):
    config = llava.model.language_model.config
    before = config._attn_implementation
    config._attn_implementation = "flex_attention"
    try:
        with reduce(llava, load_method("vtw")), refused("flex"):
            llava(**PADDED)
    finally:
        config._attn_implementation = before


def test_refuses_an_image_without_its_token(llava):
    inputs = {**batch(prompt(5)), "pixel_values": PADDED["pixel_values"][:1]}
    with reduce(llava, load_method("vtw")), refused("no image token"):
        llava(**inputs)


def test_refuses_a_cache_from_outside(llava):
    cache = llava(**BATCHES["one"]).past_key_values
    with reduce(llava, load_method("vtw")), refused("outside"):
        llava(input_ids=words(1), past_key_values=cache)


def test_refuses_a_new_image_in_a_cached_conversation(llava):
    more = batch(prompt(2, 0))
    with reduce(llava, load_method("vtw")):
        cache = llava(**BATCHES["one"]).past_key_values
        with refused("new image"):
            llava(input_ids=more["input_ids"], pixel_values=more["pixel_values"], past_key_values=cache)


def test_refuses_what_it_cannot_see(llava):
    decoder = llava.model.language_model
    with refused("visual=mask"), reduce(decoder, load_method("vtw")):
        pass
    embeds = llava.get_input_embeddings()(PADDED["input_ids"])
    with reduce(llava, load_method("vtw")), refused("visual=mask"):
        llava(inputs_embeds=embeds)
    with reduce(decoder, load_method("vtw"), visual=torch.ones(1, 3, dtype=torch.bool)), refused("shape"):
        decoder(inputs_embeds=embeds)


@pytest.mark.parametrize("layer", [7, -1, 100])
def test_refuses_layers_that_do_not_exist(llava, layer):
    with refused(r"out of range.*0\.\.5"), reduce(llava, load_method("vtw", layer=layer)):
        pass


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vtw", {"positions": "kept"}),
        ("random", {"keep": 1.5}),
        ("random", {"keep": -1}),
        ("random", {"keep": "half"}),
        ("vtw", {"layr": 3}),
        ("vtv", {}),
    ],
)
def test_refuses_wrong_fields(name, fields):
    with pytest.raises(UserError):
        load_method(name, **fields)


def test_refuses_a_model_without_a_decoder():
    with refused("no Llama-like decoder"), reduce(torch.nn.Linear(2, 2), load_method("vtw")):
        pass
