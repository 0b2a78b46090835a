"""VTW's page: attention shares, the choice of the layer, and tables beside what papers print."""

import numpy as np
import pandas as pd
import pytest

from thinsight.ledger.published import load_published
from thinsight.models.loading import load_model
from thinsight.papers.vtw.analysis import attention_shares, choose_layers, divergences, first_below, with_answer
from thinsight.papers.vtw.page import comparison_lines
from thinsight.papers.vtw.tables import cost_table, layer_table, prefill_costs, published_shares
from thinsight.report.render import finding
from thinsight.runtime.layer_selection import select_layer
from thinsight.tasks.rows import collate, load_rows, training_rows, training_task


def test_printed_scores_are_divided_by_their_own_whole_model():
    frame = published_shares(load_published("vtw"), ["ShortV", "VTW"], ["LLaVA-1.5-7B"])
    assert frame.loc["GQA", "ShortV, LLaVA-1.5-7B, VTW K16"] == pytest.approx(55.1 / 61.9)
    assert frame.loc["ScienceQA-IMG", "VTW, LLaVA-1.5-7B, VTW K=15"] == pytest.approx(0.6971 / 0.6961)
    assert not [name for name in frame.index if "TFLOPs" in name or "error" in name]


def test_costs_stand_beside_what_papers_print():
    costs = prefill_costs("llava_1_5_7b", [16], text_tokens=64)
    assert costs["profiler"].round(2).tolist() == [8.50, 4.67]  # specs of VTW: 640 tokens, K = 16
    printed = cost_table(costs, load_published("vtw"))["printed"].tolist()
    assert "8.48 (VTW)" in printed[0]
    assert "4.7 (ShortV)" in printed[1]
    assert "4.94 (V-Skip)" in printed[1]


@pytest.fixture
def results():
    budgets = {"plain": ["fixed"], "blind": ["fixed"], "vtw": ["layer=1", "layer=3"], "grid": ["keep=0.5"]}
    budgets |= {"random": ["keep=0.5,seed=0", "keep=0.5,seed=1"]}
    budgets |= {run: ["seed=0", "seed=1"] for run in ("vtw_random_layer", "vtw_random_tokens")}
    lines = [(run, budget) for run, some in budgets.items() for budget in some]
    table = pd.DataFrame(lines, columns=["run", "budget"])
    return table.assign(task="exist", accuracy=np.linspace(0.5, 1, len(table)), visual=4.0)


def test_the_table_is_about_the_chosen_layer_or_the_last_one_that_was_run(results):
    lines = comparison_lines(results, 1)
    assert lines["VTW, K = 1"] == ("vtw", ["layer=1"])
    assert lines["random, keep=0.5"] == ("random", ["keep=0.5,seed=0", "keep=0.5,seed=1"])
    assert "VTW, K = 3" in comparison_lines(results, None)
    assert "VTW, K = 3" in comparison_lines(results, 2)


def test_each_tasks_layer_has_its_score_beside_it(results):
    layers = pd.DataFrame({"η = 1": [3, None], "η = 0": [None, None]}, index=["exist", "read"]).astype("Int64")
    table = layer_table(layers, results)
    assert table.loc["exist"].tolist() == ["3", "none", f"{results.loc[3, 'accuracy']:.1%}", "50.0%"]
    assert table.loc["read"].fillna("").tolist() == ["none", "none", "", ""]


def test_finding_names_the_layer_and_says_so_if_there_is_none():
    values = {
        "layer": 7,
        "flops": 0.6,
        "end_to_end": 0.7,
        "whole": 0.95,
        "reduced": 0.9,
        "lost": {"read": -0.2, "count": -0.1},
    }
    text = finding("vtw/finding.md.j2", values)
    left = "60% of the decoder's prefill FLOPs are left (70% with the vision tower)"
    assert f"**layer 7**: {left}, and the mean score goes from 95.0% to 90.0%." in text
    assert text.endswith("read (−20.0 points), count (−10.0 points).")
    assert finding("vtw/finding.md.j2", values | {"lost": {}}).endswith("none of the tasks.")
    assert "**no layer**" in finding("vtw/finding.md.j2", values | {"layer": None})


def test_the_choice_over_all_tasks_is_the_mean_of_the_tasks():
    model, processor = load_model("pocket")
    rows = training_rows(["exist", "read"], 3)
    found = divergences(model, processor, rows)
    way = "withdrawn_to_full"
    chosen, curve = choose_layers(found[way], [1e9], way)
    batches = [collate(processor, rows[task], training_task(task)) for task in rows]
    for direction in found:  # one pass for both directions and all tasks gives what a pass for each would
        by_itself = select_layer(model, batches, threshold=1e9, direction=direction)
        joint, _ = choose_layers(found[direction], [1e9], direction)
        assert joint == by_itself
    assert chosen.layer == 1  # anything is below such a threshold
    wide = curve.pivot(index="layer", columns="task", values="divergence")
    assert np.allclose(wide["all"], wide[["exist", "read"]].mean(axis=1), rtol=1e-4, atol=1e-7)
    nothing, same = choose_layers(found[way], [-1.0], way)
    assert nothing is None
    pd.testing.assert_frame_equal(same, curve)
    assert first_below(curve, -1.0) == {"all": None, "exist": None, "read": None}
    assert first_below(curve, 1e9) == {"all": 1, "exist": 1, "read": 1}


def test_attention_shares_sum_to_one():
    model, processor = load_model("pocket")
    task = training_task("read")
    rows = load_rows(task, 2)
    shares = attention_shares(model, processor, task, rows)
    assert np.allclose(shares.groupby(["rows", "layer"])["share"].sum(), 1, atol=1e-5)
    assert set(shares["rows"]) == {"question", "last prompt", "answer"}
    inputs, answered = with_answer(processor, task, rows[0])
    assert processor.tokenizer.decode(inputs["input_ids"][0, -answered:]).strip() == rows[0].answer
    assert inputs["input_ids"].shape[1] == collate(processor, rows[:1], task)["input_ids"].shape[1] + answered
