"""PAR: graph, retrieval, router and rewriting on a few tokens; on pocket, the sign test and the shuffled questions."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from thinsight import load_method, load_model, reduce
from thinsight.errors import UserError
from thinsight.methods.par import (
    Clusters,
    PromptAware,
    Router,
    ToAccepted,
    greedy_accept,
    lowest_accepting,
    merge_compress,
    merge_correlate,
)
from thinsight.methods.prompt_relevance import QueriesAndTokens, Relevance
from thinsight.papers.par.calibration import shuffled
from thinsight.papers.par.calibration_set import CalibrationSet
from thinsight.papers.par.sign_test import SIGNED, inside, sign_test
from thinsight.paths import ROOT
from thinsight.pocket.scenes import TEST_SEEDS
from thinsight.reduction.evidence import Evidence, Word
from thinsight.reduction.stages import Discard
from thinsight.reduction.tokens import Tokens
from thinsight.tasks.rows import collate, training_rows, training_task

QUICK = settings(max_examples=25, deadline=None)
GRID = torch.tensor([[0, i // 3, i % 3] for i in range(9)])


def chain(*similar: tuple[int, int], count: int = 6) -> torch.Tensor:
    """Similarities: 0.9 for the pairs named, else 0.1."""
    found = torch.full((count, count), 0.1)
    for i, j in similar:
        found[i, j] = found[j, i] = 0.9
    return found.fill_diagonal_(1.0)


def angles(*degrees: float) -> torch.Tensor:
    radians = torch.tensor(degrees) * torch.pi / 180
    return torch.stack([radians.cos(), radians.sin()], 1)


class TestClusters:
    def test_components(self):
        found = Clusters(threshold=0.5)(chain((0, 2), (2, 4), (1, 5)), GRID[:6])
        assert found.tolist() == [0, 1, 0, 2, 0, 1]

    def test_a_giant_component_gives_way(self):
        # four in a chain of eight neighbours each would be one of 4 / 6; with one neighbour each only mutual pairs stay
        similarity = chain((0, 1), (1, 2), (2, 3))
        similarity[0, 1] = similarity[1, 0] = 0.95
        similarity[2, 3] = similarity[3, 2] = 0.95
        assert Clusters(threshold=0.5, giant=1.0)(similarity, GRID[:6]).tolist() == [0, 0, 0, 0, 1, 2]
        assert Clusters(threshold=0.5, neighbours=1)(similarity, GRID[:6]).tolist() == [0, 0, 1, 1, 2, 3]
        told = Clusters(rule="mutual_knn", threshold=0.5, neighbours=1)
        assert told(similarity, GRID[:6]).tolist() == [0, 0, 1, 1, 2, 3]

    def test_window(self):
        similarity = torch.ones(9, 9)
        assert Clusters("window", 0.5, reach=1)(similarity, GRID).tolist() == [0] * 9  # neighbours chain
        apart = torch.cat([GRID[:3], GRID[6:]])
        assert Clusters("window", 0.5, reach=1)(similarity[:6, :6], apart).tolist() == [0, 0, 0, 1, 1, 1]
        images = GRID[:6].clone()
        images[3:, 0] = 1
        assert Clusters("window", 0.5)(similarity[:6, :6], images).tolist() == [0, 0, 0, 1, 1, 1]

    def test_quantile(self):
        # 15 pairs: the largest one is the 1.0 quantile, the next the 13/14 one
        similarity = chain()
        for value, (i, j) in zip((0.8, 0.7, 0.6), ((0, 1), (2, 3), (4, 5)), strict=True):
            similarity[i, j] = similarity[j, i] = value
        assert Clusters(threshold=1.0, measure="quantile")(similarity, GRID[:6]).tolist() == [0, 0, 1, 2, 3, 4]
        assert Clusters(threshold=13 / 14, measure="quantile")(similarity, GRID[:6]).tolist() == [0, 0, 1, 1, 2, 3]

    def test_none_and_refusals(self):
        assert Clusters("none")(torch.ones(4, 4), GRID[:4]).tolist() == [0, 1, 2, 3]
        with pytest.raises(UserError, match="did you mean components"):
            Clusters("component")
        with pytest.raises(UserError, match="no quantile"):
            Clusters(threshold=1.2, measure="quantile")

    @QUICK
    @given(st.integers(2, 12), st.floats(-1, 1), st.integers(0, 99))
    def test_components_by_walking(self, count, threshold, seed):
        units = normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)
        similarity = units @ units.T
        found = Clusters(threshold=threshold, giant=1.0)(similarity, torch.zeros(count, 3)).tolist()
        reach = (similarity.double() >= threshold) | torch.eye(count, dtype=torch.bool)
        for _ in range(count):
            reach = (reach.float() @ reach.float()) > 0
        assert all((found[i] == found[j]) == bool(reach[i, j]) for i in range(count) for j in range(count))


class TestRouter:
    relevance = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.1, 0.0])
    similarity = chain((0, 1), (2, 3))
    clusters = torch.tensor([0, 0, 1, 1, 2, 2])
    all = torch.ones(6, dtype=torch.bool)

    def rows(self, candidates=None, keep=None, **fields) -> list[int]:
        router = Router(**{"similar": 0.2, "redundant": 0.5, "least": 1} | fields)
        candidates = self.all if candidates is None else torch.tensor(candidates)
        return router(self.relevance, self.similarity, self.clusters, candidates, keep).tolist()

    def test_both_thresholds(self):
        assert self.rows() == [0, 2]
        assert self.rows(redundant=0.95) == [0, 1, 2, 3]
        assert self.rows(similar=0.05) == [0, 2, 4]
        assert self.rows(candidates=[False, True, True, True, True, True]) == [1, 2]

    def test_floor_and_ceiling(self):
        assert self.rows(least=4) == [0, 1, 2, 3]  # filled by relevance
        assert self.rows(candidates=[True, False, False, False, True, False], least=3) == [0, 1, 4]  # candidates first
        assert self.rows(redundant=0.95, most=3) == [0, 1, 2]
        assert self.rows(least=20) == [0, 1, 2, 3, 4, 5]

    def test_local_keeps_one_of_each_cluster(self):
        assert self.rows(scope="local") == [0, 2, 4]
        assert self.rows(scope="local", candidates=[True, True, False, False, False, True]) == [0, 5]

    @pytest.mark.parametrize("keep", range(7))
    def test_as_many_as_are_asked_for(self, keep):
        for scope in ("global", "local"):
            assert len(self.rows(keep=keep, scope=scope)) == keep

    def test_the_distinctive_come_first(self):
        assert self.rows(keep=2) == [0, 2]
        assert self.rows(keep=4) == [0, 1, 2, 3]
        assert self.rows(keep=5) == [0, 1, 2, 3, 4]  # the fifth is below the threshold, and is filled in
        assert self.rows(keep=3, similar=0.0) == [0, 2, 4]

    @QUICK
    @given(st.integers(1, 12), st.floats(-1, 1), st.floats(0, 1), st.integers(0, 99))
    def test_what_is_accepted(self, count, redundant, similar, seed):
        random = torch.Generator().manual_seed(seed)
        units = normalize(torch.randn(count, 3, generator=random), dim=-1)
        similarity, relevance = units @ units.T, torch.rand(count, generator=random)
        router = Router(similar, redundant, least=1)
        alone = torch.zeros(count, dtype=torch.int64)
        rows = router(relevance, similarity, alone, torch.ones(count, dtype=torch.bool), None).tolist()
        best = int(relevance.argmax())
        assert best in rows
        assert all(float(relevance[i]) >= similar for i in rows if i != best)
        assert all(float(similarity[i, j]) <= redundant for i in rows for j in rows if i != j)
        for i in set(range(count)) - set(rows):  # each of the others is too little or too like
            like = any(similarity[i, j] > redundant and relevance[j] >= relevance[i] for j in rows)
            assert relevance[i] < similar or like

    def test_greedy_pass(self):
        apart = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.9], [0.1, 0.9, 1.0]])
        assert greedy_accept(apart, torch.ones(3, dtype=torch.bool), 0.5).tolist() == [True, False, True]
        assert greedy_accept(apart, torch.tensor([False, True, True]), 0.5).tolist() == [False, True, False]

    @settings(max_examples=150, deadline=None)
    @given(st.integers(1, 12), st.integers(0, 12), st.integers(2, 40), st.booleans(), st.integers(0, 9999))
    def test_the_lowest_threshold_of_all(self, count, keep, grades, local, seed):
        """By trying every similarity there is, from the lowest on; many are equal where there are few ``grades``."""
        random = torch.Generator().manual_seed(seed)
        apart = torch.randint(0, grades, (count, count), generator=random).double() / grades
        apart = torch.maximum(apart, apart.T)
        if local:
            cluster = torch.randint(0, 3, (count,), generator=random)
            apart[cluster[:, None] != cluster] = -torch.inf
        asks = torch.rand(count, generator=random) < 0.8
        tried = [greedy_accept(apart, asks, level) for level in [-1e9, *apart.unique().tolist(), 1e9] if level > -1e10]
        expected = next((taken for taken in tried if int(taken.sum()) >= keep), tried[-1])
        assert torch.equal(lowest_accepting(apart, asks, keep), expected)

    def test_the_number_accepted_is_not_monotone(self):
        """At 0.3 the second candidate is refused and three others come in; at 0.6 it is accepted and keeps them out."""
        apart = torch.full((5, 5), 0.1)
        apart[0, 1] = apart[1, 0] = 0.5
        apart[1, 2:] = apart[2:, 1] = 0.7
        found = [int(greedy_accept(apart, torch.ones(5, dtype=torch.bool), level).sum()) for level in (0.3, 0.6, 0.8)]
        assert found == [4, 2, 5]
        assert lowest_accepting(apart, torch.ones(5, dtype=torch.bool), 3).tolist() == [True, False, True, True, True]

    def test_refusals(self):
        with pytest.raises(UserError, match="k_min=5 and k_max=4"):
            Router(least=5, most=4)
        with pytest.raises(UserError, match="did you mean global"):
            Router(scope="globl")
        with pytest.raises(UserError, match="merge"):
            merge_correlate("means")


def scene(visual: torch.Tensor, *question: torch.Tensor, words: list[Word] = ()) -> tuple[Tokens, Evidence]:
    """The image's tokens first, then the question's."""
    count = len(visual)
    states = torch.cat([visual, *question])
    mask = torch.arange(len(states)) < count
    tokens = Tokens.fresh(torch.arange(len(states)), mask).with_states(states)
    providers = {"words": lambda: words}
    evidence = Evidence(0, 1, torch.where(mask, 0, -1), lambda: b"", sequence=tokens, providers=providers)
    return tokens.take(mask).with_sources(len(states)), evidence


class TestPromptAware:
    visual = angles(0, 3, 40, 43, 90, 180)
    par = PromptAware(Relevance(), "v", Clusters(threshold=0.99), tau_e=0.3, router=Router(0.2, 0.99, least=1))

    def test_by_hand(self):
        """Clusters 0-1, 2-3, 4, 5; a question at 45 degrees wants the second one, then the first and third."""
        tokens, evidence = scene(self.visual, angles(45))
        rows = tokens.rest(self.par(tokens, evidence, None)).tolist()
        assert rows == [0, 3, 4] or rows == [1, 3, 4]
        found = evidence.notes.routing
        assert found.clusters.tolist() == [0, 0, 1, 1, 2, 3]
        assert found.candidates.tolist() == [True] * 5 + [False]
        narrow = replace(self.par, tau_e=0.95)
        assert tokens.rest(narrow(tokens, evidence, None)).tolist() == [3]

    @pytest.mark.parametrize(("prototype", "expected"), [("max", 1.0), ("mean", 0.5), ("members", 1.0)])
    def test_prototypes(self, prototype, expected):
        sides = QueriesAndTokens(angles(0, 90), angles(0, 0, 90))
        score = replace(self.par, prototype=prototype).score(sides, torch.tensor([0, 0, 1]))
        torch.testing.assert_close(score, torch.full((2,), expected), atol=1e-6, rtol=0)

    def test_a_question_that_names_nothing_keeps_all_clusters(self):
        words = [Word("Describe", torch.tensor([6]), " "), Word("this", torch.tensor([7]))]
        tokens, evidence = scene(self.visual, angles(45, 50), words=words)
        par = replace(self.par, relevance=Relevance(rewriting="rules"), tau_e=0.95)
        assert tokens.rest(par(tokens, evidence, None)).tolist() == [0, 2, 4, 5]
        assert bool(evidence.notes.routing.candidates.all())

    def test_merging_conserves_what_was_asked_for(self):
        """Refused candidates go to the accepted one like them; what the prompt does not ask for is lost."""
        tokens, evidence = scene(self.visual, angles(45))
        leaving = self.par(tokens, evidence, None)
        for weighted in (False, True):
            weights = ToAccepted(weighted)(tokens, leaving, evidence)
            after = merge_compress("weighted")(tokens, leaving, weights)
            assert float(after.size.sum()) == 5  # the sixth is not a candidate
            relevance = evidence.notes.routing.relevance if weighted else torch.ones(6)
            expected = (relevance[:2, None] * self.visual[:2]).sum(0) / relevance[:2].sum()
            torch.testing.assert_close(after.states[0], expected)

    def test_dropping_is_discarding(self):
        assert merge_correlate("drop") is None
        assert merge_compress("drop") == Discard()

    @QUICK
    @given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 99), st.sampled_from(["components", "window"]))
    def test_counts(self, side, keep, seed, rule):
        count = side * side
        random = torch.Generator().manual_seed(seed)
        tokens, evidence = scene(torch.randn(count, 4, generator=random), torch.randn(2, 4, generator=random))
        par = replace(self.par, clusters=Clusters(rule, 0.5), router=Router(0.2, 0.5, least=3))
        leaving = par(tokens, evidence, count - min(keep, count))
        assert len(set(leaving.tolist())) == len(leaving) == count - min(keep, count)
        free = tokens.rest(par(tokens, evidence, None))
        assert min(3, count) <= len(free) <= count


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "data/pocket/par.json").read_text())


def test_the_defaults_are_the_calibrated_ones(stored):
    known = load_method("par").fields
    assert {key: known[key] for key in stored["fields"]} == stored["fields"]
    best = stored["spaces"][stored["fields"]["space"]]
    target = stored["target"] * 144
    assert best["fields"] == stored["fields"]
    assert best["kept"]["mean"] == pytest.approx(target, rel=0.05)
    assert best["accuracy"] == max(line.get("accuracy", 0) for line in best["tried"])


@pytest.mark.parametrize("space", ["llm", "clip"])
def test_sign(pocket, stored, space):
    """On other scenes than the stored test's: patches that show the thing score higher in both of pocket's spaces."""
    model, processor = pocket
    relevance = replace(SIGNED, space=space)
    found = sign_test(model, processor, relevance, range(TEST_SEEDS + 200, TEST_SEEDS + 212))
    assert found["sign"] == stored["spaces"][space]["sign"]["sign"]
    assert found["positive"] > 0.9
    assert found["difference"] > 3 * found["error"]
    if space == "clip":
        assert found["sign"] == model.question_reader.text_sign


def test_a_box_holds_its_thing():
    from thinsight.pocket.scenes import sample

    for thing in sample(TEST_SEEDS + 3).things:
        row, column = thing.patch
        assert bool(inside(thing)[row, column])
        assert int(inside(thing).sum()) <= 9


def changed(pocket, name, **fields) -> list[bool]:
    """For each of twelve pictures: whether its neighbour's question keeps other tokens of it."""
    model, processor = pocket
    rows = training_rows(["exist"], 12)["exist"]
    turned = [replace(row, question=other.question) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    kept = []
    for asked in (rows, turned):
        with torch.inference_mode(), reduce(model, load_method(name, **fields)) as trace:
            model(**collate(processor, asked, training_task("exist")), logits_to_keep=1)
        kept.append(trace.kept)
    return [a != b for a, b in zip(*kept, strict=True)]


@pytest.mark.parametrize("name", ["trsm", "cdpruner", "trim", "par", "divprune"])
def test_another_question_keeps_other_tokens(pocket, name):
    found = changed(pocket, name, **({} if name in ("trim", "par") else {"keep": 24}))
    if name == "divprune":  # blind to the prompt
        assert not any(found)
    else:
        # plain TRSM reacts least: "is", "there" and the template's own tokens retrieve the same ones for all
        assert sum(found) >= (7 if name == "trsm" else 11)


def test_another_question_in_the_decoders_own_space(pocket, stored):
    assert sum(changed(pocket, "par", **stored["spaces"]["llm"]["fields"])) >= 7


def test_a_picture_cut_by_another_question_answers_worse(pocket, stored):
    fields, rows = stored["fields"], training_rows(["attribute"], 32)
    training = CalibrationSet(*pocket, rows, [load_method("par").reductions[0].filter.relevance])
    [own], other = training.scores([load_method("par")]), shuffled(*pocket, rows, fields)
    assert other["changed"] > 0.9
    assert other["accuracy"] < own["accuracy"] - 0.1
    space = stored["spaces"][fields["space"]]
    assert space["shuffled"]["accuracy"] < space["accuracy"] - 0.1
