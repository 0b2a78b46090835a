"""SparseVLM in both versions: raters, the rotary prior and recycling by hand, counts on a tiny LLaVA."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.prompts import BATCHES
from helpers.samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.sparsevlm import Recycle, TextRaters, density_peaks, rater_relevance, raters, rotary_prior
from thinsight.reduction.attention import LayerAttention
from thinsight.reduction.stages import Discard, WeightedMerge

FEW = settings(max_examples=25, deadline=None)


def rated(tokens, evidence) -> list[int]:
    """The text tokens that vote."""
    text, votes = raters(tokens.index, evidence)
    assert set(votes.tolist()) <= {0.0, 1.0}
    return text[votes > 0].tolist()


def test_raters_by_hand():
    """Two visual tokens and three words: exp(2), exp(0), exp(0) from one, exp(1), exp(1), exp(0) from the other."""
    embeds = torch.tensor([[2.0, 0], [1, 1], [1, 0], [0, 1], [0, 0]])
    embeds[1] = torch.tensor([1.0, 1.0])
    tokens, evidence = sample(2, before=0, after=3, embeddings=embeds)
    e = math.e
    one, two = e**2 + 2, 2 * e + 1
    expected = [(e**2 / one + e / two) / 2, (1 / one + e / two) / 2, (1 / one + 1 / two) / 2]
    assert rater_relevance(embeds, tokens.index, evidence.question).tolist() == pytest.approx(expected)
    assert rated(tokens, evidence) == [2]
    assert evidence.notes.raters.tolist() == [1, 0, 0]  # the same in every layer, whatever is left of the picture


def test_raters_where_nobody_stands_out():
    tokens, evidence = sample(3, after=1, embeddings=torch.ones(6, 2))
    assert rated(tokens, evidence) == [5]
    tokens, evidence = sample(3, after=0, embeddings=torch.ones(5, 2))
    assert rated(tokens, evidence) == [4]
    tokens, evidence = sample(3, after=2, embeddings=torch.ones(7, 2))
    assert rated(tokens, evidence) == [5, 6]


def test_scores_by_hand():
    """Words 4 and 5 rate four visual tokens under two heads; one head looks at words only and is left out."""
    attended = torch.zeros(2, 7, 7)
    attended[0, 4:6, :4] = torch.tensor([[4.0, 0, 2, 2], [0.0, 2, 2, 0]])
    attended[1, 4:6, 6] = 1.0
    tokens, evidence = sample(4, before=0, after=3, attended=attended)
    evidence.notes.raters = torch.tensor([1.0, 1.0, 0.0])
    assert TextRaters().scores(tokens.index, evidence).tolist() == [1, 0.5, 1, 0.5]
    assert TextRaters(heads=1).scores(tokens.index, evidence).tolist() == [2, 1, 2, 1]
    assert TextRaters(heads=14).chosen(attended.sum(1)).tolist() == [0, 1]
    assert TextRaters()(tokens, evidence, 2).tolist() == [1, 3]


def rotating(count: int, width: int) -> LayerAttention:
    """A layer of ``count`` tokens with rotary tables, and nothing else."""
    angle = torch.arange(count)[:, None] * 10000 ** (-torch.arange(0, width, 2) / width)
    tables = tuple(torch.cat([table, table], 1) for table in (angle.cos(), angle.sin()))
    return LayerAttention(
        torch.arange(count), lambda at: None, torch.zeros(1, count, width), width**-0.5, True, tables=tables
    )


def test_the_prior_depends_on_distance_alone():
    """2 / sqrt(d) sum cos(distance theta), with theta 1 and 1/100 at width 4."""
    prior = rotary_prior(rotating(9, 4), torch.tensor([8, 5]), torch.tensor([5, 2, 3]))
    expected = [[math.cos(n) + math.cos(n / 100) for n in row] for row in ((3, 6, 5), (0, 3, 2))]
    torch.testing.assert_close(prior, torch.tensor(expected))


@pytest.mark.parametrize(("width", "least"), [(128, 0.1), (4, -1.0)])
def test_the_guard_does_nothing_to_wide_heads(width, least):
    """Heads of LLaVA's width stay above a tenth of their value at distance 0 for 700 tokens; narrow ones do not."""
    prior = rotary_prior(rotating(700, width), torch.tensor([699]), torch.arange(700)) / width**0.5
    assert prior.max() == pytest.approx(1)
    assert (prior.min() >= 0.1) == (least > 0)
    assert prior.min() >= least


