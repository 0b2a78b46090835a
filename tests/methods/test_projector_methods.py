"""DivPrune, CDPruner, TRIM and TRSM on tokens that can be counted on fingers, and inside a tiny LLaVA."""

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from helpers.prompts import BATCHES, IMAGE, PATCHES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.cdpruner import ConditionalDpp, greedy_map, scale_relevance
from thinsight.methods.divprune import MaxMin, dispersed
from thinsight.methods.prompt_relevance import Relevance
from thinsight.methods.trim import AppendMean, MeanOfLeavers, SimilarityOutliers
from thinsight.methods.trsm import Retrieve
from thinsight.reduction.evidence import Evidence, Word
from thinsight.reduction.method import apply_reduction
from thinsight.reduction.tokens import Tokens

QUICK = settings(max_examples=25, deadline=None)
BARE = {"space": "llm", "rewriting": "none"}
"""What a model without tokenizer and text tower can do."""


def scene(visual: torch.Tensor, question: torch.Tensor | None = None, **provided) -> tuple[Tokens, Evidence]:
    """A prompt: one word, the image's tokens (N, width), the question's (M, width)."""
    count, width = visual.shape
    question = torch.zeros(1, width) if question is None else question
    states = torch.cat([torch.zeros(1, width), visual, question])
    mask = torch.zeros(len(states), dtype=torch.bool)
    mask[1 : count + 1] = True
    tokens = Tokens.fresh(torch.arange(len(states)), mask).with_states(states)
    providers = {name: lambda value=value: value for name, value in provided.items()}
    evidence = Evidence(0, 1, torch.where(mask, 0, -1), lambda: b"", sequence=tokens, providers=providers)
    return tokens.take(mask), evidence


def angles(*degrees: float) -> torch.Tensor:
    radians = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([radians.cos(), radians.sin()], 1)


