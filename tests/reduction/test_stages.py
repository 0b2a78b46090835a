"""The stages by hand, on tokens small enough to see."""

import pytest
import torch

from thinsight.errors import UserError
from thinsight.methods.controls import Grid, Random, even_grid, shares, spread
from thinsight.methods.vtw import AllVisual
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.stages import Discard, ToNearest, WeightedMerge, count_outliers
from thinsight.reduction.tokens import Tokens


def image_tokens(*sizes: int, states: torch.Tensor | None = None) -> tuple[Tokens, Evidence]:
    """Visual tokens of one image per size, behind two words."""
    count = sum(sizes)
    image = torch.cat([torch.tensor([-1, -1]), *(torch.full((n,), i) for i, n in enumerate(sizes))])
    tokens = Tokens.fresh(torch.arange(2, 2 + count), torch.ones(count, dtype=torch.bool))
    return tokens.with_states(states), Evidence(0, 6, image, lambda: b"sample")


def test_an_even_grid_of_a_square():
    """9 of 36: the centres of a 3 x 3 division of the 6 x 6 places."""
    assert even_grid(36, 9) == [7, 9, 11, 19, 21, 23, 31, 33, 35]


def test_the_phase_of_a_grid_moves_it_within_its_cells():
    assert even_grid(36, 9, 0.0) == [0, 2, 4, 12, 14, 16, 24, 26, 28]
    assert spread(8, 2, 0.99) == [3, 7]
    for phase in (0.0, 0.1667, 0.5, 0.8333):
        assert all(len(set(even_grid(144, k, phase))) == k for k in range(145))
    with pytest.raises(UserError, match="phase"):
        Grid(1.0)


@pytest.mark.parametrize("count", [1, 4, 9, 16, 144, 7, 30])
def test_a_grid_keeps_exactly_its_budget(count):
    for keep in range(count + 1):
        places = even_grid(count, keep)
        assert places == sorted(set(places))
        assert len(places) == keep
        assert not places or (places[0] >= 0 and places[-1] < count)


def test_a_grid_gives_each_image_its_share():
    tokens, evidence = image_tokens(16, 4)
    leaving = Grid()(tokens, evidence, 15)
    stays = tokens.rest(leaving)
    assert len(stays) == 5
    assert int((stays < 16).sum()) == 4
    assert shares([16, 4], 5) == [4, 1]
    assert shares([1, 1, 1], 5) == [2, 2, 1]
    assert spread(8, 2) == [2, 6]


def test_outliers_by_hand():
    """Quartiles of 0..8 are 2 and 6, so that more than 12 stands out."""
    assert count_outliers(torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 12])) == 0
    assert count_outliers(torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 12.1])) == 1
    assert count_outliers(torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 8]), 0.25) == 1
    assert count_outliers(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 100.0])) == 1  # Q1 1.25, Q3 3.75, fence 7.5
    assert count_outliers(torch.tensor([1.0, 2.0, 3.0, 4.0])) == 0
    assert count_outliers(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0]])) == 2


def test_all_visual_keeps_none():
    tokens, evidence = image_tokens(4)
    assert AllVisual()(tokens, evidence, 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="keeps 0"):
        AllVisual()(tokens, evidence, 3)


def test_random_is_uniform():
    """Over many samples each token leaves equally often (4 sigma)."""
    tokens, evidence = image_tokens(8)
    counts = torch.zeros(8)
    for sample in range(2000):
        own = Evidence(0, 6, evidence.image, lambda sample=sample: str(sample).encode())
        counts[Random()(tokens, own, 2)] += 1
    assert (counts - 500).abs().max() < 4 * (2000 * 0.25 * 0.75) ** 0.5


def test_a_merge_by_hand():
    """Four tokens on the axes; 2 goes to 0 and 3 to 1, the second merge weighing what the first one collected."""
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]])
    tokens, evidence = image_tokens(4, states=states)
    tokens = tokens.with_sources(6)
    merge, leaving = WeightedMerge(), torch.tensor([2, 3])
    weights = ToNearest()(tokens, leaving, evidence)
    assert weights.tolist() == [[1, 0], [0, 1]]
    once = merge(tokens, leaving, weights)
    assert once.states.tolist() == [[2, 0], [0, 3]]
    assert once.size.tolist() == [2, 2]
    assert once.sources.tolist() == [[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]]
    last = merge(once, torch.tensor([1]), torch.ones(1, 1))
    assert last.states.tolist() == [[1, 1.5]]
    assert last.size.tolist() == [4]
    with pytest.raises(UserError, match="correlate"):
        merge(tokens, leaving, None)


def test_merging_conserves():
    """Sizes and size-weighted states sum to what they were, whatever the weights, if those sum to one."""
    torch.manual_seed(0)
    tokens, _ = image_tokens(9, states=torch.randn(9, 5))
    tokens = tokens.with_sources(11)
    leaving = torch.tensor([8, 1, 4])
    merged = WeightedMerge()(tokens, leaving, torch.rand(3, 6).softmax(-1))
    assert merged.size.sum() == pytest.approx(9)
    torch.testing.assert_close((merged.states * merged.size[:, None]).sum(0), tokens.states.sum(0))
    torch.testing.assert_close(merged.sources.sum(0), torch.tensor([0.0, 0.0] + [1.0] * 9))


def test_discard_keeps_raster_order():
    tokens, _ = image_tokens(5, states=torch.arange(5.0)[:, None])
    kept = Discard()(tokens, torch.tensor([3, 0]), None)
    assert kept.index.tolist() == [3, 4, 6]
    assert kept.states[:, 0].tolist() == [1, 2, 4]
