"""The rule for scores that are equal but for rounding: by hand, by a loop over pairs, and under noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight.errors import UserError
from thinsight.methods.cdpruner import greedy_map, scale_relevance
from thinsight.methods.divprune import dispersed
from thinsight.reduction import ties
from thinsight.reduction.stages import count_outliers, lowest
from thinsight.reduction.ties import (
    ROUNDING,
    above,
    ascending,
    at_least,
    cosines,
    descending,
    distances,
    first_largest,
    largest,
    noticing,
    refuse,
    top,
)

QUICK = settings(max_examples=60, deadline=None)
NOISE = ROUNDING / 8


def noisy(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Each value off by up to ``NOISE`` of itself."""
    return values * (1 + NOISE * (2 * torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) - 1))


def test_equal_ones_go_by_place():
    scores = torch.tensor([0.2, 0.5 * (1 + NOISE), 0.5, 0.9, 0.5 * (1 - NOISE), 0.2])
    assert descending(scores).tolist() == [3, 1, 2, 4, 0, 5]
    assert descending(scores.flip(0)).tolist() == [2, 1, 3, 4, 0, 5]
    assert ascending(scores).tolist() == [0, 5, 1, 2, 4, 3]
    assert lowest(scores, 2).tolist() == [0, 5]
    assert largest(torch.tensor([0.1, 0.9, 0.9 * (1 + NOISE)])) == 1
    assert first_largest(torch.tensor([0.1, 0.9, 0.9 * (1 + NOISE)]), 0.0) == 1


def test_neighbours_are_chained():
    """Each equal to the next, the ends not to each other: still one level, so that no order contradicts itself."""
    step = 0.9 * ROUNDING
    chain = 1.0 + step * torch.arange(5, dtype=torch.float64)
    for scores in (chain, chain.flip(0), chain[[3, 0, 4, 2, 1]]):
        assert descending(scores, scale=0.0).tolist() == [0, 1, 2, 3, 4]
    assert largest(chain, scale=0.0) == 3  # equal to the largest itself
    wide = 1.0 + 3 * ROUNDING * torch.arange(5, dtype=torch.float64)
    assert descending(wide, scale=0.0).tolist() == [4, 3, 2, 1, 0]


def test_small_values_are_told_apart():
    """Thousands of small distinct attentions beside a few large ones: what is equal is a matter of their own size."""
    torch.manual_seed(0)
    scores = torch.cat([torch.linspace(1e-6, 1e-5, 2880, dtype=torch.float32), torch.tensor([0.9, 0.05])])
    scores = scores[torch.randperm(len(scores))]
    assert torch.equal(descending(scores), scores.argsort(descending=True, stable=True))


def test_cosines_are_equal_by_their_terms():
    """Beside 0 a cosine's own size says nothing of its error."""
    scores = torch.tensor([1e-9, 3e-8, -2e-8])
    assert descending(scores, scale=1.0).tolist() == [0, 1, 2]
    assert descending(scores, scale=0.0).tolist() == [1, 0, 2]


def test_infinities_and_rows():
    scores = torch.tensor([[-torch.inf, 1.0, torch.inf, torch.inf], [2.0, 2.0, -torch.inf, -torch.inf]])
    assert descending(scores).tolist() == [[2, 3, 1, 0], [0, 1, 2, 3]]
    assert largest(scores).tolist() == [2, 0]
    assert first_largest(torch.tensor([-torch.inf, -torch.inf]), 1.0) == 0
    assert descending(torch.zeros(0)).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type(dtype):
    scores = torch.tensor([0.25, 1.0, 0.25, 0.5], dtype=dtype)
    assert descending(scores).tolist() == [1, 3, 0, 2]
    assert at_least(scores, 0.5).tolist() == [False, True, False, True]


def test_what_is_no_number_is_said():
    for function in (descending, ascending, largest, lambda scores: at_least(scores, 1.0)):
        with pytest.raises(UserError, match="overflowed") as error:
            function(torch.tensor([1.0, torch.nan]))
        assert "\n" not in str(error.value)


