"""Claims: the file's selectors, the rules on made-up frames, and a computed verdict for every claim of the file."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import page_files as pages

from thinsight.analysis.runs import is_wanted
from thinsight.errors import UserError
from thinsight.ledger import claim_rules, claims
from thinsight.ledger.claim_findings import (
    AGREES,
    COST_WORDS,
    DIFFERS,
    DISAGREES,
    INFERRED,
    NEEDS_MODEL,
    NOT_RUN,
    RECOMPUTED,
    UNDECIDED,
    WORDS,
    Evidence,
    NotRunError,
)
from thinsight.ledger.claim_rules import RULES
from thinsight.ledger.claim_verdicts import judge, judge_paper
from thinsight.ledger.claims import FILE, Claim, load_claims, load_summary, select
from thinsight.models.loading import load_model
from thinsight.papers.vtw.analysis import attention_by_question
from thinsight.paths import ROOT
from thinsight.pipeline.notebook import declared_parameters, load_notebook
from thinsight.pipeline.params import read_params
from thinsight.tasks.rows import training_rows, training_task

PAPERS = {"VTW": "vtw", "TRSM": "trsm", "PAR": "par", "FiCoCo": "ficoco"}  # paper -> its page
CLAIMS = load_claims()


# ------------------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
class TestFile:
    def test_selectors_hit_printed_lines(self, claim):
        for selector in claim.printed:
            lines = select(selector)
            stored = pages.printed(selector["file"])
            for line in lines.to_dict("records"):
                assert line["value"] in [cell["value"] for cell in stored[tuple(line[key] for key in pages.WHERE)]]
            for column, wanted in selector.items():  # each text of a list is there
                if column != "file":
                    assert set(lines[column]) == {str(w) for w in (wanted if isinstance(wanted, list) else [wanted])}

    def test_runs_are_planned_and_read_by_the_page(self, claim):
        notebook = ROOT / "notebooks" / f"{PAPERS[claim.paper]}.ipynb"
        reads = declared_parameters(load_notebook(notebook))["reads"]
        groups = {run: _group(lines) for run, lines in read_params(ROOT / "params.yaml").runs.items()}
        for run in claim.runs:
            assert is_wanted(run, groups[run], reads), run
        named = re.findall(r"'run': '([\w-]+)'", str(claim.parameters)) + claim.parameters.get("others", [])
        assert {*named, *claim.parameters.get("runs", {}).values()} <= set(claim.runs)

    def test_figures_are_on_the_page(self, claim):
        text = (ROOT / "notebooks" / f"{PAPERS[claim.paper]}.ipynb").read_text(encoding="utf-8")
        assert all(f"**{figure}.**" in text for figure in claim.figures)


def _group(lines):
    return next((line.removeprefix("group=") for line in lines if line.startswith("group=")), "main")


def test_no_verdict_is_written_in_the_file():
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert not {"verdict", "word", "finding"} & {key for entry in content["claims"] for key in entry}
    judged = [word for word in (*WORDS, *COST_WORDS) if word != DIFFERS]
    prose = " ".join(f"{entry['claim']} {entry['near']} {entry['decides']}" for entry in content["claims"])
    assert not [word for word in judged if re.search(rf"\b(pocket )?{word}\b", prose)]


def test_each_claim_has_its_own_name_and_each_paper_its_words():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.paper for claim in CLAIMS} == set(PAPERS)
    for paper in PAPERS:
        assert all(text.endswith(".") for text in (load_summary(paper).easy, load_summary(paper).hard))


@pytest.mark.parametrize(("change", "message"), [
    ({"rule": "beter"}, "did you mean better"),
    ({"paper": "VTV"}, "did you mean VTW"),
    ({"parameters": {"lien": {}}}, "did you mean line"),
])  # fmt: skip
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, monkeypatch, change, message):
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    entry = next(entry for entry in content["claims"] if entry["rule"] == "better")
    content["claims"] = [entry | change]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr(claims, "FILE", tmp_path / "claims.yaml")
    claims._read.cache_clear()
    with pytest.raises(UserError, match=message):
        [judge(claim, tmp_path) for claim in load_claims()]
    claims._read.cache_clear()


def test_a_selector_without_lines_is_refused():
    with pytest.raises(UserError, match=r"no line of data/published/vtw\.csv fits"):
        select({"file": "vtw", "paper": "nobody"})
    with pytest.raises(UserError, match="did you mean column"):
        select({"file": "vtw", "colum": "GQA"})


# --------------------------------------------------------------------------------- rules on made-up frames


def made(right: dict[tuple[str, str], list], **columns) -> Evidence:
    """Evidence of one task from (run, budget) -> right answers, row by row; ``columns``: of the answers, run by run."""
    results = [
        {"run": run, "budget": budget, "task": "t", "accuracy": np.mean(some), "visual": 4.0, "picture": 8.0}
        for (run, budget), some in right.items()
    ]
    rows = [
        {"run": run, "budget": budget, "task": "t", "id": str(i), "correct": float(r)}
        | {name: values[i] for name, values in columns.items()}
        for (run, budget), some in right.items()
        for i, r in enumerate(some)
    ]
    return Evidence(pd.DataFrame(results), pd.DataFrame(rows))


def few(rights: int, n: int = 400) -> list[int]:
    return [1] * rights + [0] * (n - rights)


@pytest.mark.parametrize(("rights", "word"), [(400, AGREES), (300, DISAGREES), (396, UNDECIDED)])
def test_keeps_share(rights, word):
    evidence = made({("plain", "fixed"): few(400), ("a", "keep=0.5"): few(rights)})
    found = claim_rules.keeps_share(evidence, line={"run": "a", "keep": 0.5}, share=0.99)
    assert found.word == word
    assert found.value == pytest.approx(rights / 400)
    assert found.low <= found.value - 3 / 400 + 1e-12  # of unchanged rows a bootstrap alone knows too much
    assert found.smallest >= 6 / 400


@pytest.mark.parametrize(("rights", "word"), [(400, AGREES), (300, DISAGREES), (396, UNDECIDED)])
def test_chosen_layer_keeps_share(rights, word):
    right = {("plain", "fixed"): few(400), ("vtw", "layer=1"): few(100), ("vtw", "layer=2"): few(rights)}
    right |= {("vtw", "layer=3"): few(400), ("vtw", "layer=4"): few(400)}
    evidence = made(right)
    judged = Evidence(evidence.results, evidence.answers, {"layer": 2})
    found = claim_rules.chosen_layer_keeps_share(judged, run="vtw", share=0.99)
    assert (found.word, found.of, found.chance) == (word, 4, 0.75)
    with pytest.raises(NotRunError, match="no layer met"):
        claim_rules.chosen_layer_keeps_share(evidence, run="vtw", share=0.99)


@pytest.mark.parametrize(("first", "second", "word"), [
    (300, 200, AGREES),
    (200, 300, DISAGREES),
    (300, 300, UNDECIDED),
    (305, 300, UNDECIDED),  # five rows, all one way: McNemar's p is 6 %
])  # fmt: skip
def test_better(first, second, word):
    right = {("a", "fixed"): few(first), ("b", "seed=0"): few(second), ("b", "seed=1"): few(second)}
    found = claim_rules.better(made(right), line={"run": "a"}, than={"run": "b"})
    assert found.word == word
    assert found.value == pytest.approx((first - second) / 400)
    assert found.chance == pytest.approx({AGREES: 0, DISAGREES: 1}.get(word, found.chance))
    within = claim_rules.better(made(right), line={"run": "a"}, than={"run": "b"}, margin=0.02)
    assert within.word == (DISAGREES if word == DISAGREES else AGREES)


def test_better_on_one_right_answer_alone():
    evidence = made({("a", "fixed"): few(200), ("b", "fixed"): few(400)}, answer=["yes"] * 200 + ["no"] * 200)
    found = claim_rules.better(evidence, line={"run": "a"}, than={"run": "b"}, answer="no")
    assert (found.n, found.value) == (200, -1)


@pytest.mark.parametrize(("scores", "word"), [
    ((390, 200, 210, 220), AGREES),
    ((200, 390, 210, 220), DISAGREES),
    ((220, 210, 200, 220), UNDECIDED),
])  # fmt: skip
def test_leads(scores, word):
    right = {(run, f"keep={keep}"): few(n) for run, n in zip("abcd", scores, strict=True) for keep in (0.5, 0.2)}
    found = claim_rules.leads(made(right), run="a", others=["b", "c", "d"], keeps=[0.5, 0.2])
    assert found.word == word
    assert found.value == pytest.approx((scores[0] - max(scores[1:])) / 400)
    standing = sum(n >= scores[0] for n in scores) / 4  # in whose place the lead is as large
    assert found.chance == pytest.approx(standing, abs=0.1)


@pytest.mark.parametrize(("order", "word"), [(1, AGREES), (-1, DISAGREES), (0, UNDECIDED)])
def test_same_order(order, word):
    runs = dict(zip("ABCDE", "abcde", strict=True))
    printed = pd.DataFrame({"method": [*runs], "tokens": "64", "number": [50.0, 60, 70, 80, 90]})
    ranks = {1: (50, 120, 190, 260, 330), -1: (330, 260, 190, 120, 50), 0: (50, 330, 120, 50, 260)}[order]
    right = {(run, "keep=0.1"): few(n) for run, n in zip(runs.values(), ranks, strict=True)}
    found = claim_rules.same_order(made(right), printed=printed, runs=runs, budgets={64: 0.1})
    assert found.word == word
    if order:
        assert found.value == order
        assert (found.chance <= 0.05) == (order == 1)


@pytest.mark.parametrize(("kept", "word"), [
    ([2, 20] * 50, AGREES),
    ([10, 10] * 50, DISAGREES),
    ([10] * 99 + [19], UNDECIDED),
])  # fmt: skip
def test_tokens_vary(kept, word):
    evidence = made({("a", "fixed"): [1] * 100}, visual_mean=kept)
    found = claim_rules.tokens_vary(evidence, line={"run": "a"}, least=0.08)
    assert found.word == word
    assert found.value == pytest.approx(np.std(kept) / np.mean(kept))


def attention(early: float, late: float, noise: float = 0.0) -> Evidence:
    lines = [
        {"number": i, "rows": "answer", "layer": layer, "group": "visual", "share": share + noise * (-1) ** i}
        for i in range(20)
        for layer, share in enumerate((early, early, late, late))
    ]
    return Evidence(pd.DataFrame(), pd.DataFrame(), {"attention": pd.DataFrame(lines)})


def test_attention_share():
    ask = lambda evidence, **limit: claim_rules.attention_share(evidence, rows="answer", group="visual", **limit)  # noqa: E731
    assert ask(attention(0.5, 0.1), below="shallow").value == pytest.approx(-0.4)
    assert ask(attention(0.5, 0.1), below="shallow").word == AGREES
    assert ask(attention(0.1, 0.5), below="shallow").word == DISAGREES
    assert ask(attention(0.1, 0.1), below="shallow").word == UNDECIDED
    assert ask(attention(0.1, 0.9), above=0.8).word == AGREES
    assert ask(attention(0.1, 0.7), above=0.8).word == DISAGREES
    assert ask(attention(0.1, 0.8, noise=0.1), above=0.8).word == UNDECIDED
    with pytest.raises(NotRunError):
        ask(Evidence(pd.DataFrame(), pd.DataFrame()), below="shallow")


@pytest.mark.parametrize(("difference", "p", "word"), [
    (-0.2, 0.001, AGREES),
    (0.2, 0.001, DISAGREES),
    (-0.2, 0.2, UNDECIDED),
])  # fmt: skip
def test_own_question(difference, p, word):
    line = {"method": "m", "n": 60, "difference": difference, "low": difference - 0.1, "high": difference + 0.1, "p": p}
    evidence = Evidence(pd.DataFrame(), pd.DataFrame(), {"prompt": pd.DataFrame([line])})
    found = claim_rules.own_question(evidence, method="m")
    assert (found.word, found.value) == (word, -difference)


@pytest.mark.parametrize(("edges", "word"), [
    ([1, 2, 3] * 30, AGREES),
    ([1] * 90, DISAGREES),
    ([1] * 89 + [2], UNDECIDED),
])  # fmt: skip
def test_edges_adapt(edges, word):
    evidence = Evidence(
        pd.DataFrame(), pd.DataFrame(), {"edges": pd.DataFrame({"point": "p", "layer": 4, "edges": edges})}
    )
    assert claim_rules.edges_adapt(evidence, point="p").word == word


def test_a_number_of_its_own_for_each_layer_adapts_to_no_token():
    edges = pd.DataFrame({"point": "p", "layer": [4] * 50 + [5] * 50, "edges": [2] * 50 + [1] * 50})
    found = claim_rules.edges_adapt(Evidence(pd.DataFrame(), pd.DataFrame(), {"edges": edges}), point="p")
    assert (found.word, found.value) == (DISAGREES, 0)


@pytest.mark.parametrize(("value", "options", "word"), [
    ("60", {}, RECOMPUTED),
    ("60", {"inferred": True}, INFERRED),
    ("50", {}, DIFFERS),
    ("50", {"at_least": True}, RECOMPUTED),
    ("61.5", {"at_least": True, "inferred": True}, DIFFERS),
])  # fmt: skip
def test_cost(monkeypatch, value, options, word):
    ways = {"profiler": {"full": 10e12, "reduced": 4e12}, "profiler_last_row": {"full": 10e12, "reduced": 3e12}}
    report = {"conventions": ways, "vision": {"vision_tower": 2e12, "projector": 0}}
    monkeypatch.setattr(claim_rules, "cost_report", lambda config: report)
    printed = pd.DataFrame({"value": [value], "number": [float(value)]})
    ask = {"printed": printed, "model": "pocket", "method": "identity", "text": 8, "quantity": "saving"}
    found = claim_rules.cost(Evidence(pd.DataFrame(), pd.DataFrame()), **ask, **options)
    assert found.word == word
    assert found.value == pytest.approx(0.6)  # the least of all conventions
    assert found.why == "end to end, with the whole tower, 58.3%"  # 1 - 5 / 12


def test_what_was_not_run_is_said_and_nothing_else():
    evidence = made({("plain", "fixed"): few(10)})
    with pytest.raises(NotRunError, match="vtw was not run"):
        claim_rules.keeps_share(evidence, line={"run": "vtw", "keep": 0.5}, share=1)
    with pytest.raises(NotRunError, match=r"plain was not run at 0\.5"):
        claim_rules.keeps_share(evidence, line={"run": "plain", "keep": 0.5}, share=1)


def test_without_runs_no_claim_gets_a_verdict_from_them(tmp_path):
    judged = judge(next(claim for claim in CLAIMS if claim.id == "vtw-score"), tmp_path)
    assert judged.finding.word == NOT_RUN


def test_a_made_up_claim_by_hand(tmp_path):
    claim = Claim("x", "VTW", "c", "s", "n", "d", "needs_model", parameters={"what": "a model"})
    assert judge(claim, tmp_path).finding.word == NEEDS_MODEL


def test_every_rule_is_used_and_says_what_it_asks():
    assert {claim.rule for claim in CLAIMS} == set(RULES)
    assert all(inspect.getdoc(rule) for rule in RULES.values())


# --------------------------------------------------------------------------- every claim on the committed data


def evidence_of(paper: str) -> dict:
    """What the page of a paper measures itself, from what it saved; attention from a few training questions."""
    if paper == "VTW":
        rows = training_rows(["read"], 4)["read"]
        attention = attention_by_question(*load_model("pocket"), training_task("read"), rows)
        return {"layer": pages.facts("vtw")["layer"], "attention": attention}
    name = {"FiCoCo": "edges"}.get(paper, "prompt")
    pages.saved(PAPERS[paper], name)  # skips where there is none
    return {name: pd.read_csv(pages.PAGES / PAPERS[paper] / f"{name}.csv")}


@pytest.mark.parametrize("paper", PAPERS)
def test_every_claim_has_a_verdict_with_numbers(paper):
    if not (ROOT / "data" / "runs" / "plain" / "predictions.parquet").is_file():
        pytest.skip("no predictions here: `dvc checkout` brings them")
    table = judge_paper(paper, ROOT / "data" / "runs", evidence_of(paper)).table.set_index("id")
    assert len(table) == sum(claim.paper == paper for claim in CLAIMS)
    for claim in load_claims(paper):
        found = table.loc[claim.id]
        assert found["word"] != NOT_RUN, claim.id
        if claim.rule == "needs_model":
            assert found["word"] == NEEDS_MODEL
            assert len(claim.lines)  # the printed numbers stand for it
        elif claim.rule == "cost":
            assert found["word"] in COST_WORDS
            assert found["value"] > 0
        else:
            assert found["word"] in WORDS
            assert found[["value", "low", "high", "smallest"]].notna().all()
            assert found["low"] <= found["value"] <= found["high"]
            assert found["smallest"] > 0
        if claim.rule in ("better", "leads", "same_order"):
            assert found["of"] == 200
            assert 0 <= found["chance"] <= 1


def test_a_difference_is_that_of_the_answers_themselves():
    """Read past our readers: FiCoCo-V with and without merging."""
    own, pruned = (pages.right("ficoco_v-fields", budget) for budget in ("fixed", "edges=0"))
    tasks = {task for task, _ in own}
    gap = np.mean([np.mean([own[key] - pruned[key] for key in own if key[0] == task]) for task in tasks])
    claim = next(claim for claim in CLAIMS if claim.id == "ficoco-merging")
    assert judge(claim, ROOT / "data" / "runs").finding.value == pytest.approx(gap)
