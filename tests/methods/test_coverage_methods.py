"""SCOPE, TOPS, MMTok, PriorTR, VScan, HoloV and Cen-Prune: by hand, step by step, and where one is an older method."""

import pytest
import torch
from helpers.prompts import BATCHES, PATCHES
from helpers.samples import sample
from helpers.tower_tokens import image_evidence, noise, patches, run, sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.cdpruner import greedy_map, scale_relevance
from thinsight.methods.cen import Centred
from thinsight.methods.divprune import dispersed
from thinsight.methods.greedy import Greedy, LookingText
from thinsight.methods.holov import CropQuota, quotas
from thinsight.methods.mmtok import Coverage, covering
from thinsight.methods.priortr import Surprise
from thinsight.methods.vscan import LocalScan
from thinsight.reduction.schedules import Times
from thinsight.reduction.ties import cosines

QUICK = settings(max_examples=25, deadline=None)


def angles(*degrees: float) -> torch.Tensor:
    radians = torch.tensor(degrees).double() * torch.pi / 180
    return torch.stack([radians.cos(), radians.sin()], 1)


def scene(relevance, states, classes=1):
    """One picture behind a class token that attends to its patches as ``relevance`` says."""
    tokens = sequence(torch.cat([torch.zeros(classes, states.shape[1]), states.float()]))
    return tokens, image_evidence(tokens, row=torch.tensor([[0.0] * classes + list(relevance)]))


class TestGreedy:
    def test_scope_by_hand(self):
        """The patch at 90 degrees covers 0.17 + 1, twice; then the two others cover as much as each other."""
        relevance, similarity = torch.tensor([1.0, 1.0, 2.0]).double(), cosines(angles(0, 10, 90))
        scope = Greedy(combine="product", diversity=0.0)
        assert scope.chosen(relevance, similarity, 2).tolist() == [2, 0]
        relevance[2] = 1.8  # 2.11 against 0.98 + 1 + 0.17
        assert scope.chosen(relevance, similarity, 1).tolist() == [1]

    @QUICK
    @given(st.integers(2, 9), st.integers(0, 999))
    def test_scope_is_weighted_facility_location(self, count, seed):
        similarity = cosines(noise(count, 4, seed=seed))
        relevance = noise(count, seed=seed + 1).abs().double() + 0.1
        order = Greedy(combine="product", diversity=0.0).chosen(relevance, similarity, count).tolist()

        def covered(chosen):
            best = [max([0.0, *(float(similarity[u, v]) for v in chosen)]) for u in range(count)]
            return sum(best)

        for step, one in enumerate(order):
            left = set(range(count)) - set(order[:step])
            gain = {v: float(relevance[v]) * (covered([*order[:step], v]) - covered(order[:step])) for v in left}
            assert gain[one] == pytest.approx(max(gain.values()), abs=1e-5)
        assert sorted(order) == list(range(count))

    @QUICK
    @given(st.integers(2, 12), st.integers(0, 999))
    def test_diversity_alone_is_divprune(self, count, seed):
        similarity = cosines(noise(count, 5, seed=seed))
        alone = Greedy(relevance=0.0, coverage=0.0, start="isolated")
        assert torch.equal(
            alone.chosen(torch.ones(count).double(), similarity, count), dispersed(1 - similarity, count)
        )

    def test_relevance_alone_is_fastervlm(self):
        scores = [0.1, 0.3, 0.05, 0.25, 0.2]
        tokens, evidence = scene(scores, noise(5, 4))
        rest = Greedy(coverage=0.0, diversity=0.0)(tokens.shown(visual=True), evidence, 2)
        expected = run(load_method("fastervlm", keep=3).reductions[0], tokens, evidence)
        assert sorted(set(range(5)) - set(rest.tolist())) == patches(expected)

    def test_each_step_of_tops_is_the_best_there_is(self):
        similarity, relevance = cosines(noise(8, 3, seed=5)), noise(8, seed=6).abs().double()
        order = Greedy(relevance=1.0, coverage=0.5, diversity=0.7).chosen(relevance, similarity, 6).tolist()
        assert order[0] == int(relevance.argmax())
        for step in range(1, 6):
            chosen, left = order[:step], [v for v in range(8) if v not in order[:step]]
            near = {u: max(float(similarity[u, w]) for w in chosen) for u in range(8)}
            parts = [
                [float(relevance[v]) for v in left],
                [sum(max(0.0, float(similarity[u, v]) - near[u]) for u in range(8)) for v in left],
                [1 - near[v] for v in left],
            ]
            scaled = [[(x - min(p)) / (max(p) - min(p)) if max(p) > min(p) else 0.0 for x in p] for p in parts]
            total = [a + 0.5 * b + 0.7 * c for a, b, c in zip(*scaled, strict=True)]
            assert left.index(order[step]) == max(range(len(left)), key=total.__getitem__)

    def test_text_that_looks(self):
        """Of three rows one does not look at the picture."""
        attended = torch.zeros(1, 6, 6)
        attended[0, 3, 1:3], attended[0, 4, 1:3], attended[0, 5, 1:3] = (
            torch.tensor([0.6, 0.2]),
            torch.tensor([0.0, 0.1]),
            torch.tensor([0.2, 0.6]),
        )
        tokens, evidence = sample(2, before=1, attended=attended)
        torch.testing.assert_close(LookingText()(evidence, tokens.index), torch.tensor([0.4, 0.4]))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"combine": "mean"},
            {"start": "first"},
            {"relevance": -1},
            {"relevance": 0, "coverage": 0, "diversity": 0},
        ],
    )
    def test_wrong_values(self, wrong):
        with pytest.raises(UserError):
            Greedy(**wrong)


