"""What users do off the road that examples show: each is right, or one sentence."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from helpers.generation import CLOSE, GREEDY
from helpers.prompts import BATCHES, IMAGE, batch, prompt
from torch import nn

from thinsight import load_method, reduce
from thinsight.errors import UserError

METHODS = ["fastervlm", "tome", "divprune", "random", "fastv", "vtw", "sparsevlm", "ficoco_l"]
ONE = BATCHES["one"]
SETTINGS = {**GREEDY, "suppress_tokens": [IMAGE]}


def first_step(model, method, **inputs) -> tuple:
    with reduce(model, method) as trace, torch.no_grad():
        logits = model(**inputs, logits_to_keep=1).logits
    return logits, trace.kept, trace.lengths


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("negative", [None, ONE["input_ids"].clone().masked_fill(ONE["input_ids"] == IMAGE, 5)])
def test_guidance_leaves_the_trace_alone(llava, name, negative):
    """The unconditional pass beside every step, a prompt of its own, is not what the trace is of."""
    method = load_method(name)
    _, kept, lengths = first_step(llava, method, **ONE)
    with reduce(llava, method) as trace:
        llava.generate(**ONE, **SETTINGS, guidance_scale=1.5, negative_prompt_ids=negative)
    assert (trace.kept, trace.lengths, trace.prefills) == (kept, lengths, 1)


@pytest.mark.parametrize("name", METHODS)
def test_pictures_encoded_ahead(llava, name):
    """Two pictures encoded, then the prompts of either, twice, in any order; and generate with one of them."""
    method, prompts = load_method(name), [batch(prompt(4, 0, 6, seed=n), seed=n) for n in range(2)]
    expected = [first_step(llava, method, **inputs) for inputs in prompts]
    with reduce(llava, method) as trace, torch.no_grad():
        encoded = [llava.model.get_image_features(inputs["pixel_values"]) for inputs in prompts]
        for number in (0, 1, 1, 0):
            words = {key: value for key, value in prompts[number].items() if key != "pixel_values"}
            given = {"mm_encoder_outputs": {"image": encoded[number]}}
            logits = llava(**words, **given, logits_to_keep=1).logits
            torch.testing.assert_close(logits, expected[number][0], **CLOSE)
            assert trace.kept == expected[number][1]
            llava.generate(**words, **SETTINGS, **copy.copy(given))
            assert trace.kept == expected[number][1]


def test_half_a_picture_is_refused(llava):
    inputs = {**ONE, "attention_mask": ONE["attention_mask"].clone()}
    inputs["attention_mask"][0, 5:9] = 0
    with reduce(llava, load_method("fastv")), pytest.raises(UserError, match="part of a picture"):
        llava(**inputs)
    with reduce(llava, load_method("identity")):
        assert torch.equal(llava(**inputs).logits, llava(**inputs).logits)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_four_dimensional_masks_tell_of_padding(llava, name, dtype):
    """The same as the mask of two dimensions that it was made of."""
    inputs, method = BATCHES["two, padded"], load_method(name)
    alive = inputs["attention_mask"].bool()
    columns = alive.shape[1]
    mask = torch.ones(columns, columns, dtype=torch.bool).tril() & alive[:, None]
    mask = (mask | torch.eye(columns, dtype=torch.bool))[:, None]
    if dtype != torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(dtype).min)
    position = (alive.long().cumsum(1) - 1).clamp(min=0)
    expected = first_step(llava, method, **{**inputs, "position_ids": position})
    found = first_step(llava, method, **{**inputs, "attention_mask": mask, "position_ids": position})
    assert found[1:] == expected[1:]
    torch.testing.assert_close(found[0], expected[0], **CLOSE)


def test_columns_of_logits_are_refused(llava):
    with reduce(llava, load_method("fastv")), pytest.raises(UserError, match=r"trace\.columns"):
        llava(**ONE, logits_to_keep=torch.tensor([20]))
    for columns in ([12], slice(12, 13)):
        with reduce(llava, load_method("fastv")), pytest.raises(UserError, match=r"trace\.columns"):
            llava(**ONE, logits_to_keep=columns)
    with reduce(llava, load_method("fastv")), torch.no_grad():
        last = llava(**ONE, logits_to_keep=torch.tensor([-1])).logits
        assert torch.equal(last, llava(**ONE, logits_to_keep=1).logits)


@pytest.mark.parametrize("name", ["fastv", "ficoco_l", "tome"])
def test_a_pickled_model_is_the_plain_one(llava, name):
    fresh = type(llava)(copy.deepcopy(llava.config)).eval()  # transformers' own hooks, once called, cannot be pickled
    fresh.load_state_dict(llava.state_dict())
    with reduce(fresh, load_method(name)) as trace, torch.no_grad():
        stored = pickle.loads(pickle.dumps(fresh))
        assert torch.equal(stored(**ONE).logits, llava(**ONE).logits)
        fresh(**ONE)
        kept = pickle.loads(pickle.dumps(trace))
    assert (kept.kept, kept.lengths, kept.sources) == (trace.kept, trace.lengths, trace.sources)
    expected = first_step(llava, load_method(name), **ONE)
    assert first_step(stored, load_method(name), **ONE)[1:] == expected[1:]


class Wrapper(nn.Module):
    """As libraries put one around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model, self.config = model, model.config
        self.model = model.model

    def forward(self, **inputs):
        return self.base_model(**inputs)