def random(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def kept(chooser, visual, keep, question=None) -> list[int]:
    tokens, evidence = scene(visual, question)
    return tokens.rest(chooser(tokens, evidence, len(tokens) - keep)).tolist()


class TestMaxMin:
    def test_by_hand(self):
        # the nearest neighbour of 200 is 80 away, which is the farthest; 20 lies opposite to it; 120 is then 80 from
        # what is chosen and 90 only 70; 90 is 30 away at last, 0 only 20
        visual = angles(0, 10, 20, 90, 120, 200)
        distance = 1 - visual @ visual.T
        assert dispersed(distance, 4).tolist() == [5, 2, 4, 3]
        assert kept(MaxMin(), visual, 3) == [2, 4, 5]

    @QUICK
    @given(st.integers(2, 12), st.integers(0, 999))
    def test_each_step_is_the_best_there_is(self, count, seed):
        units = normalize(random(count, 5, seed), dim=-1)
        distance = 1 - units @ units.T
        order = dispersed(distance, count).tolist()
        nearest = [min(float(distance[i, j]) for j in range(count) if j != i) for i in range(count)]
        assert nearest[order[0]] == pytest.approx(max(nearest))
        for step in range(1, count):
            gap = {i: min(float(distance[i, j]) for j in order[:step]) for i in set(range(count)) - set(order[:step])}
            assert gap[order[step]] == pytest.approx(max(gap.values()))
        assert sorted(order) == list(range(count))

    def test_equal_tokens_leave_the_first(self):
        assert dispersed(torch.zeros(4, 4), 3).tolist() == [0, 1, 2]


class TestConditionalDpp:
    def test_by_hand(self):
        # as relevant as each other: the pair at a right angle; with the first one irrelevant: the other two
        visual = angles(0, 80, 90, 95)
        assert sorted(greedy_map(visual @ visual.T, 2).tolist()) == [0, 2]
        weight = torch.tensor([0.01, 1.0, 0.9, 1.0])
        assert sorted(greedy_map(weight[:, None] * (visual @ visual.T) * weight, 2).tolist()) == [1, 3]

    @QUICK
    @given(st.integers(3, 10), st.integers(0, 999))
    def test_each_step_adds_most_to_the_determinant(self, count, seed):
        units = normalize(random(count, count + 2, seed), dim=-1).double()
        weight = random(count, 1, seed + 1).abs().double()[:, 0] + 0.1
        kernel = weight[:, None] * (units @ units.T) * weight
        order = greedy_map(kernel, count - 1).tolist()
        for step in range(1, count - 1):
            left = set(range(count)) - set(order[:step])
            gain = {i: float(torch.linalg.det(kernel[[*order[:step], i]][:, [*order[:step], i]])) for i in left}
            assert gain[order[step]] == pytest.approx(max(gain.values()), rel=1e-9)

    def test_greedy_is_close_to_the_best_set(self):
        units = normalize(random(8, 6, 3), dim=-1).double()
        kernel = units @ units.T
        best = max(float(torch.linalg.det(kernel[list(s)][:, list(s)])) for s in combinations(range(8), 3))
        order = greedy_map(kernel, 3).tolist()
        assert float(torch.linalg.det(kernel[order][:, order])) > 0.63 * best

    def test_duplicates_are_spent_and_the_rest_is_filled_up_by_relevance(self):
        visual = angles(0, 0, 0, 90, 90)
        weight = torch.tensor([0.5, 1.0, 0.7, 0.8, 0.9])
        order = greedy_map(weight[:, None] * (visual @ visual.T) * weight, 4).tolist()
        assert order == [1, 4, 3, 2]
        assert len(set(greedy_map(torch.zeros(4, 4), 3).tolist())) == 3

    def test_scaling(self):
        torch.testing.assert_close(
            scale_relevance(torch.tensor([2.0, 3.0, 4.0])), torch.tensor([5e-7, 0.5 + 5e-7, 1 + 5e-7])
        )
        assert torch.equal(scale_relevance(torch.full((3,), 0.4)), torch.ones(3))

    def test_theta_weighs_relevance_against_diversity(self):
        visual, question = angles(0, 5, 60, 90), angles(0)
        told = ConditionalDpp(Relevance(aggregate="mean"), theta=0.0)
        assert kept(told, visual, 2, question) == [0, 3]  # diversity alone
        assert kept(replace(told, theta=0.5), visual, 2, question) == [0, 2]
        assert kept(replace(told, theta=0.97), visual, 2, question) == [0, 1]  # almost nothing but relevance


class TestRelevance:
    visual, question = angles(0, 45, 90, 180), angles(0, 90)

    @pytest.mark.parametrize(
        ("aggregate", "expected"),
        [
            ("max", [1, 0.7071, 1, 0]),
            ("mean", [0.5, 0.7071, 0.5, -0.5]),
            ("top2", [0.5, 0.7071, 0.5, -0.5]),
            ("pooled", [0.7071, 1, 0.7071, -0.7071]),
        ],
    )
    def test_aggregates(self, aggregate, expected):
        found = Relevance(aggregate=aggregate)(*scene(3 * self.visual, 2 * self.question))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)

    def test_products_and_signs(self):
        found = Relevance(unit=False, aggregate="mean", sign=-1)(*scene(3 * self.visual, 2 * self.question))
        torch.testing.assert_close(found, -6 * (self.visual @ self.question.T).mean(1), atol=1e-5, rtol=0)

    def test_words_are_means_of_their_tokens(self):
        # columns: 0 a word, 1-4 the image, 5-7 the question
        words = [Word("red", torch.tensor([5, 6]), " "), Word("circle", torch.tensor([7]))]
        shown = scene(self.visual, angles(0, 90, 180), words=words)
        found = Relevance(rewriting="words", aggregate="max")(*shown)
        torch.testing.assert_close(found, torch.tensor([0.7071, 1, 0.7071, 1]), atol=1e-4, rtol=0)
        (entity,) = Relevance(rewriting="rules", asked=["entities"]).embed(*shown).queries
        torch.testing.assert_close(entity, angles(90)[0], atol=1e-4, rtol=0)  # the mean of all three

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"space": "clips"}, "did you mean clip"),
            ({"rewriting": "rule"}, "did you mean rules"),
            ({"aggregate": "sum"}, "aggregate"),
            ({"sign": 2}, "sign is 1, -1 or auto"),
            ({"asked": []}, "at least one"),
        ],
    )
    def test_what_is_refused(self, fields, message):
        with pytest.raises(UserError, match=message):
            Relevance(**fields)

    def test_needs(self):
        assert Relevance().needs == {"text"}
        assert Relevance(rewriting="rules").needs == {"words"}
        assert Relevance(space="clip").needs == {"words", "text_tower", "features"}


