"""FiCoCo's own rules (arXiv:2411.17686): edges per row, the self-preserving mean, the local penalty, by hand."""

import math

import pytest
import torch
from helpers.prompts import BATCHES

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.ficoco import DecoderRedundancy, EncoderRedundancy, StrongestPaths
from thinsight.reduction.attention import LayerAttention
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Reduction
from thinsight.reduction.schedules import Even, Keep
from thinsight.reduction.stages import Discard, WeightedMerge
from thinsight.reduction.tokens import Tokens

EPSILON = 0.998


def scene(queries, keys, states, causal=False, text=0):
    """Tokens with one head's queries and keys; a class token in front, or ``text`` words behind."""
    count = len(states)
    index = torch.arange(count)
    visual = index < count - text if causal else index > 0
    tokens = Tokens(states, index, visual, torch.ones(count)).with_sources(count)
    look = LayerAttention(index, lambda at: queries[None, at], keys[None], queries.shape[1] ** -0.5, causal)
    image = torch.where(visual, 0, -1)
    return tokens, Evidence(0, 4, image, lambda: b"x", sequence=tokens, attention_at={"attention": lambda: look})


@pytest.mark.parametrize("targets", [60, 300, 500, 502, 700, 1300, 2056, 2880])
def test_edges_per_row(targets):
    """The quantile of a row keeps floor((1 - eps)(n - 1)) + 1 edges: one on LLaVA-1.5 once 500 targets are left."""
    torch.manual_seed(targets)
    weights = StrongestPaths(quantile=EPSILON).edges(torch.rand(7, targets))
    expected = math.floor((1 - EPSILON) * (targets - 1) + 1e-9) + 1
    assert (weights > 0).sum(1).tolist() == [expected] * 7
    torch.testing.assert_close(weights.sum(1), torch.ones(7))


def test_a_matrix_quantile_is_adaptive():
    weights = StrongestPaths(quantile=0.5, scope="matrix").edges(torch.tensor([[4.0, 3.0, 0.0], [1.0, 2.0, 0.5]]))
    assert (weights > 0).sum(1).tolist() == [2, 1]
    torch.testing.assert_close(weights, torch.tensor([[4 / 7, 3 / 7, 0.0], [0.0, 1.0, 0.0]]))


def test_a_fixed_number_of_edges():
    """K edges a row whatever epsilon says, their weights summing to one; K beyond the stayers takes them all."""
    torch.manual_seed(3)
    strengths = torch.rand(5, 40)
    for count in (1, 2, 6, 99):
        weights = StrongestPaths(count=count).edges(strengths)
        assert (weights > 0).sum(1).tolist() == [min(count, 40)] * 5
        torch.testing.assert_close(weights.sum(1), torch.ones(5))
    assert torch.equal(StrongestPaths(count=1).edges(strengths), StrongestPaths(quantile=EPSILON).edges(strengths))
    assert StrongestPaths(count=0).edges(strengths).sum() == 0
    even = StrongestPaths(count=4, even=True).edges(strengths)
    assert sorted(set(even.flatten().tolist())) == [0.0, 0.25]
    assert torch.equal(even > 0, StrongestPaths(count=4).edges(strengths) > 0)
    assert torch.equal(StrongestPaths(even=True).edges(strengths), StrongestPaths().edges(strengths))  # one edge each


def test_a_convergent_correlation_has_one_sink():
    weights = StrongestPaths(convergent=True).edges(torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.6, 0.4]]))
    assert weights.tolist() == [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]