def test_a_wrapped_model_is_watched_inside_too(llava):
    method, settings = load_method("random"), {**SETTINGS, "num_beams": 2}
    with reduce(llava, method) as trace:
        llava.generate(**ONE, **settings)
    kept = trace.kept
    with reduce(Wrapper(llava), method) as trace:
        llava.generate(**ONE, **settings)
        assert trace.kept == kept
        with pytest.raises(UserError, match="prefill_chunk_size"):
            llava.generate(**ONE, **SETTINGS, prefill_chunk_size=4)


def test_token_healing_is_refused(llava):
    with reduce(llava, load_method("fastv")), pytest.raises(UserError, match="token_healing"):
        llava.generate(**ONE, **SETTINGS, token_healing=True)


BEHIND = {"divprune", "fastv"}
VISION = ["fastervlm", "visionzip", "tome", "ficoco_v", "mustdrop", *sorted(BEHIND)]
"""Methods in front of the projector, and some behind it."""


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("layer", [-1, -3])
def test_another_layer_of_features(llava, name, layer):
    """What the config with that layer gives, or refused where a method acts in front of the projector."""
    method = load_method(name)
    assert first_step(llava, method, **ONE, vision_feature_layer=-2)[1] == first_step(llava, method, **ONE)[1]
    if name not in BEHIND:
        with reduce(llava, method), pytest.raises(UserError, match="differs from the model's config"):
            llava(**ONE, vision_feature_layer=layer)
        return
    other = copy.deepcopy(llava)
    other.config.vision_feature_layer = layer
    found, expected = first_step(llava, method, **ONE, vision_feature_layer=layer), first_step(other, method, **ONE)
    assert found[1:] == expected[1:]
    torch.testing.assert_close(found[0], expected[0], **CLOSE)


def embedded(model, inputs) -> dict:
    """The prompt as embeddings."""
    features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    words = model.get_input_embeddings()(inputs["input_ids"])
    visual = inputs["input_ids"] == IMAGE
    embeds = words.masked_scatter(visual[..., None], torch.stack(list(features)).reshape(-1, words.shape[-1]))
    return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}


