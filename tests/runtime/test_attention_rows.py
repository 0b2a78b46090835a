"""Recomputed attention rows against those that eager attention returns."""

import pytest
import torch
from helpers.prompts import BATCHES, IMAGE

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.runtime.attention_rows import attention_by_group, attention_rows, prompt_groups


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("rows", [[-1], [-2, 20, -1]])
def test_rows_equal_eager_attention(llava, llava_eager, name, rows):
    inputs = BATCHES[name]
    expected = llava_eager(**inputs, output_attentions=True).attentions
    for model in (llava, llava_eager):
        found = attention_rows(model, inputs, rows)
        assert len(found) == len(expected) == 6
        for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(ours, theirs.mean(1)[:, rows], atol=1e-6, rtol=0, msg=f"layer {layer}")


def test_rows_per_sample(llava):
    inputs = BATCHES["two, padded"]
    rows = torch.tensor([[20, 22], [21, 25]])
    each = attention_rows(llava, inputs, rows)
    for sample in range(2):
        same = attention_rows(llava, inputs, rows[sample])
        for one, other in zip(each, same, strict=True):
            assert torch.equal(one[sample], other[sample])


def test_groups_part_the_prompt(llava):
    """Sums over the groups add up to one, and padding belongs to none."""
    inputs = BATCHES["two, padded"]
    parts = prompt_groups(inputs["input_ids"] == IMAGE, inputs["attention_mask"], answer=2)
    assert torch.equal(sum(mask.long() for mask in parts.values()), inputs["attention_mask"])
    assert {name: mask.sum(1).tolist() for name, mask in parts.items()} == {
        "system": [5, 3],
        "visual": [16, 16],
        "question": [4, 1],
        "answer": [2, 2],
    }
    for attention in attention_rows(llava, inputs, [-1, -2]):
        sums = attention_by_group(attention, parts)
        torch.testing.assert_close(sum(sums.values()), torch.ones(2, 2))
        torch.testing.assert_close(sums["visual"][0], attention[0, :, 5:21].sum(-1))


def test_leaves_nothing_behind(llava):
    before = [len(module._forward_pre_hooks) for module in llava.modules()]
    attention_rows(llava, BATCHES["one"], [-1])
    assert [len(module._forward_pre_hooks) for module in llava.modules()] == before


def test_refuses_a_reduced_model(llava):
    with reduce(llava, load_method("vtw")), pytest.raises(UserError, match="outside reduce"):
        attention_rows(llava, BATCHES["one"], [-1])