def test_the_mean_is_self_preserving():
    """Equation 2 by hand: half of a leaver of (8, 0) each to two stayers; a constant stays constant; mass is kept."""
    states = torch.tensor([[2.0, 0.0], [0.0, 6.0], [8.0, 0.0]])
    tokens = Tokens(states, torch.arange(3), torch.ones(3, dtype=torch.bool), torch.ones(3)).with_sources(3)
    weights, merge = torch.tensor([[0.5, 0.5]]), WeightedMerge(sized=False)
    after = merge(tokens, torch.tensor([2]), weights)
    torch.testing.assert_close(after.states, torch.tensor([[4.0, 0.0], [8 / 3, 4.0]]))
    torch.testing.assert_close((1.5 * after.states).sum(0), states.sum(0))
    flat = tokens.with_states(torch.full((3, 2), 5.0))
    torch.testing.assert_close(merge(flat, torch.tensor([2]), weights).states, torch.full((2, 2), 5.0))


def test_half_of_the_own_information_can_be_enforced():
    """Three leavers on one stayer leave it a quarter of itself; limited to one, half."""
    states = torch.eye(4)
    tokens = Tokens(states, torch.arange(4), torch.ones(4, dtype=torch.bool), torch.ones(4)).with_sources(4)
    leaving, weights = torch.tensor([1, 2, 3]), torch.ones(3, 1)
    assert WeightedMerge(sized=False)(tokens, leaving, weights).states[0, 0] == 0.25
    assert WeightedMerge(sized=False, most=1.0)(tokens, leaving, weights).states[0, 0] == 0.5


