"""select_layer against the definition: one reduced run per candidate."""

import pytest
import torch
from helpers.prompts import BATCHES, IMAGE, batch, prompt

from thinsight import load_method, reduce, select_layer
from thinsight.errors import UserError
from thinsight.runtime.layer_selection import NoLayerError


def by_definition(model, inputs, layer, positions="keep", direction="withdrawn_to_full"):
    """KL per sample, from a plain and a reduced run."""
    full = model(**inputs, logits_to_keep=1).logits[:, 0].log_softmax(-1)
    with reduce(model, load_method("vtw", layer=layer, positions=positions)):
        withdrawn = model(**inputs, logits_to_keep=1).logits[:, 0].log_softmax(-1)
    q, p = (withdrawn, full) if direction == "withdrawn_to_full" else (full, withdrawn)
    return (q.exp() * (q - p)).sum(-1).tolist()


@pytest.mark.parametrize("inputs", [BATCHES["one"], BATCHES["two, padded"], BATCHES["several images"]])
@pytest.mark.parametrize("direction", ["withdrawn_to_full", "full_to_withdrawn"])
@pytest.mark.parametrize("positions", ["keep", "pack"])
def test_equals_the_definition(llava, inputs, direction, positions):
    found = select_layer(llava, [inputs], candidates=range(6), threshold=1e9, direction=direction, positions=positions)
    assert list(found.per_sample) == list(range(6))
    for layer, values in found.per_sample.items():
        expected = by_definition(llava, inputs, layer, positions, direction)
        assert values == pytest.approx(expected, abs=2e-5)
        assert found.divergence[layer] == pytest.approx(sum(expected) / len(expected), abs=2e-5)
    assert found.divergence[0] > 0.01


def test_eager_attention_agrees(llava, llava_eager):
    for name in ("two, padded", "unequal"):
        curves = [select_layer(model, [BATCHES[name]], threshold=1e9).divergence for model in (llava, llava_eager)]
        assert list(curves[0].values()) == pytest.approx(list(curves[1].values()), abs=2e-5)


def test_samples_without_image_are_left_out(llava):
    mixed = select_layer(llava, [BATCHES["unequal"]], threshold=1e9)
    assert len(mixed.per_sample[1]) == 2
    assert mixed.per_sample[1] == pytest.approx(by_definition(llava, BATCHES["unequal"], 1)[:2], abs=2e-5)
    with pytest.raises(UserError, match="no sample has an image"):
        select_layer(llava, [batch(prompt(5))])


def test_batches_make_no_difference(llava):
    """Two batches of one, of different lengths, and one padded batch of two."""
    inputs = BATCHES["two, padded"]
    singles = []
    for sample in range(2):
        row = inputs["attention_mask"][sample].bool()
        pixels = inputs["pixel_values"][sample : sample + 1]
        singles.append({"input_ids": inputs["input_ids"][sample, row][None], "pixel_values": pixels})
    apart = select_layer(llava, iter(singles), threshold=1e9)
    together = select_layer(llava, [inputs], threshold=1e9)
    for layer in range(1, 6):
        assert apart.per_sample[layer] == pytest.approx(together.per_sample[layer], abs=2e-5)


def test_thresholds(llava):
    curve = select_layer(llava, [BATCHES["one"]], threshold=1e9).divergence
    middle = sorted(curve.values())[2]
    first = next(layer for layer, value in curve.items() if value <= middle)
    found = select_layer(llava, [BATCHES["one"]], threshold=[0.0, middle, 1e9])
    assert found.layers == {0.0: None, middle: first, 1e9: 1}
    assert found.layer == first
    assert select_layer(llava, [BATCHES["one"]], threshold=middle, candidates=[5, 4]).layer in (4, 5)