class TestRetrieve:
    def test_each_query_retrieves_its_own(self):
        # the first query is close to the first three tokens, the second to the last one, but less so
        visual, question = angles(0, 2, 4, 70, 60), angles(1, 85)
        assert kept(Retrieve(), visual, 3, question) == [0, 1, 2]
        assert kept(Retrieve(each=1), visual, 3, question) == [0, 1, 3]
        assert kept(Retrieve(each=0.5), visual, 4, question) == [0, 1, 3, 4]

    def test_ties_go_to_the_first(self):
        assert kept(Retrieve(), angles(30, 30, 30, 30), 2, angles(0)) == [0, 1]

    @QUICK
    @given(st.integers(1, 10), st.integers(1, 4), st.integers(0, 10), st.integers(0, 99))
    def test_the_union_of_whole_budgets_is_the_plain_top(self, count, asked, keep, seed):
        keep = min(keep, count)
        visual, question = normalize(random(count, 4, seed), dim=-1), normalize(random(asked, 4, seed + 1), dim=-1)
        best = (visual @ question.T).amax(1).argsort(descending=True, stable=True)[:keep]
        assert kept(Retrieve(), visual, keep, question) == sorted(best.tolist())

    @QUICK
    @given(st.integers(2, 10), st.integers(0, 99), st.permutations(range(10)))
    def test_it_follows_the_tokens(self, count, seed, order):
        order = [i for i in order if i < count]
        visual, question = random(count, 4, seed), random(2, 4, seed + 1)
        there = {order[i] for i in kept(Retrieve(each=1), visual[order], count // 2, question)}
        assert there == set(kept(Retrieve(each=1), visual, count // 2, question))


class TestStandOut:
    def test_the_schedule_may_leave_it_open(self):
        visual = torch.tensor([[1.0], [1.1], [0.9], [1.0], [1.05], [6.0]])
        chooser = SimilarityOutliers(Relevance(aggregate="mean", unit=False))
        assert kept(chooser, visual, 2, torch.ones(1, 1)) == [1, 5]
        tokens, evidence = scene(visual, torch.ones(1, 1))
        assert tokens.rest(chooser(tokens, evidence, None)).tolist() == [5]
        inverse = SimilarityOutliers(Relevance(aggregate="mean", unit=False, sign=-1))
        assert kept(inverse, visual, 1, torch.ones(1, 1)) == [2]

    def test_a_ratio_may_lose_one(self):
        visual = torch.zeros(49, 1)
        visual[7] = 9.0
        tokens, evidence = scene(visual, torch.ones(1, 1))
        for down, left in ((False, [7]), (True, [])):  # int(49 * (1 / 49)) is 0
            chooser = SimilarityOutliers(Relevance(aggregate="mean", unit=False), down=down)
            assert tokens.rest(chooser(tokens, evidence, None)).tolist() == left


class TestMeanOfLeavers:
    @pytest.mark.parametrize("what", ["features", "mean"])
    def test_by_hand(self, what):
        visual, features = torch.arange(8.0).reshape(4, 2), torch.arange(4.0)[:, None]
        tokens, evidence = scene(visual, features=features, projector=lambda x: torch.cat([x, -x], 1))
        tokens, leaving = tokens.with_sources(6), torch.tensor([3, 1])
        draft = MeanOfLeavers(what)(tokens, leaving, evidence)
        expected = [[2.0, -2.0]] if what == "features" else [[4.0, 5.0]]
        assert draft.state.tolist() == expected
        after = AppendMean()(tokens, leaving, draft)
        assert after.index.tolist() == [1, 3, 2]  # named after the first leaver
        assert after.size.tolist() == [1, 1, 2]
        assert after.sources[2].tolist() == [0, 0, 1, 0, 1, 0]
        assert MeanOfLeavers(what).adds(3, 1) == 1
        assert MeanOfLeavers(what).adds(0, 1) == 0

    def test_a_budget_counts_it(self):
        for fields, count in (({}, 4), ({"fidelity": "official"}, 5)):
            (reduction,) = load_method("trim", keep=0.5, space="llm", merge="mean", **fields).reductions
            tokens, evidence = scene(random(8, 3, 0), random(2, 3, 1))
            assert len(apply_reduction(reduction, tokens, evidence, 11)) == count


SETTINGS = [
    ("divprune", {}),
    ("cdpruner", BARE),
    ("cdpruner", BARE | {"theta": 0.5}),
    ("trsm", {}),
    ("trsm", {"aggregate": "pooled", "each": 1}),
    ("trsm", {"merge": "mean"}),
    ("trsm", {"merge": "features"}),
    ("trim", BARE),
    ("trim", BARE | {"merge": "none"}),
    ("par", BARE),
    ("par", BARE | {"graph": "v", "merge": "weighted", "clusters": "window", "scope": "local"}),
]


@pytest.mark.parametrize(
    ("name", "fields"), SETTINGS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
@pytest.mark.parametrize("keep", [4, 0.25, 1])
def test_in_a_model(llava, name, fields, keep):
    """What is asked for enters every layer, of each sample on its own."""
    inputs, depth = BATCHES["unequal"], llava.config.text_config.num_hidden_layers
    with reduce(llava, load_method(name, keep=keep, **fields)) as trace:
        llava(**inputs)
    visual = (inputs["input_ids"] == IMAGE).sum(1).tolist()
    wanted = [min(n, round(keep * n) if isinstance(keep, float) else keep) for n in visual]
    assert trace.lengths == [[n] * depth for n in wanted]
    if "merge" in fields and fields["merge"] in ("mean", "features"):
        assert all(
            sorted(p for one in sources for p in one) == list(range(n))
            for sources, n in zip(trace.sources, visual, strict=True)
        )


def test_trim_equals_reducing_in_front_of_the_projector(llava):
    """TRIM as released: raw features chosen, the mean of the others appended, then all through the projector."""
    torch.manual_seed(1)
    inputs, matrix = BATCHES["one"], torch.randn(32, 8)
    text = torch.randn(1, 8)
    tower = SimpleNamespace(texts=lambda texts, device: [text for _ in texts], patches=lambda x: x @ matrix)
    words = [Word("question", torch.tensor([1]))]
    llava.question_reader = SimpleNamespace(clip=tower, text_sign=1, words=lambda *_: words)
    try:
        with reduce(llava, load_method("trim", fidelity="official", keep=0.3)) as trace:
            logits = llava(**inputs).logits[:, -1]
    finally:
        del llava.question_reader
    features = llava.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    score = (-(features @ matrix) @ text[0]).softmax(0)
    stays = score.topk(int(PATCHES * 0.3)).indices.sort().values
    rest = torch.tensor([i for i in range(PATCHES) if i not in stays])
    image = llava.model.multi_modal_projector(torch.cat([features[stays], features[rest].mean(0, keepdim=True)]))
    ids = inputs["input_ids"][0]
    words = llava.get_input_embeddings()(ids)
    first = int((ids == IMAGE).nonzero()[0])
    embeds = torch.cat([words[:first], image, words[first + PATCHES :]])[None]
    torch.testing.assert_close(logits, llava(inputs_embeds=embeds).logits[:, -1], atol=1e-4, rtol=0)
    assert trace.kept[0][:-1] == stays.tolist()


@pytest.mark.parametrize("name", ["cdpruner", "trim", "par"])
@pytest.mark.parametrize("fields", [{"space": "clip"}, {"space": "clip", "rewriting": "words"}])
def test_a_bare_model_names_the_substitute(llava, name, fields):
    known = load_method(name).fields
    with pytest.raises(UserError, match="space=llm") as error, reduce(llava, load_method(name, **fields)):
        llava(**BATCHES["one"])
    assert "\n" not in str(error.value)
    assert known["space"] in ("clip", "llm")