class TestMmtok:
    @QUICK
    @given(st.integers(1, 5), st.integers(2, 8), st.integers(0, 999))
    def test_each_step_covers_most(self, targets, count, seed):
        covers = noise(targets, count, seed=seed).abs().double()
        order = covering(covers, count).tolist()
        for step in range(count):
            left = set(range(count)) - set(order[:step])
            value = {v: float(covers[:, [*order[:step], v]].amax(1).sum()) for v in left}
            assert value[order[step]] == pytest.approx(max(value.values()), rel=1e-4)
        assert sorted(order) == list(range(count))

    def test_the_question_or_the_picture(self):
        """One question token at 0 degrees; four patches near 90 and one at 0."""
        states = torch.cat([torch.zeros(1, 2), angles(80, 85, 90, 0, 95).float(), angles(0).float()])
        tokens, evidence = sample(5, before=1, after=1, states=states, features=states[1:6], embeddings=states)

        def first(alpha):
            return tokens.rest(Coverage(alpha=alpha)(tokens, evidence, 4)).tolist()

        assert first(0.0) == [3]
        assert first(1.0)[0] in (0, 1, 2, 4)
        for wrong in ({"alpha": 2}, {"visual": "tower"}, {"text_temperature": 0}):
            with pytest.raises(UserError):
                Coverage(**wrong)


def test_priortr_by_hand():
    """The token behind the picture looks at patch 0, the question at patches 0 and 2; patch 2 alone is news."""
    attended = torch.zeros(1, 7, 7)
    attended[0, 4, 1:4] = torch.tensor([0.8, 0.1, 0.1])
    attended[0, 5, 1:4] = attended[0, 6, 1:4] = torch.tensor([0.4, 0.05, 0.45]) / 2  # of sum one only when normalised
    tokens, evidence = sample(3, before=1, attended=attended)
    assert Surprise()(tokens, evidence, 2).tolist() == [1, 0]  # -0.03 and -0.38 against 0.75
    attended[0, 6, 1:4] = torch.tensor([0.1, 0.8, 0.1])
    assert Surprise(question="last")(tokens, evidence, 2).tolist() == [2, 0]
    with pytest.raises(UserError, match="row of the question"):
        Surprise(question="first")