def test_clusters_by_hand():
    """Two dense groups on a line and one far away: 0 and 1 are as dense as each other, and 0 is first."""
    states = torch.tensor([0.0, 0.1, 10.0, 10.1, 0.2, 40.0])[:, None]
    centre, cluster = density_peaks(states, 2)
    assert centre.tolist() == [0, 2]
    assert cluster.tolist() == [0, 0, 1, 1, 0, 1]
    assert density_peaks(torch.zeros(4, 3), 2)[1].tolist() == [0, 1, 0, 0]
    assert [part.tolist() for part in density_peaks(torch.ones(1, 3), 1)] == [[0], [0]]


@FEW
@given(st.integers(0, 30), st.integers(1, 30), st.floats(0, 1), st.integers(1, 12), st.integers(0, 99))
def test_recycling_conserves_what_it_takes(keep, leave, share, members, seed):
    """As many new tokens as announced, each the plain mean of its members; stayers as they were."""
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(keep + leave, 4, generator=random)
    tokens, evidence = sample(keep + leave, before=0, after=0, states=states)
    tokens = tokens.with_sources(keep + leave)
    leaving = torch.randperm(keep + leave, generator=random)[:leave]
    recycle = Recycle(share, members)
    routes = recycle(tokens, leaving, evidence)
    merged = WeightedMerge(sized=False)(tokens, leaving, routes)
    new = len(merged) - keep
    assert new == recycle.adds(leave, keep)
    pooled = min(int(share * leave) + 1, leave) if share > 0 else 0
    assert new == (min(pooled // members + 1, pooled) if keep else 0)
    assert torch.equal(merged.states[:keep], states[tokens.rest(leaving)])
    pool = leaving[: recycle.pool(leave)]
    assert merged.size.sum() == (keep + len(pool) if keep else 0)
    for token in range(keep, len(merged)):
        part = merged.sources[token].nonzero().squeeze(1)
        assert set(part.tolist()) <= set(pool.tolist())
        torch.testing.assert_close(merged.states[token], states[part].mean(0))
        assert merged.index[token] in part


def test_a_share_of_nothing_recycles_nothing(llava):
    """SparseVLM with recycle=0 is pruning by the same scores: no token more, no state changed."""
    method = load_method("sparsevlm", recycle=0.0)
    (one,) = method.reductions
    assert [one.correlate.pool(n) for n in (0, 1, 30)] == [0, 0, 0]
    bare = replace(method, reductions=(replace(one, correlate=None, compress=Discard()),))
    found = []
    for variant in (method, bare):
        with torch.no_grad(), reduce(llava, variant) as trace:
            found.append((llava(**BATCHES["two, padded"]).logits, trace.lengths, trace.kept))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]
    assert all(tokens == [[patch] for patch in kept] for tokens, kept in zip(trace.sources, trace.kept, strict=True))


def test_recycling_refuses():
    for wrong in ({"share": 1.5}, {"members": 0}):
        with pytest.raises(UserError, match="recycling takes"):
            Recycle(**wrong)


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm_v2"])
@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
def test_lengths(llava, name, inputs):
    """Before layers 1, 2 and 3 of 6, where the published fractions fall; recycled tokens come on top."""
    method = load_method(name)
    layers = method.resolve(6).reductions[0].site.layers
    assert layers == (1, 2, 3)
    with reduce(llava, method) as trace:
        llava(**inputs)
    for number, total in enumerate((inputs["input_ids"] == llava.config.image_token_id).sum(1).tolist()):
        lengths = [total]
        for stage in range(3):
            lengths.append(sum(method.reductions[0].tokens_left(lengths[-1], stage, 3, total)) if total else 0)
        assert trace.lengths[number] == lengths + lengths[-1:] * 2
        merged = [patch for patches in trace.sources[number] for patch in patches]
        assert len(merged) == len(set(merged))  # nobody goes to two places


def test_as_many_as_before(llava):
    """One leaves and one is made of it: nothing gets shorter, and yet the order is another."""
    inputs = BATCHES["one"]
    fields = {"layers": [2], "counts": [16], "table": [[192, 300]]}
    with reduce(llava, load_method("sparsevlm", fidelity="official", **fields)) as trace:
        logits = llava(**inputs).logits
    assert trace.lengths == [[16] * 6]
    assert sorted(trace.kept[0]) == list(range(16))
    assert trace.kept[0] != sorted(trace.kept[0])
    assert not torch.equal(logits, llava(**inputs).logits)


def test_published_layers():
    for name in ("sparsevlm", "sparsevlm_v2"):
        assert load_method(name).resolve(32).reductions[0].site.layers == (3, 7, 16)
        assert load_method(name).resolve(12).reductions[0].site.layers == (1, 3, 6)
    assert load_method("pyramiddrop").resolve(32).reductions[0].site.layers == (8, 16, 24)