def test_what_is_no_number_is_noted_elsewhere(monkeypatch):
    """On another device than the CPU nothing is read until the end."""
    monkeypatch.setattr(ties, "_at_hand", lambda values: False)
    found = []
    with noticing(found):
        descending(torch.tensor([1.0, torch.nan]))
        largest(torch.tensor([1.0, 2.0]))
    assert len(found) == 2
    with pytest.raises(UserError, match="overflowed"):
        refuse(found)
    assert found == []
    with noticing(found):
        descending(torch.tensor([1.0, 2.0]))
    refuse(found)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 9])
def test_the_largest_few(count):
    scores = torch.tensor([[0.2, 0.5 * (1 + NOISE), 0.5, 0.9, 0.5 * (1 - NOISE), 0.1], [1, 1, 1, 1, 1, 1.0]])
    chosen = top(scores, count, 0.0)
    for row, best in zip(chosen, descending(scores, 0.0), strict=True):
        assert row.nonzero().squeeze(1).tolist() == sorted(best[:count].tolist())


def test_thresholds():
    scores = torch.tensor([0.5 * (1 - NOISE), 0.5, 0.5 * (1 + NOISE), 0.6, 0.4])
    assert at_least(scores, 0.5).tolist() == [True, True, True, True, False]
    assert above(scores, 0.5).tolist() == [False, False, False, True, False]
    assert count_outliers(torch.full((40,), 0.025) * (1 + NOISE * torch.randn(40))) == 0  # a flat picture has none


@QUICK
@given(st.lists(st.sampled_from([0.0, 1e-3, 0.1, 0.2, 0.30001, 7.0]), min_size=1, max_size=40), st.integers(0, 999))
def test_noise_changes_no_order(values, seed):
    scores = torch.tensor(values, dtype=torch.float32)
    plain = scores.argsort(descending=True, stable=True)
    assert torch.equal(descending(scores), plain)
    assert torch.equal(descending(noisy(scores, seed)), plain)
    assert int(largest(noisy(scores, seed))) == int(plain[0])


@QUICK
@given(st.integers(1, 40), st.integers(0, 999), st.sampled_from([None, 0.0, 1.0]))
def test_by_a_loop(count, seed, scale):
    """Levels by comparing sorted neighbours one by one."""
    random = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 30, (count,), generator=random) * ROUNDING / 3 + 0.25
    size = float(scores.abs().sort().values[(count - 1) // 2]) if scale is None else scale
    order = sorted(range(count), key=lambda i: -scores[i])
    levels, number = {}, 0
    for before, i in zip([None, *order], order, strict=False):
        if before is not None and scores[before] - scores[i] > ROUNDING * (float(scores[before]) + size):
            number += 1
        levels[i] = number
    assert descending(scores, scale).tolist() == sorted(range(count), key=lambda i: (levels[i], i))


class TestGreedy:
    """Copies of a few vectors, each with noise of its own: the first of each stays, whatever the noise."""

    @staticmethod
    def copies(seed: int, many: int = 5) -> torch.Tensor:
        vectors = torch.randn(6, 12, generator=torch.Generator().manual_seed(7))
        return noisy(vectors.repeat(many, 1), seed)

    @pytest.mark.parametrize("seed", range(5))
    def test_dispersion(self, seed):
        order = dispersed(1 - cosines(self.copies(seed)), 12).tolist()
        assert sorted(order[:6]) == [0, 1, 2, 3, 4, 5]
        assert order == dispersed(1 - cosines(self.copies(99)), 12).tolist()

    @pytest.mark.parametrize("seed", range(5))
    def test_determinant(self, seed):
        order = greedy_map(cosines(self.copies(seed)), 12).tolist()
        assert sorted(order[:6]) == [0, 1, 2, 3, 4, 5]
        assert order[6:] == [6, 7, 8, 9, 10, 11]  # the others are spent

    def test_determinant_by_minors(self):
        """Each choice has the largest determinant with those before it."""
        states = torch.randn(9, 9, generator=torch.Generator().manual_seed(1))
        kernel, chosen = cosines(states), []
        for row in greedy_map(kernel, 6).tolist():
            free = [i for i in range(9) if i not in chosen]
            gains = [float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]])) for i in free]
            assert free[int(np.argmax(gains))] == row
            chosen.append(row)

    def test_equal_relevance_is_not_stretched(self):
        flat = noisy(torch.full((30,), 0.2), 0)
        assert scale_relevance(flat).tolist() == [1.0] * 30


def test_distances():
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 0.0]])
    expected = torch.tensor([0.0, 2**0.5, 2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(distances(cosines(states))[0], expected)