class TestHolov:
    def test_quotas(self):
        weight, sizes = torch.tensor([5.0, 3.0, 2.0]).double(), torch.tensor([4.0, 4.0, 4.0]).double()
        assert quotas(weight, sizes, 10, hand_on=False).tolist() == [4, 3, 2]
        assert quotas(weight, sizes, 10).tolist() == [4, 3, 2]  # the one that is left is no whole share of either
        assert quotas(weight, sizes, 11, hand_on=False).tolist() == [4, 3, 2]
        assert quotas(weight, sizes, 11).tolist() == [4, 4, 3]
        assert quotas(weight, sizes, 12).tolist() == [4, 4, 4]

    @QUICK
    @given(st.integers(1, 36), st.integers(0, 999))
    def test_the_budget_is_met_and_each_crop_keeps_its_best(self, keep, seed):
        scores = noise(36, seed=seed).abs().tolist()
        tokens, evidence = scene(scores, noise(36, 4, seed=seed + 1))
        shown = tokens.shown(visual=True)
        rule = CropQuota(crops=9)
        stays = set(shown.rest(rule(shown, evidence, 36 - keep)).tolist())
        assert len(stays) == keep
        member = rule.members(shown, evidence).tolist()
        assert member[:8] == [0, 0, 1, 1, 2, 2, 0, 0]
        assert CropQuota(crops=9, shape="runs").members(shown, evidence).tolist() == [i // 4 for i in range(36)]

    def test_the_released_code_looks_at_attention_alone_inside_a_crop(self):
        scores = torch.linspace(1, 2, 16).tolist()
        tokens, evidence = scene(scores, noise(16, 4, seed=3))
        method = load_method("holov", keep=8, crops=4, fidelity="official")
        stay = patches(run(method.reductions[0], tokens, evidence))
        assert len(stay) == 8
        assert {3, 7, 10, 11, 14, 15} <= set(stay)  # the last of each run, two of those that earned two

    def test_wrong_values(self):
        for wrong in ({"crops": 8}, {"crops": 0}, {"shape": "rows"}, {"within": "variance"}):
            with pytest.raises(UserError):
                CropQuota(**wrong)


class TestVscan:
    def test_windows_share_half_of_the_tokens(self):
        """Sixteen patches in four windows, four tokens in front of the decoder: two of each scan at most."""
        scores = [16.0 - i for i in range(16)]
        tokens, evidence = scene(scores, noise(16, 4))
        shown = tokens.shown(visual=True)
        assert LocalScan(Times(2, (4,)), windows=4)(shown, evidence, None).tolist() == []
        assert (evidence.notes.ranked - 1).tolist() == [0, 2, 8, 10]
        for wrong in ({"share": 2}, {"windows": 8}, {"windows": 0}):
            with pytest.raises(UserError):
                LocalScan(**wrong)

    def test_what_leaves_is_averaged_into_the_nearest(self, llava):
        """Four visual tokens in front of the decoder are made of all, and two are left from the middle on."""
        with reduce(llava, load_method("vscan", keep=2, times=2, windows=1)) as trace:
            llava(**BATCHES["one"])
        depth = llava.config.text_config.num_hidden_layers
        assert trace.lengths[0][: depth // 2] == [4] * (depth // 2)
        assert trace.lengths[0][depth // 2 :] == [2] * (depth - depth // 2)
        members = [own for _, own in trace.steps["before layer 0"][0]]
        assert sorted(patch for one in members for patch in one) == list(range(PATCHES))


class TestCentred:
    def test_neither_is_the_base_itself(self):
        states = noise(9, 5)
        tokens, evidence = sample(9, before=1, states=torch.cat([torch.zeros(1, 5), states, torch.zeros(3, 5)]))
        plain = Centred(centre=False, distinct=False)(tokens, evidence, 5)
        assert tokens.rest(plain).tolist() == sorted(dispersed(1 - cosines(states), 4).tolist())

    def test_by_hand(self):
        """Behind a common direction lie four directions at right angles, of which two are opposite: both stay."""
        small = torch.tensor([[0.1, 0.0], [0.09, 0.02], [-0.1, 0.0], [0.0, 0.001]])
        states = torch.cat([torch.ones(4, 1), small], 1)
        tokens, evidence = sample(4, before=1, states=torch.cat([torch.zeros(1, 3), states, torch.zeros(3, 3)]))
        assert tokens.rest(Centred(distinct=False)(tokens, evidence, 2)).tolist() != []
        mean = states.double().mean(0)
        weight = scale_relevance(1 - normalize(states.double(), dim=-1) @ normalize(mean, dim=0))
        similar = cosines(states.double() - mean)
        expected = sorted(dispersed(weight[:, None] * (1 - similar) * weight, 2).tolist())
        assert tokens.rest(Centred()(tokens, evidence, 2)).tolist() == expected
        assert 3 not in expected  # next to the mean, so no token of its own

    def test_cdpruner_with_weights(self):
        states = noise(6, 4)
        tokens, evidence = sample(6, before=1, states=torch.cat([torch.zeros(1, 4), states, torch.zeros(3, 4)]))

        def relevance(*_):
            return torch.ones(6)

        relevance.needs = frozenset()
        chosen = Centred("cdpruner", relevance=relevance)(tokens, evidence, 3)
        mean = states.double().mean(0)
        weight = scale_relevance(1 - cosines(states, mean[None])[:, 0])
        kernel = weight[:, None] * cosines(states.double() - mean) * weight
        assert tokens.rest(chosen).tolist() == sorted(greedy_map(kernel, 3).tolist())
        with pytest.raises(UserError, match="base"):
            Centred(base="fastv")
