"""The methods in front of the projector against loops, and what holds for all their budgets."""

import math
from functools import cache

import pytest
import torch
from helpers.tower_tokens import image_evidence, layer_attention, noise, patches, run, sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight import load_method
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.methods.evit import EvitRate
from thinsight.methods.mustdrop import similar_windows, tiles
from thinsight.methods.prumerge import AttentionOutliers, similar_keys
from thinsight.methods.tome import TomePairs, pair_similarity
from thinsight.methods.visionzip import DominantContextual, assign
from thinsight.methods.vispruner import distinct

QUICK = settings(max_examples=25, deadline=None)


@cache
def node(name: str):
    """Composing a configuration takes longer than running it here."""
    return load_config([f"method={name}"]).method


@cache
def one(name: str, **fields):
    """The first reduction of a method."""
    return load_method(node(name), **fields).reductions[0]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["fastervlm", "visionzip", "vispruner", "prumerge", "prumerge_plus", "evit", "tome"]), st.data())
def test_every_budget(name, data):
    """Counts are met, survivors keep to the places that there were, and none gives more than it has."""
    n = data.draw(st.integers(2, 18))
    keep = data.draw(st.integers(-(-n // 2) if name == "tome" else 1, n))
    fields = {"fidelity": "official"} if "official" in node(name) and data.draw(st.booleans()) else {}
    reduction = one(name, keep=keep, **fields)
    tokens = sequence(noise(n + 1, 3, seed=n)).with_sources(n + 1)
    evidence = image_evidence(
        tokens, attention_at=layer_attention(tokens.index, noise(n + 1, 4, seed=1), noise(n + 1, 4, seed=2), 2)
    )
    after = run(reduction, tokens, evidence)
    assert len(after) == 1 + keep
    assert after.index.tolist() == sorted(set(after.index.tolist()))
    assert after.index[0] == 0
    named = patches(after)
    assert len(set(named)) == len(named)
    if not fields:
        assert named == sorted(named)
    shares = after.sources[1:].sum(0)
    assert shares.max() <= 1 + 1e-5
    lost = (
        name == "visionzip" and DominantContextual(keep).parts(n)[1] == 0
    )  # too few to make a contextual one of the others
    if reduction.merges and after is not tokens and not lost:
        torch.testing.assert_close(shares[1:], torch.ones(n))


@QUICK
@given(st.integers(1, 40), st.data())
def test_contextual_tokens_by_a_loop(n, data):
    count, keys = data.draw(st.integers(0, n)), noise(2, n, 5, seed=n)
    targets, others, goes = assign(keys, count)
    stride = max(1, n // count) if count else 1
    assert targets.tolist() == list(range(0, n, stride))[:count]
    assert len(targets) == count
    mean = keys.mean(0)
    for token, target in zip(others.tolist(), goes.tolist(), strict=True):
        cosines = [torch.cosine_similarity(mean[token], mean[t], dim=0).item() for t in targets]
        assert cosines[target] == pytest.approx(max(cosines), abs=1e-6)


@QUICK
@given(st.integers(1, 30), st.integers(1, 8), st.data())
def test_duplicates_by_a_loop(n, step, data):
    """Counts are exact for odd and even numbers, and each round drops the most similar even ones."""
    keep, states = data.draw(st.integers(0, n)), noise(n, 4, seed=n)
    left = list(range(n))
    while len(left) > keep:
        even, odd = left[::2], left[1::2]
        if odd:
            even.sort(key=lambda i, odd=odd: -max(float(torch.cosine_similarity(states[i], states[j], 0)) for j in odd))
        left = even[min(step, len(left) - keep) :] + odd
    assert distinct(states, keep, step).tolist() == left
    assert len(left) == keep


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_prumerge_by_loops(name):
    """Survivors and extra token from the formulae, one at a time."""
    states, keys, queries = noise(26, 3, seed=1), noise(26, 4, seed=2), 3 * noise(26, 4, seed=3)
    tokens = sequence(states)
    evidence = image_evidence(tokens, attention_at=layer_attention(tokens.index, queries, keys, 2))
    after = run(one(name, keep=9, neighbours=4), tokens, evidence)
    p = (queries[0] @ keys.T / 2).softmax(0)
    kept = [i + 1 for i in patches(after)]
    assert len(kept) == 9
    gone = [i for i in range(1, 26) if i not in kept]
    extra = next(i for i in kept if all(p[i] >= p[j] for j in gone) and not _kept_by_hand(name, p, i))
    for row, i in enumerate(kept, start=1):
        others = sorted(set(range(1, 26)) - {i}, key=lambda j: -torch.cosine_similarity(keys[i], keys[j], 0).item())
        expected = states[i] + sum(p[j] * states[j] for j in others[:4])
        if i == extra:
            expected = sum(p[j] * states[j] for j in [*gone, extra])
        torch.testing.assert_close(after.states[row], expected, atol=1e-5, rtol=1e-5)
    assert after.sources.sum(0).tolist() == pytest.approx([1.0] * 26)


def _kept_by_hand(name: str, p: torch.Tensor, token: int) -> bool:
    picked = AttentionOutliers("none" if name == "prumerge" else "thirds").fixed(p[1:], 8)
    return token - 1 in picked.tolist()


@QUICK
@given(st.integers(2, 24), st.sampled_from(["clean", "official"]), st.integers(0, 1))
def test_tome_conserves(n, fidelity, classes):
    """Sizes sum to what came, the size-weighted mean stays, a class token stays first and alone, at every block."""
    reduction, tokens = one("tome", fidelity=fidelity), sequence(noise(n + classes, 3, seed=n), classes)
    mean = tokens.states.mean(0)
    for block in range(4):
        before, metric = tokens, noise(1, n + classes, 4, seed=block)
        facts = {"stage": block, "stages": 4, "metric": metric}
        tokens = run(reduction, tokens, image_evidence(tokens, classes, n + classes, **facts))
        assert tokens.size.sum().item() == pytest.approx(n + classes)
        torch.testing.assert_close(tokens.states.T @ tokens.size / (n + classes), mean, atol=1e-5, rtol=1e-5)
        assert tokens.index.tolist() == sorted(set(tokens.index.tolist()))
        if classes:
            assert tokens.index[0] == 0
            assert tokens.size[0] == 1
        if fidelity == "clean":
            assert tokens.sources.gt(0).int().argmax(1).tolist() == tokens.index.tolist()
        if len(before) == len(tokens):
            assert before is tokens or torch.equal(before.states, tokens.states)


def test_pairs_by_a_loop():
    keys = noise(2, 9, 4)
    found = pair_similarity(
        torch.arange(9), torch.arange(9) > 0, image_evidence(sequence(torch.zeros(9, 1)), metric=keys)
    )
    for a in range(5):
        for b in range(4):
            cosine = torch.cosine_similarity(keys.mean(0)[2 * a], keys.mean(0)[2 * b + 1], 0)
            assert found[a, b] == (pytest.approx(cosine.item(), abs=1e-6) if a else -math.inf)


@QUICK
@given(st.integers(1, 600), st.integers(1, 23), st.data())
def test_budgets_are_met(total, stages, data):
    """Whatever can be reached is reached exactly."""
    keep = data.draw(st.integers(0, total))
    for schedule, least in ((TomePairs(keep), -(-total // 2**stages)), (EvitRate(keep), 0)):
        present = total
        for stage in range(stages):
            present = schedule(present, stage, stages, total)
        assert present == max(keep, least)
    assert (
        sum(DominantContextual(keep).parts(total))
        == sum(DominantContextual(keep, class_token=True).parts(total))
        == keep
    )


def test_published_schedules():
    assert TomePairs(r=8).removed(4) == [8] * 4
    assert TomePairs(r=10, inflection=-1.0).removed(5) == [20, 15, 10, 5, 0]
    assert TomePairs(r=[3, 1]).removed(4) == [3, 1, 0, 0]
    assert TomePairs(r=9)(10, 0, 4, 10) == 5
    assert [DominantContextual(k / 576).parts(576)[:2] for k in (192, 128, 64)] == [(162, 30), (108, 20), (54, 10)]
    for wrong in ({"r": -1}, {"r": 1.5}, {"inflection": 2.0}, {"keep": 1.5}):
        with pytest.raises(UserError):
            TomePairs(**wrong)


@QUICK
@given(st.integers(2, 7), st.integers(2, 3))
def test_windows_by_loops(side, window):
    states, tokens = noise(side * side, 3, seed=side), sequence(noise(side * side, 3, seed=side), 0)
    members = tiles(image_evidence(tokens, 0).cells(tokens.index), window)
    expected = [
        [(r + i) * side + c + j for i in range(window) for j in range(window)]
        for r in range(0, side - window + 1, window)
        for c in range(0, side - window + 1, window)
    ]
    assert members.tolist() == expected
    for group, found in zip(expected, similar_windows(states, members), strict=True):
        pairs = [torch.cosine_similarity(states[a], states[b], 0) for a in group for b in group if a != b]
        assert found.item() == pytest.approx(sum(pairs).item() / len(pairs), abs=1e-5)


def test_neighbours_exclude_oneself():
    near = similar_keys(torch.eye(2)[torch.tensor([0, 0, 1, 1])], torch.tensor([0, 2]), torch.tensor([1, 3]), 1)
    assert near.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
