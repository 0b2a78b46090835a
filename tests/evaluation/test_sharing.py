"""Layers that remember: the same states whatever method comes first, on every family; nothing stays behind."""

import pytest
import torch
from helpers.families import FAMILIES
from helpers.model_family import questions

from thinsight import load_method, reduce
from thinsight.evaluation.sharing import shared_layers
from thinsight.models.families import find_parts

METHODS = {
    "identity": {},
    "vtw": {"layer": 3},
    "fastv": {"keep": 2},
    "random": {"keep": 2},
    "blind": {},
    "pyramiddrop": {"positions": "keep"},
    "divprune": {"keep": 3, "positions": "keep"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    """(model, inputs of two questions, padded on the left) of one checkpoint."""
    family = FAMILIES[request.param]
    model, processor = family.load(family.save(tmp_path_factory.mktemp(request.param)))
    inputs = questions(processor)
    assert not inputs["attention_mask"].all()
    return model, inputs


def answers(model, inputs, names):
    """Method -> (logits of the last row, keys of the last layer, kept patches)."""
    found = {}
    for name in names:
        with torch.inference_mode(), reduce(model, load_method(name, **METHODS[name])) as trace:
            out = model(**inputs, use_cache=True)
        found[name] = out.logits[:, -1], out.past_key_values.layers[-1].keys, trace.kept
    return found


@pytest.mark.parametrize("padded", [True, False])
def test_shared_layers_change_nothing(loaded, padded):
    model, inputs = loaded
    if not padded:  # one sample, for which transformers makes no mask
        whole = inputs["attention_mask"].all(1).nonzero()[0]
        pictures = {name for name in inputs if name not in ("input_ids", "attention_mask", "mm_token_type_ids")}
        if any(len(inputs[name]) != 2 for name in pictures):
            pytest.skip("pictures of this family come in patches or tiles")
        inputs = {name: value[whole] for name, value in inputs.items()}
    alone, together = answers(model, inputs, METHODS), []
    with shared_layers(model) as shared:
        for names in (METHODS, reversed(METHODS)):
            shared.begin(inputs)
            assert shared.front > 0
            together.append(answers(model, inputs, names))
    for name, (logits, keys, kept) in alone.items():
        for found in together:
            torch.testing.assert_close(found[name][0], logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[name][1], keys, rtol=1e-4, atol=1e-4)
            assert found[name][2] == kept, name
        assert torch.equal(together[0][name][0], together[1][name][0])  # whichever method came first, to the bit
    assert all("forward" not in vars(layer) for layer in find_parts(model).layers)


def test_what_differs_is_not_taken_from_memory(loaded):
    """Other pictures without an announcement, and a prompt that goes on from a cache."""
    model, inputs = loaded
    if find_parts(model).counts_cache:
        pytest.skip("this model numbers a further turn by the prompt that it saw last")
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(-1) * 0.5}
    tail = torch.tensor([[5, 6], [7, 8]])
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(tail)], 1)
    with torch.inference_mode():
        expected = model(**other).logits[:, -1]
        cache = model(**inputs, use_cache=True).past_key_values
        turn = model(input_ids=tail, attention_mask=mask, past_key_values=cache).logits[:, -1]
        with shared_layers(model) as shared:
            shared.begin(inputs)
            cache = model(**inputs, use_cache=True).past_key_values
            torch.testing.assert_close(model(**other).logits[:, -1], expected, rtol=1e-4, atol=1e-4)
            again = model(input_ids=tail, attention_mask=mask, past_key_values=cache).logits[:, -1]
            torch.testing.assert_close(again, turn, rtol=1e-4, atol=1e-4)
