"""The two cuts of arXiv:2409.01162 as we read them: the head of a long tail, then what has to do with the text."""

import math

import pytest
import torch
from helpers.prompts import BATCHES
from helpers.samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.image_text_interaction import CrossModalCorrelation, LongTailHead, head_length

FEW = settings(max_examples=25, deadline=None)


def test_inflection_by_hand():
    """Two of five before the tail; a straight line and a plateau with a late fall have none."""
    assert head_length(torch.tensor([0.1, 1.0, 0.0, 0.9, 0.05])) == 2
    assert head_length(torch.tensor([1.0, 0.0, 0.0, 0.0])) == 1
    assert head_length(torch.arange(6.0)) == 6
    assert head_length(torch.tensor([1.0, 1.0, 0.9, 0.0])) == 4
    assert head_length(torch.full((3,), 0.7)) == 3
    assert head_length(torch.tensor([2.0])) == 1


@FEW
@given(st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=12), st.randoms())
def test_inflection_is_of_the_curve(scores, random):
    """It depends on neither order, offset nor scale, and what stays is the top of the ranking."""
    found = head_length(torch.tensor(scores))
    assert 1 <= found <= len(scores)
    mixed = random.sample(scores, len(scores))
    assert head_length(torch.tensor(mixed) * 4 + 8) == found


def test_class_tokens_and_substitutes():
    """Patches at index 1.. behind a class token; the third patch is the odd one out."""
    states = torch.tensor([[1.0, 0], [2, 0], [1, 1], [0, 3]])
    attended = torch.full((1, 4, 4), 0.25)
    attended[:, 1:, 3] = 0.0
    keyed = torch.tensor([[[9.0, 9], [1, 0], [1, 0], [0, 1]]])
    tokens, evidence = sample(3, before=1, after=0, states=states, attended=attended, keyed=keyed)
    assert LongTailHead().scores(tokens.index, evidence).tolist() == pytest.approx([1, math.sqrt(0.5), 0])
    assert LongTailHead("received").scores(tokens.index, evidence).tolist() == [0.25, 0.25, 0]
    near, far = -2 / math.sqrt(5), -1 / math.sqrt(5)
    assert LongTailHead("key_mean").scores(tokens.index, evidence).tolist() == pytest.approx([near, near, far])
    assert LongTailHead()(tokens, evidence, 1).tolist() == [2]
    assert LongTailHead().needs == {"cls"}
    assert LongTailHead("received").needs == {"attention"}
    with pytest.raises(UserError, match="class token"):
        LongTailHead("mean")


def test_mutual_by_hand():
    """Two visual tokens speak the text's language, two do not; of three words the last stays whatever it says."""
    axes = torch.eye(3)
    states = axes[[2, 0, 0, 1, 1, 0, 1, 0]]  # a word, four visual tokens, three words
    tokens, evidence = sample(4, before=1, after=3, states=states)
    assert CrossModalCorrelation()(tokens, evidence, 2).tolist() == [2, 3]
    shown = evidence.sequence.take(torch.arange(7))
    both = CrossModalCorrelation(text=0.5)
    assert (CrossModalCorrelation().among, both.among) == ("visual", "prompt")
    assert sorted(both(shown, evidence, 1).tolist()) == [4, 6]
    tokens, evidence = sample(4, before=4, after=0, states=states)
    assert CrossModalCorrelation()(tokens, evidence, 2).tolist() == [
        0,
        2,
    ]  # no text behind it: the last token, an image's, asks
    with pytest.raises(UserError, match="text=2"):
        CrossModalCorrelation(text=2)


def test_interaction_decides_for_each_picture(llava):
    """Dynamic counts; half of them after the second cut; words leave as well if they are told to."""
    inputs = BATCHES["unequal"]
    with reduce(llava, load_method("interaction")) as trace:
        llava(**inputs)
    for lengths in trace.lengths[:2]:
        assert 0 < lengths[0] < 16
        assert lengths[2:] == [math.ceil(lengths[0] / 2)] * 4
    assert trace.lengths[2] == [0] * 6
    with reduce(llava, load_method("interaction", text=0.5)) as other:
        llava(**inputs)
    assert other.lengths == trace.lengths
    words = [
        [n - v for n, v in zip(s, t, strict=True)] for s, t in zip(other.sequence_lengths, other.lengths, strict=True)
    ]
    assert words == [[10, 10, 9, 9, 9, 9], [6, 6, 5, 5, 5, 5], [10] * 6]
