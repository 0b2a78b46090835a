"""Several turns with one cache."""

import pytest
import torch
from helpers.masked_reference import masked_logits
from helpers.prompts import BATCHES, IMAGE, batch, prompt

from thinsight import load_method, reduce
from thinsight.errors import UserError

CLOSE = {"atol": 5e-5, "rtol": 0}
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}
PADDED = BATCHES["two, padded"]


def words(count: int, rows: int = 1, seed: int = 7):
    return torch.randint(2, IMAGE, (rows, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inputs", [BATCHES["one"], PADDED, BATCHES["unequal"]], ids=["one", "padded", "unequal"])
@pytest.mark.parametrize("positions", ["keep", "pack"])
@pytest.mark.parametrize("layer", [0, 3])
def test_a_second_turn(llava, inputs, positions, layer):
    """Several tokens after the prompt, with a cache: the same as a full-length run with hidden columns."""
    rows, mask = len(inputs["input_ids"]), inputs["attention_mask"]
    turn = words(4, rows)
    with reduce(llava, load_method("vtw", layer=layer, positions=positions)) as trace:
        first = llava(**inputs, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        both = torch.cat([mask, torch.ones_like(turn)], 1)
        position = (both.cumsum(1) - 1)[:, -4:]
        logits = llava(
            input_ids=turn, attention_mask=both, position_ids=position, past_key_values=first.past_key_values
        ).logits
    assert trace.prefills == 1
    expected = masked_logits(llava, inputs, trace, pack=positions == "pack", generated=turn)
    torch.testing.assert_close(logits, expected[:, 1:], **CLOSE)


def test_a_second_turn_through_generate(llava):
    inputs, more = BATCHES["one"], words(5)
    for layer, whole in ((3, True), (0, False)):
        with reduce(llava, load_method("vtw", layer=layer)) as trace:
            out = llava.generate(**inputs, **GREEDY, max_new_tokens=3, return_dict_in_generate=True)
            ids = torch.cat([out.sequences, more], 1)
            again = {"attention_mask": torch.ones_like(ids), "past_key_values": out.past_key_values}
            given = ids if whole else ids[:, -6:]  # the last answer token is not in the cache yet
            answer = llava.generate(input_ids=given, **again, **GREEDY, max_new_tokens=3)[:, -3:]
        after = torch.cat([ids[:, 27:], answer[:, :-1]], 1)
        expected = masked_logits(llava, inputs, trace, generated=after)[:, -3:]
        expected[..., IMAGE] = -torch.inf
        assert torch.equal(expected.argmax(-1), answer), f"layer {layer}"


def test_a_turn_that_generate_would_cut_wrongly_is_refused(llava):
    """generate slices a conversation by the cache of layer 0, which is short when tokens leave before it."""
    with reduce(llava, load_method("blind")):
        out = llava.generate(**BATCHES["one"], **GREEDY, max_new_tokens=3, return_dict_in_generate=True)
        ids = torch.cat([out.sequences, words(5)], 1)
        with pytest.raises(UserError, match="pass the new tokens only"):
            llava.generate(input_ids=ids, past_key_values=out.past_key_values, **GREEDY, max_new_tokens=3)
        with pytest.raises(UserError, match="pass the new tokens only"):  # the same by its mask alone
            llava(input_ids=ids[:, -8:], attention_mask=torch.ones_like(ids), past_key_values=out.past_key_values)


def test_two_conversations_take_turns(llava):
    """Each cache remembers its own prompt."""
    one, other = BATCHES["one"], batch(prompt(2, 0, 3, seed=1), seed=5)
    token = words(1)
    with reduce(llava, load_method("vtw", positions="pack")):
        alone = [llava(input_ids=token, past_key_values=llava(**x).past_key_values).logits for x in (one, other)]
        caches = [llava(**x).past_key_values for x in (one, other)]
        mixed = [llava(input_ids=token, past_key_values=cache).logits for cache in caches]
    assert torch.equal(alone[0], mixed[0])
    assert torch.equal(alone[1], mixed[1])