@pytest.mark.parametrize("name", VISION)
def test_embeddings_made_ahead(llava, name):
    """Pictures of one prompt are; those of several are refused where it matters whose they are."""
    method, visual = load_method(name), ONE["input_ids"] == IMAGE
    prompts = [batch(prompt(4, 0, 6, seed=n), seed=n) for n in range(2)]
    expected = [first_step(llava, method, **inputs) for inputs in prompts]
    with reduce(llava, method, visual=visual) as trace, torch.no_grad():

        def check(number: int, **inputs) -> None:
            torch.testing.assert_close(llava(**inputs, logits_to_keep=1).logits, expected[number][0], **CLOSE)
            assert trace.kept == expected[number][1]

        for number, inputs in enumerate(prompts):
            check(number, **embedded(llava, inputs))
        both = [embedded(llava, inputs) for inputs in prompts]
        for number, given in enumerate(both):
            if name in BEHIND:
                check(number, **given)
            else:
                with pytest.raises(UserError, match=r"several calls|encoded already"):
                    llava(**given)
        llava.model.get_image_features(prompts[1]["pixel_values"])
        check(0, **prompts[0])
        with pytest.raises(AttributeError):
            llava(**prompts[0], past_key_values=3)
        check(1, **embedded(llava, prompts[1]))


def test_leaving_does_not_wait_for_a_thread_that_was_stopped(llava):
    """A worker of a pool lives on after a pass that ended by SystemExit."""

    def stop(*_):
        raise SystemExit

    pool = ThreadPoolExecutor(1)
    hook = llava.model.language_model.layers[3].register_forward_hook(stop)
    done = threading.Event()

    def work():
        with reduce(llava, load_method("fastv")):
            assert isinstance(pool.submit(lambda: llava(**ONE)).exception(), SystemExit)
        done.set()

    try:
        threading.Thread(target=work, daemon=True).start()
        assert done.wait(60)
    finally:
        hook.remove()
        pool.shutdown(wait=False)


def test_exchanged_parts_are_refused(llava):
    """As by adapters that are added inside."""
    model = copy.deepcopy(llava)
    attention = model.model.language_model.layers[1].self_attn
    own = attention.q_proj
    with reduce(model, load_method("fastv")), torch.no_grad():
        model(**ONE)
        attention.q_proj = nn.Sequential(own)
        with pytest.raises(UserError, match="adapters"):
            model(**ONE)
    attention.q_proj = own
    model.model.language_model.layers[2].mlp = nn.Sequential(model.model.language_model.layers[2].mlp)
    assert first_step(model, load_method("fastv"), **ONE)[1] == first_step(llava, load_method("fastv"), **ONE)[1]


@pytest.mark.parametrize("name", METHODS)
def test_double_precision(llava, name):
    model = copy.deepcopy(llava).double()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in ONE.items()}
    found, expected = (first_step(m, load_method(name), **i) for m, i in ((model, inputs), (llava, ONE)))
    if name != "random":  # drawn by the bytes of the picture
        assert found[1:] == expected[1:]
        torch.testing.assert_close(found[0].float(), expected[0], **CLOSE)


@pytest.mark.parametrize("name", ["identity", *METHODS])
@pytest.mark.parametrize("inputs", ["one", "two, padded"])
@pytest.mark.parametrize("dropped", [1, 2])
def test_a_cache_that_something_else_has_cut(llava, name, inputs, dropped):
    """Right where nothing depends on the keys' places, as in the plain model; else refused."""

    def press(module, args, kwargs, output):
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if kwargs["hidden_states"].shape[1] > 1:
            layer.keys, layer.values = layer.keys[:, :, dropped:], layer.values[:, :, dropped:]

    refused = pytest.raises(UserError, match="something else has cut it")
    with ExitStack() as stack:
        for layer in llava.model.language_model.layers:
            stack.callback(layer.self_attn.register_forward_hook(press, with_kwargs=True).remove)
        stack.enter_context(reduce(llava, load_method(name)))
        if name != "identity" and (inputs != "one" or name not in ("fastv", "vtw", "sparsevlm", "ficoco_l")):
            stack.enter_context(refused)
        llava.generate(**BATCHES[inputs], **{**SETTINGS, "max_new_tokens": 3})
