"""The one-page summary: what stands where, how numbers read, and that nothing is said of runs that are not there."""

from math import nan

import pytest
from bs4 import BeautifulSoup

from thinsight.ledger.claim_findings import (
    AGREES,
    COST_WORDS,
    DISAGREES,
    NEEDS_MODEL,
    NOT_RUN,
    UNDECIDED,
    WORDS,
    Finding,
)
from thinsight.ledger.claim_verdicts import Judged, JudgedPaper, judge_paper
from thinsight.ledger.claims import load_claims, load_summary
from thinsight.report.re_summary import BLOCKS, numbers, power_text, re_summary


def paper(*findings: Finding, model: str = "pocket") -> JudgedPaper:
    judged = [Judged(claim, found) for claim, found in zip(load_claims("VTW"), findings, strict=False)]
    return JudgedPaper("VTW", load_summary("VTW"), model, {"exist": 60, "read": 60}, judged)


def test_every_word_has_one_block():
    words = [word for block in BLOCKS.values() for word in block]
    assert sorted(words) == sorted([*WORDS, *COST_WORDS, NEEDS_MODEL, NOT_RUN])


def test_claims_stand_below_what_was_found_of_them():
    found = [Finding(AGREES, value=0.1, low=0, high=0.2), Finding(DISAGREES), Finding(NEEDS_MODEL, why="a <GPU>")]
    soup = BeautifulSoup(re_summary(paper(*found)), "html.parser")
    bodies = soup.find_all("tbody")
    assert [body.find("th").get_text() for body in bodies] == ["What held", "What did not", "What is not run"]
    assert [len(body.find_all("tr")) for body in bodies] == [2, 2, 2]
    assert soup.select_one("#claim-vtw-attention .verdict").get_text() == "pocket agrees"
    assert "a <GPU>" in soup.get_text()
    text = soup.get_text()
    assert "exist 60, read 60 test questions" in text
    for sentence in (load_summary("VTW").easy, load_summary("VTW").hard, load_summary("VTW").not_run):
        assert sentence in text
    assert "attention to 576 visual tokens: 5 %" in soup.select_one("#claim-vtw-attention th").get_text()


def test_another_model_speaks_for_itself():
    text = re_summary(paper(Finding(UNDECIDED), model="llava_1_5_7b"))
    assert "llava_1_5_7b cannot tell" in text
    assert "How near" not in text
    assert "pocket" not in text


def test_without_runs_the_summary_says_so(tmp_path):
    soup = BeautifulSoup(re_summary(judge_paper("TRSM", tmp_path)), "html.parser")
    assert [body.find("th").get_text() for body in soup.find_all("tbody")] == ["What is not run"]


@pytest.mark.parametrize(("found", "text"), [
    (Finding("", value=-0.168, low=-0.2475, high=-0.099), "−16.8 points (−24.8 to −9.9)"),
    (Finding("", value=0.925, low=0.898, high=0.95, scale="share"), "92.5 % (89.8 to 95.0)"),
    (Finding("", value=6.2314, scale="number"), "6.23"),
    (Finding("", value=-0.25, low=-0.5, high=0.0, scale="number"), "−0.25 (−0.5 to 0)"),
    (Finding("", value=nan), ""),
])  # fmt: skip
def test_numbers(found, text):
    assert numbers(found) == text


def test_the_test_is_told_in_a_line():
    found, size = Finding("", smallest=0.106, p=0.00002, chance=0.015, of=200, n=101), "n\xa0=\xa0101"
    assert power_text(found) == f"could have seen 10.6 points; McNemar p < 0.001; 3 of 200 shuffles go as far; {size}"
    assert power_text(Finding("", p=0.0614)) == "McNemar p = 0.061"
