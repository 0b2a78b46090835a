"""FastV, PyramidDrop and DART by hand and against brute force; every decoder method on a tiny LLaVA."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.official_files import Spy
from helpers.prompts import BATCHES
from helpers.samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.dart import Pivots
from thinsight.methods.fastv import TextAttention
from thinsight.reduction.stages import lowest

FEW = settings(max_examples=25, deadline=None)


def spied(llava, inputs, name: str, **fields) -> Spy:
    """What the method's last filter saw of a prompt."""
    method = load_method(name, **fields)
    spy = Spy(method.reductions[-1].filter)
    with reduce(llava, replace(method, reductions=(replace(method.reductions[-1], filter=spy),))):
        llava(**inputs)
    return spy


def test_fastv_by_hand():
    """Six visual tokens under two heads: scores 2 1 3 3 0 3; of the three that tie the last one leaves."""
    attended = torch.zeros(2, 11, 11)
    attended[0, -1, 2:8] = torch.tensor([4.0, 0, 3, 6, 0, 6])
    attended[1, -1, 2:8] = torch.tensor([0.0, 2, 3, 0, 0, 0])
    tokens, evidence = sample(6, attended=attended)
    assert TextAttention().scores(tokens.index, evidence).tolist() == [2, 1, 3, 3, 0, 3]
    assert TextAttention()(tokens, evidence, 4).tolist() == [5, 0, 1, 4]
    attended[:, 9, 6] = 99.0  # another row than the last
    assert TextAttention(rows="all").scores(tokens.index, evidence).tolist() == pytest.approx(
        [2 / 11, 1 / 11, 3 / 11, 3 / 11, 9, 3 / 11]
    )
    for wrong in ({"rows": "first"}, {"source": "previous"}):
        with pytest.raises(UserError, match="unknown"):
            TextAttention(**wrong)


@FEW
@given(st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=9), st.data())
def test_the_lowest_leave(scores, data):
    leave = data.draw(st.integers(0, len(scores)))
    rows = lowest(torch.tensor(scores), leave).tolist()
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert rows == ranked[len(scores) - leave :]


@pytest.mark.parametrize(("name", "layer"), [("fastv", 1), ("pyramiddrop", 2)])
def test_scores_are_eager_attention(llava, llava_eager, name, layer):
    """FastV's of layer 1, PyramidDrop's of the layer that it cuts in front of: the last row, the mean over heads."""
    inputs = BATCHES["two, padded"]
    maps = llava_eager(**inputs, output_attentions=True).attentions
    spy = spied(llava, inputs, name)
    for number, ids in enumerate(inputs["input_ids"]):
        expected = maps[layer][number].mean(0)[-1, ids == llava.config.image_token_id]
        torch.testing.assert_close(spy.scores[number], expected, atol=1e-6, rtol=1e-4)


def greedy(tokens, evidence, pivots: list[int], image: list[int], takes: list[int]) -> list[int]:
    """DART one choice at a time, in plain numbers: columns that stay."""
    states = evidence.sequence.states.tolist()

    def cosine(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(states[i], states[j], strict=True))
        return dot / math.sqrt(sum(a * a for a in states[i]) * sum(b * b for b in states[j]))

    stay = list(image)
    for pivot, take in zip(pivots, takes, strict=True):
        for _ in range(take):
            free = [i for i in tokens.index.tolist() if i not in stay]
            stay.append(min(free, key=lambda i: cosine(i, pivot)))
    return sorted(stay)


@FEW
@given(st.integers(0, 12), st.integers(0, 4), st.integers(0, 99))
def test_dart_is_greedy(keep, after, seed):
    """Any budget of 12 tokens, exactly, with two pivots of each kind or fewer words than that."""
    random = torch.Generator().manual_seed(seed)
    states, keyed = (torch.randn(shape, generator=random) for shape in ((14 + after, 5), (2, 14 + after, 3)))
    tokens, evidence = sample(12, after=after, states=states, keyed=keyed, norm=lambda rows: rows)
    kept = tokens.index[tokens.rest(Pivots(2, 2)(tokens, evidence, 12 - keep))].tolist()
    assert len(kept) == keep
    norms = keyed.abs().sum((0, 2)).tolist()
    image = sorted(range(2, 14), key=lambda i: -norms[i])[: min(2, keep)]
    text = sorted(range(14, 14 + after), key=lambda i: -norms[i])[:2]
    pivots = image + text
    takes = [(keep - len(image)) // len(pivots) + (n < (keep - len(image)) % len(pivots)) for n in range(len(pivots))]
    assert kept == (greedy(tokens, evidence, pivots, image, takes) if keep > 2 else sorted(image))


def test_dart_follows_the_set_officially():
    """Pivots at 5 and 2 of the image and 9 and 8 of the text: by norm in that order, as a set by value."""
    keyed = torch.zeros(1, 10, 1)
    keyed[0, [5, 2, 9, 8], 0] = torch.tensor([9.0, 8, 7, 6])
    tokens, evidence = sample(6, after=2, keyed=keyed)
    pivots = Pivots(2, 2, order="set", exact=False)
    image, text = pivots.pivots(tokens.index, evidence)
    assert (image.tolist(), text.tolist()) == ([5, 2], [9, 8])
    assert Pivots(2, 2).visited(image, text, evidence).tolist() == [5, 2, 9, 8]
    assert pivots.visited(image, text, evidence).tolist() == list({5, 2, 9, 8})
    assert [pivots.reaches(keep, 99) for keep in (3, 4, 7, 8)] == [2, 6, 6, 10]
    with pytest.raises(UserError, match="order"):
        Pivots(order="random")
    with pytest.raises(UserError, match="image pivot"):
        Pivots(image=0)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("fastv", {}, [1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2]),
        ("pyramiddrop", {}, [1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 8]),
        ("dart", {"keep": 0.625}, [1, 1, 5 / 8, 5 / 8, 5 / 8, 5 / 8]),
        ("interaction", {"keep": 0.25}, [1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 4, 1 / 4]),
    ],
)
def test_lengths(llava, name, fields, expected, inputs):
    with reduce(llava, load_method(name, **fields)) as trace:
        llava(**inputs)
    visual = (inputs["input_ids"] == llava.config.image_token_id).sum(1).tolist()
    assert trace.lengths == [[round(n * share) for share in expected] for n in visual]
