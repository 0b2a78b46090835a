"""TRSM's page: the two readings, by hand and against the files that its cells come from."""

import numpy as np
import pandas as pd
import pytest
from helpers import page_files as pages

from thinsight.analysis.comparisons import MEAN, compare
from thinsight.papers.trsm import RUNS, SHARES, WHOLE, reading_facts, reading_lines
from thinsight.paths import CONF, ROOT
from thinsight.pipeline import plan
from thinsight.pipeline.plan import _yaml_values, page_code
from thinsight.report.render import finding


@pytest.fixture
def made():
    """One task; a fifth removed costs nothing, a fifth kept costs half; random has one reading alone."""
    right = {
        ("plain", "fixed"): [1] * 40,
        ("trsm-20", "keep=0.8"): [1] * 40,
        ("trsm-20", "keep=0.2"): [1, 0] * 20,
        ("random", "keep=0.2,seed=0"): [0] * 40,
        ("random", "keep=0.2,seed=1"): [1, 0] * 20,
    }
    results = pd.DataFrame(
        [
            {"run": run, "budget": budget, "task": "t", "accuracy": np.mean(some), "visual": 4.0, "picture": 8.0}
            | dict.fromkeys(("fastv", "profiler", "end_to_end", "kv_bytes"), 10.0 if run == "plain" else 5.0)
            for (run, budget), some in right.items()
        ]
    )
    rows = [
        {"run": run, "budget": budget, "task": "t", "id": str(i), "correct": bool(r)}
        for (run, budget), some in right.items()
        for i, r in enumerate(some)
    ]
    return results, pd.DataFrame(rows)


def test_lines_are_those_that_were_run(made):
    lines = reading_lines(made[0])
    assert list(lines) == ["whole model", "TRSM, drop20", "TRSM, keep20", "random, keep20"]
    assert lines["random, keep20"] == ("random", ["keep=0.2,seed=0", "keep=0.2,seed=1"])


def test_the_mean_is_one_more_task(made):
    table = compare(*made, reading_lines(made[0]), WHOLE)
    means = table[table["task"] == MEAN].set_index("line")
    assert means["difference"].tolist() == pytest.approx([0, 0, -0.5, -0.75])
    assert means.loc["TRSM, keep20", "high"] < 0
    assert means.loc["TRSM, drop20", ["low", "high"]].tolist() == [0, 0]


def trsm_finding(table: pd.DataFrame) -> str:
    parts = {"changes": {}, "keeps": 0, "variants": 0}
    return finding("trsm.md.j2", {"readings": reading_facts(table), "parts": parts})


def test_the_finding_says_which_reading_keeps_the_score(made):
    text = trsm_finding(compare(*made, reading_lines(made[0]), WHOLE))
    drop, keep, controls, _ = text.replace("**keep20**", "\n\n**keep20**").split("\n\n")
    assert "no sure difference; no task loses for sure" in drop
    assert "80% of the tokens stay, 50% of the decoder's prefill FLOPs" in drop
    assert "−50.0 points" in keep
    assert "a sure loss; sure losses on t −50.0" in keep
    assert controls == "At keep20 TRSM scores 50.0%, and with as many tokens random 25.0%."


def test_what_was_not_run_is_named(made):
    results, rows = (frame[frame["run"] == "plain"] for frame in made)
    lines = reading_lines(results)
    assert list(lines) == ["whole model"]
    text = trsm_finding(compare(results, rows, lines, WHOLE))
    assert "**drop20** was not run. **keep20** was not run." in text


@pytest.mark.parametrize(("file", "page", "sees"), [
    ("method/par.yaml", "par", True),
    ("method/par.yaml", "trsm", False),
    ("method/par.yaml", "vtw", False),
    ("method/fastv.yaml", "vtw", True),  # its ledger plays FastV's printed settings
    ("config.yaml", "trsm", True),
    ("sweep/ablation/par_parts.yaml", "efficiency", False),
])  # fmt: skip
def test_a_page_runs_again_for_those_values_that_it_uses(monkeypatch, file, page, sees):
    notebook, values = ROOT / "notebooks" / f"{page}.ipynb", _yaml_values
    before, touched = page_code(notebook), (CONF / file).read_text()
    changed = lambda text: values(text) | ({"another": 1} if text == touched else {})  # noqa: E731
    monkeypatch.setattr(plan, "_yaml_values", changed)
    assert (page_code(notebook) != before) == sees


class TestCells:
    """What the executed page saved is what stands in the runs' files and in the published table."""

    def test_readings(self):
        for line in pages.saved("trsm", "comparison"):
            run, budget = "plain", "fixed"
            if line["line"] != "whole model":
                title, _, reading = line["line"].partition(", ")
                run, budget = RUNS[title], f"keep={SHARES[reading]:g}"
            cells, names = pages.metrics(run)["scores"], pages.budgets(run, budget)
            tasks = list(cells) if line["task"] == MEAN else [line["task"]]
            wanted = np.mean([cells[task][name]["accuracy"] for task in tasks for name in names])
            assert pages.same(line["accuracy"], float(wanted)), line
            whole, own = pages.right("plain", "fixed"), [pages.right(run, name) for name in names]
            gap = [np.mean([one[key] - whole[key] for one in own for key in whole if key[0] == task]) for task in tasks]
            assert pages.same(line["difference"], float(np.mean(gap)), 5), line

    def test_parts(self):
        for line in pages.saved("trsm", "parts"):
            cells = pages.metrics("trsm-fields")["scores"]
            mean = np.mean([cells[task][line["budget"]]["accuracy"] for task in cells])
            assert pages.same(line["accuracy"], float(mean)), line

    def test_the_ledgers_of_both_pages_hold_the_whole_file(self):
        pages.check_printed("trsm")
        there = [
            tuple(line[key] for key in pages.WHERE) for page in ("trsm", "par") for line in pages.saved(page, "ledger")
        ]
        assert sorted(there) == sorted(key for key, cells in pages.printed("par").items() for _ in cells)