def test_no_layer_qualifies(llava):
    with pytest.raises(NoLayerError, match="no layer has a divergence of at most 0") as caught:
        select_layer(llava, [BATCHES["one"]], candidates=[1, 3], threshold=0)
    assert caught.value.divergence == select_layer(llava, [BATCHES["one"]], candidates=[1, 3], threshold=9).divergence
    assert "1: " in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"candidates": 5}, "candidates are layers"),
        ({"candidates": [0.5]}, "candidates are layers"),
        ({"candidates": [True]}, "candidates are layers"),
        ({"candidates": []}, "candidates are layers"),
        ({"candidates": "34"}, "candidates are layers"),
        ({"threshold": "0.1"}, "not '0.1'"),
        ({"threshold": []}, "a list of them"),
        ({"threshold": None}, "a list of them"),
        ({"threshold": [0.1, float("nan")]}, "not nan"),
    ],
)
def test_refuses_before_anything_runs(llava, wrong, sentence):
    def batches():
        raise AssertionError("a batch was read")
        yield

    with pytest.raises(UserError, match=sentence):
        select_layer(llava, batches(), **wrong)


def test_refuses_a_batch_for_batches(llava):
    with pytest.raises(UserError, match=r"\[batch\]"):
        select_layer(llava, BATCHES["one"])


def test_a_prompt_that_cannot_be_reduced_is_refused(llava):
    ends = BATCHES["one"] | {key: BATCHES["one"][key][:, :-6] for key in ("input_ids", "attention_mask")}
    assert ends["input_ids"][0, -1] == IMAGE
    half = {**BATCHES["one"], "attention_mask": BATCHES["one"]["attention_mask"].clone()}
    half["attention_mask"][0, 5:9] = 0
    for inputs, sentence in ((ends, "ends with its picture"), (half, "part of a picture"), ("text", "a dict of model")):
        with pytest.raises(UserError, match=sentence):
            select_layer(llava, [BATCHES["one"], inputs], threshold=1e9)


@pytest.mark.parametrize("more", [{"use_cache": True}, {"logits_to_keep": 3}, {"return_dict": False}])
def test_arguments_that_the_criterion_sets_itself(llava, more):
    found, expected = (
        select_layer(llava, [inputs], threshold=1e9) for inputs in (BATCHES["one"] | more, BATCHES["one"])
    )
    assert found.divergence == expected.divergence


def test_the_prefix_runs_once(llava):
    """Layer l runs once on the whole prompt and once, on text rows only, for every candidate up to l."""
    rows = []
    layers = llava.model.language_model.layers
    handles = [layer.register_forward_hook(lambda m, a, out: rows.append(out.shape[1])) for layer in layers]
    select_layer(llava, [BATCHES["one"]], candidates=[2, 4], threshold=1e9)
    for handle in handles:
        handle.remove()
    assert rows == [27] * 6 + [11] * (4 + 2)


def test_leaves_nothing_behind(llava):
    before = [len(module._forward_pre_hooks) for module in llava.modules()]
    select_layer(llava, [BATCHES["one"]], threshold=1e9)
    with pytest.raises(ValueError, match="do not match"):
        select_layer(llava, [{**BATCHES["one"], "pixel_values": torch.randn(3, 3, 16, 16)}])
    assert [len(module._forward_pre_hooks) for module in llava.modules()] == before


@pytest.mark.parametrize(
    "wrong",
    [{"direction": "sideways"}, {"candidates": [6]}, {"candidates": [-1]}, {"candidates": []}, {"positions": "reset"}],
)
def test_wrong_arguments(llava, wrong):
    with pytest.raises(UserError):
        select_layer(llava, [BATCHES["one"]], **wrong)


def test_visual_mask(llava):
    """A mask in the batch stands in for the image token."""
    inputs = BATCHES["one"]
    marked = {**inputs, "visual": inputs["input_ids"] == IMAGE}
    assert (
        select_layer(llava, [marked], threshold=9).divergence == select_layer(llava, [inputs], threshold=9).divergence
    )


def test_right_padding(llava):
    """The last prompt token is the last one that is no padding, on whichever side that is."""
    left, mask = BATCHES["two, padded"], BATCHES["two, padded"]["attention_mask"]
    pad = int((mask[1] == 0).sum())
    right = {**left, "input_ids": left["input_ids"].clone(), "attention_mask": mask.clone()}
    right["input_ids"][1] = left["input_ids"][1].roll(-pad)
    right["attention_mask"][1] = mask[1].roll(-pad)
    curves = [select_layer(llava, [inputs], threshold=1e9).per_sample for inputs in (left, right)]
    for layer in range(1, 6):
        assert curves[1][layer] == pytest.approx(curves[0][layer], abs=2e-5)
