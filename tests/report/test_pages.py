"""Every page's cells are those of the files that they come from: data/published, and metrics.json of the runs."""

import statistics

import pytest
import yaml
from helpers import page_files as pages

from thinsight.paths import ROOT

PAGES = yaml.safe_load((ROOT / "params.yaml").read_text())["pages"]
LEDGERS = [page for page in PAGES if "ledger" in (ROOT / "notebooks" / f"{page}.ipynb").read_text()]
PAPERS = [page for page in PAGES if (ROOT / "data" / "published" / f"{page}.csv").is_file()]


@pytest.mark.parametrize("page", LEDGERS)
def test_every_line_of_a_ledger_is_printed_where_it_says(page):
    pages.check_printed(page)


@pytest.mark.parametrize("page", PAPERS)
def test_a_paper_s_page_leaves_no_printed_number_out(page):
    lines = pages.saved(page, "ledger") + (pages.saved("trsm", "ledger") if page == "par" else [])
    pages.check_complete(lines, [page])


def test_vtw_s_table_is_that_of_its_runs():
    lines = pages.saved("vtw", "comparison")
    layer = pages.facts("vtw")["layer"]
    runs = {
        "whole model": ("plain", "fixed"),
        "no picture": ("blind", "fixed"),
        f"VTW, K = {layer}": ("vtw", f"layer={layer}"),
    }
    assert set(runs) <= {line["line"] for line in lines}
    for line in lines:
        if line["line"] in runs and line["task"] != "mean":
            run, budget = runs[line["line"]]
            cell = pages.metrics(run)["scores"][line["task"]][budget]
            assert pages.same(line["accuracy"], cell["accuracy"])
            assert pages.same(line["profiler"], cell["prefill_flops"]["profiler"])
            assert pages.same(line["kv_bytes"], cell["kv_bytes"])
        if line["line"] == "VTW, random layer" and line["task"] != "mean":
            cells = pages.metrics("vtw_random_layer")["scores"][line["task"]].values()
            assert pages.same(line["accuracy"], statistics.mean(cell["accuracy"] for cell in cells))


def test_the_table_of_all_methods_is_that_of_their_runs():
    lines = pages.saved("methods", "standing")
    pages.check_scores([line for line in lines if line["task"] != "mean"])
    for line in (line for line in lines if line["task"] == "mean"):
        scores = pages.metrics(line["run"])["scores"]
        names = pages.budgets(line["run"], line["budget"])
        wanted = statistics.mean(scores[task][name]["accuracy"] for task in scores for name in names)
        assert pages.same(line["accuracy"], wanted), line
        assert pages.same(
            line["kept"], statistics.mean(scores[t][n]["visual_tokens_kept"] for t in scores for n in names)
        )
