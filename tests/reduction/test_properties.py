"""Properties of the frame's own parts on tokens that hypothesis makes up: counts, conservation, permutation."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight.costs.budgets import PrefillSizes, simulate
from thinsight.methods.controls import Grid, Random
from thinsight.methods.evit import EvitRate
from thinsight.methods.ficoco import StrongestPaths
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method, Reduction, apply_reduction
from thinsight.reduction.schedules import Even, Fixed, Geometric, Keep
from thinsight.reduction.sites import Decoder, Features, Projected, Vision
from thinsight.reduction.stages import Discard, Routes, ToNearest, WeightedMerge, WeightedSum
from thinsight.reduction.tokens import Tokens

QUICK = settings(max_examples=40, deadline=None)
KEEP = st.one_of(st.integers(0, 40), st.floats(0, 1))


@st.composite
def scenes(draw, least: int = 2):
    """Visual tokens between words, with states, and the evidence around them."""
    before, count, behind = draw(st.integers(0, 3)), draw(st.integers(least, 24)), draw(st.integers(1, 3))
    columns = before + count + behind
    states = torch.randn(columns, 4, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    visual = torch.zeros(columns, dtype=torch.bool)
    visual[before : before + count] = True
    tokens = Tokens.fresh(torch.arange(columns), visual).with_states(states)
    image = torch.where(visual, 0, -1)
    return tokens, Evidence(0, 4, image, lambda: b"sample", sequence=tokens)


@QUICK
@given(scenes(), KEEP, st.sampled_from([Grid(), Random(3)]))
def test_pruning_keeps_what_the_schedule_says(scene, keep, chooser):
    tokens, evidence = scene
    before = int(tokens.visual.sum())
    after = apply_reduction(Reduction(chooser, schedule=Keep(keep)), tokens, evidence, len(tokens))
    assert int(after.visual.sum()) == min(Keep(keep)(before), before)
    assert int((~after.visual).sum()) == int((~tokens.visual).sum())
    assert torch.equal(after.index, after.index.sort().values)
    assert torch.equal(after.states, tokens.states[after.index])


@QUICK
@given(scenes(), KEEP, st.booleans())
def test_merging_conserves_sizes_and_mass(scene, keep, sized):
    tokens, evidence = scene
    reduction = Reduction(Grid(), ToNearest(), WeightedMerge(sized=sized), schedule=Keep(keep))
    visual = tokens.visual
    if reduction.tokens_left(int(visual.sum()), 0, 1, int(visual.sum()))[0] == 0:
        return  # nothing stays that could take anything in
    after = apply_reduction(reduction, tokens, evidence, len(tokens))
    torch.testing.assert_close(after.size.sum(), tokens.size.sum())
    mass = (after.states * after.size[:, None]).sum(0)
    torch.testing.assert_close(mass, tokens.states.sum(0), atol=1e-4, rtol=1e-4)
    if after.sources is not None:
        torch.testing.assert_close(after.sources.sum(0), torch.ones(len(tokens)))


@QUICK
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(0, 999))
def test_new_tokens_are_booked(leaving, staying, new, seed):
    """Whatever is sent to stayers and new tokens, sizes add up to those of all whose row is not empty."""
    new = min(new, leaving)
    random = torch.Generator().manual_seed(seed)
    count = leaving + staying
    tokens = Tokens.fresh(torch.arange(count), torch.ones(count, dtype=torch.bool))
    tokens = tokens.with_states(torch.randn(count, 3, generator=random)).with_sources(count)
    gone = torch.randperm(count, generator=random)[:leaving]
    routes = Routes(
        torch.rand(leaving, staying, generator=random), torch.rand(leaving, new, generator=random), torch.arange(new)
    )
    for compress in (WeightedMerge(), WeightedSum()):
        after = compress(tokens, gone, routes)
        assert len(after) == staying + new
        torch.testing.assert_close(after.size.sum(), torch.tensor(float(count)))
        torch.testing.assert_close(after.sources.sum(1), after.size)
        assert len(set(after.index.tolist())) == len(after)


@QUICK
@given(scenes(4), st.randoms(use_true_random=False))
def test_settling_is_a_permutation(scene, random):
    tokens, _ = scene
    order = list(range(len(tokens)))
    random.shuffle(order)
    settled = tokens.take(torch.tensor(order)).in_given_order()
    assert settled.index.tolist() == tokens.index.tolist()
    assert settled.origins.tolist() == order
    assert torch.equal(settled.states, tokens.states[order])


@QUICK
@given(scenes(4), st.randoms(use_true_random=False))
def test_a_choice_by_states_follows_the_states(scene, random):
    """Permuting the patches permutes what merges with what: ToNearest looks at states, not at places."""
    tokens, evidence = scene
    shown = tokens.take(tokens.visual)
    order = list(range(len(shown)))
    random.shuffle(order)
    moved = shown.with_states(shown.states[order])
    leaving = torch.arange(0, len(shown), 2)
    places = torch.tensor([order.index(i) for i in leaving.tolist()])
    weights = ToNearest()(shown, leaving, evidence)
    again = ToNearest()(moved, places, evidence)
    targets = shown.rest(leaving)[weights.argmax(1)].tolist()
    assert [order[i] for i in moved.rest(places)[again.argmax(1)].tolist()] == targets


@QUICK
@given(st.integers(1, 9), st.integers(1, 40), st.floats(0, 1), st.sampled_from(["row", "matrix"]), st.integers(0, 99))
def test_paths_are_shares(rows, columns, quantile, scope, seed):
    strengths = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) + 1e-3
    weights = StrongestPaths(quantile=quantile, scope=scope).edges(strengths)
    total = weights.sum(1)
    assert bool(((total - 1).abs() < 1e-5).logical_or(total == 0).all())
    assert scope == "matrix" or bool((total > 0).all())
    assert bool((weights >= 0).all())


@QUICK
@given(
    st.integers(1, 200),
    st.sampled_from(
        [Keep(0.3), Even(0.2), Even(0.1, half=True), Geometric(0.1), EvitRate(rate=0.7), Fixed([0.7, 0.5, 0.2])]
    ),
    st.sampled_from([Vision([1, 3, 5]), Features(), Projected(), Decoder([1, 2, 5]), Decoder([0, 3, 4], inside=True)]),
)
def test_lengths_never_grow(total, schedule, site):
    if isinstance(schedule, Fixed) and isinstance(site, Features | Projected):
        return
    method = Method("m", (Reduction(Grid(), None, Discard(), site, schedule),))
    played = simulate(method, PrefillSizes(depth=6, total=total, blocks=8, used=7))
    lengths = [total, *played.tower, *played.visual, played.kept]
    assert lengths == sorted(lengths, reverse=True)
    assert played.kept >= 0