def test_the_local_penalty_by_hand():
    """4 x 4 cells, 2 x 2 windows: the largest of each window is doubled if positive and halved if negative."""
    scores = torch.tensor([1, 2, -1, -4, 0.5, 1.5, -2, -3, 3, 1, 9, 8, 2, 2.5, 7, 6])
    cells = torch.tensor([[0, i // 4, i % 4] for i in range(16)])
    spread = EncoderRedundancy().spread(scores, cells)
    expected = scores.clone()
    expected[1], expected[2], expected[8], expected[10] = 4, -0.5, 6, 18
    assert torch.equal(spread, expected)
    gone = torch.tensor([0, 2, 3, 8])  # cells of tokens that left earlier do not count
    assert EncoderRedundancy().spread(scores[gone], cells[gone]).tolist() == [2, -0.5, -4, 6]


@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_at_most_one_of_a_window_is_amplified(value, noise):
    """A flat picture: of equal scores of a window the first in the raster, also where rounding tells them apart."""
    flat = torch.full((16,), value) * (1 + noise * torch.randn(16, generator=torch.Generator().manual_seed(0)))
    cells = torch.tensor([[0, i // 4, i % 4] for i in range(16)])
    spread = EncoderRedundancy().spread(flat, cells)
    assert (spread != flat).nonzero().squeeze(1).tolist() == [0, 2, 8, 10]
    torch.testing.assert_close(spread[[0, 2, 8, 10]], flat[[0, 2, 8, 10]] * (2.0 if value > 0 else 0.5))
    order = [5, 4, 1, 0]  # tokens in another order: the first of the window is the first that is shown
    assert (EncoderRedundancy().spread(flat[order], cells[order]) != flat[order]).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_edges_of_equal_strengths():
    """As many as without equals, the first of them."""
    weights = StrongestPaths(quantile=EPSILON).edges(torch.full((3, 700), 0.001))
    assert [row.nonzero().squeeze(1).tolist() for row in weights] == [[0, 1]] * 3
    weights = StrongestPaths(quantile=0.5, scope="matrix").edges(torch.full((2, 3), 0.1))
    assert (weights > 0).tolist() == [[True, True, True], [False, False, False]]


def test_scores_of_the_encoder_by_hand():
    """One class token and four patches; redundancy is attention received, importance the class token's attention."""
    torch.manual_seed(0)
    queries, keys, states = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 2)
    tokens, evidence = scene(queries, keys, states)
    shown = tokens.take(tokens.visual)
    attention = (queries @ keys.T / math.sqrt(3)).softmax(-1)
    expected = 0.35 * attention[1:, 1:].mean(0) - 0.65 * attention[0, 1:]
    torch.testing.assert_close(EncoderRedundancy(penalty=1.0).scores(shown, evidence), expected)
    literal = 0.35 * attention[1:, 1:].mean(1) - 0.65 * attention[0, 1:]
    torch.testing.assert_close(EncoderRedundancy(reading="row_softmax", penalty=1.0).scores(shown, evidence), literal)
    logits = queries @ keys.T / math.sqrt(3)
    parts = logits[1:, 1:].mean(1), logits[0, 1:]
    coded = 0.35 * parts[0] / parts[0].norm() - 0.65 * parts[1] / parts[1].norm()
    torch.testing.assert_close(EncoderRedundancy(reading="row_logit", penalty=1.0).scores(shown, evidence), coded)
    mean = keys[1:].mean(0, keepdim=True)
    free = 0.35 * attention[1:, 1:].mean(0) + 0.65 * torch.cosine_similarity(mean, keys[1:])
    assert "cls" not in EncoderRedundancy(cls="key_mean").needs
    torch.testing.assert_close(EncoderRedundancy(cls="key_mean", penalty=1.0).scores(shown, evidence), free)


def test_scores_and_paths_of_the_decoder_by_hand():
    """Four patches, then two words under a causal mask; equations 3 and 4 with attention received from the text."""
    torch.manual_seed(1)
    queries, keys, states = torch.randn(6, 3), torch.randn(6, 3), torch.randn(6, 2)
    tokens, evidence = scene(queries, keys, states, causal=True, text=2)
    shown = tokens.take(tokens.visual)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    attention = (queries @ keys.T / math.sqrt(3)).masked_fill(hidden, -torch.inf).softmax(-1)
    expected = 0.6 * attention[:4, :4].mean(0) - 0.4 * attention[4:, :4].mean(0)
    torch.testing.assert_close(DecoderRedundancy().scores(shown, evidence), expected)
    leave, stay = torch.tensor([1, 3]), torch.tensor([0, 2])
    direct = attention[leave][:, stay] + attention[stay][:, leave].T
    indirect = attention[4:][:, leave].T @ attention[4:][:, stay] / 2
    found = StrongestPaths(direct=0.6).strengths(leave, stay, evidence)
    torch.testing.assert_close(found, 0.6 * direct + 0.4 * indirect)


def test_without_a_correlation_it_is_pruning(llava):
    """The same filter with Discard keeps the same patches; the states of stayers are their own."""
    method = load_method("ficoco_v", keep=0.5, start=4)
    (reduction,) = method.reductions
    bare = type(method)("pruning", (Reduction(reduction.filter, None, Discard(), reduction.site, reduction.schedule),))
    kept = []
    for one in (method, bare):
        with reduce(llava, one) as trace:
            llava(**BATCHES["one"])
        kept.append(trace.kept)
    assert kept[0] == kept[1]
    assert trace.sources == [[[patch] for patch in kept[0][0]]]


@pytest.mark.parametrize("name", ["ficoco_v", "ficoco_l"])
def test_no_edges_are_pruning_by_the_same_scores(llava, name):
    """K = 0 equals the method with `Discard`, to the bit; one edge equals epsilon's one; the new fields at rest equal a
    method that was made without them."""
    method = load_method(name, keep=5)
    (one,) = method.reductions
    bare = Reduction(one.filter, None, Discard(), one.site, one.schedule)
    paths = StrongestPaths(one.correlate.direct, one.correlate.quantile)
    old = Reduction(one.filter, paths, one.compress, one.site, one.schedule)
    found = {}
    variants = {
        "pruned": type(method)("pruned", (bare,)),
        "none": load_method(name, keep=5, edges=0),
        "old": type(method)("old", (old,)),
        "new": method,
        "one": load_method(name, keep=5, edges=1),
        "even": load_method(name, keep=5, even=True),
    }
    for label, variant in variants.items():
        with torch.no_grad(), reduce(llava, variant):
            found[label] = llava(**BATCHES["one"]).logits
    assert torch.equal(found["pruned"], found["none"])
    assert torch.equal(found["old"], found["new"])
    assert torch.equal(found["new"], found["one"])
    assert torch.equal(found["new"], found["even"])
    assert not torch.equal(found["new"], found["none"])


def test_a_local_penalty_in_the_decoder(llava):
    """Off by default; on, it is the encoder's."""
    torch.manual_seed(2)
    queries, keys, states = torch.randn(18, 3), torch.randn(18, 3), torch.randn(18, 2)
    tokens, evidence = scene(queries, keys, states, causal=True, text=2)
    shown = tokens.take(tokens.visual)
    plain = DecoderRedundancy().scores(shown, evidence)
    spread = EncoderRedundancy().spread(plain, evidence.cells(shown.index))
    assert torch.equal(DecoderRedundancy(penalty=2.0).scores(shown, evidence), spread)
    assert not torch.equal(plain, spread)


def test_even_steps():
    """The released constants: 42 at each of 11 blocks leave 114 of 576, and a budget is met whatever the stages."""
    now = 576
    for stage in range(11):
        now = Even(each=42)(now, stage, 11, 576)
    assert now == 114
    for keep, stages in [(192, 23), (128, 11), (64, 27), (0, 5)]:
        now = 576
        for stage in range(stages):
            now = Even(keep)(now, stage, stages, 576)
        assert now == keep


def test_both_share_the_work(llava):
    with reduce(llava, load_method("ficoco_vl", keep=4, share=0.5)) as trace:
        llava(**BATCHES["one"])
    assert trace.lengths[0][0] == 10
    assert len(trace.kept[0]) == 4


@pytest.mark.parametrize("name", ["ficoco_vl", "interaction"])
def test_a_count_is_of_each_picture_where_both_ends_share_it(llava, name):
    """Two pictures of 16 and a count of 4 are a quarter, at every place, whatever other prompts hold."""
    for inputs in (BATCHES["one"], BATCHES["several images"], BATCHES["unequal"]):
        found = []
        for keep in (4, 0.25):
            with reduce(llava, load_method(name, keep=keep)) as trace:
                llava(**inputs)
            found.append((trace.lengths, trace.tower, trace.kept))
        assert found[0] == found[1]
        pictures = [len(images) for images in trace.pictures]
        assert [len(kept) for kept in trace.kept] == [4 * n for n in pictures]


def test_the_share_leaves_in_the_tower_with_two_pictures(llava):
    """24 of 32 have to leave, half of them in front of the projector."""
    with reduce(llava, load_method("ficoco_vl", keep=4, share=0.5)) as trace:
        llava(**BATCHES["several images"])
    assert [lengths[0] for lengths in trace.lengths] == [20, 20]
    assert [len(kept) for kept in trace.kept] == [8, 8]


@pytest.mark.parametrize("name", ["ficoco_l", "fastv"])
def test_a_count_is_of_the_prompt_behind_the_projector(llava, name):
    with reduce(llava, load_method(name, keep=4)) as trace:
        llava(**BATCHES["several images"])
    assert [len(kept) for kept in trace.kept] == [4, 4]


def test_wrong_readings_are_refused():
    for make in (
        lambda: EncoderRedundancy(reading="softmax"),
        lambda: EncoderRedundancy(cls="none"),
        lambda: DecoderRedundancy(reading="rows"),
        lambda: StrongestPaths(scope="column"),
        lambda: StrongestPaths(quantile=2.0),
        lambda: StrongestPaths(count=-1),
        lambda: StrongestPaths(count=True),
        lambda: StrongestPaths(count=2, convergent=True),
        lambda: DecoderRedundancy(window=0),
        lambda: Even(share=1.5),
        lambda: Keep("half"),
    ):
        with pytest.raises(UserError):
            make()


def test_a_prompt_without_a_question_is_refused(llava):
    inputs = {key: value[:, : 1 + 4 + 16] if key != "pixel_values" else value for key, value in BATCHES["one"].items()}
    with pytest.raises(UserError, match="put text behind it"), reduce(llava, load_method("ficoco_l")):
        llava(**inputs)
