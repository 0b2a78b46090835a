"""From runs to tables: cells are the runs' numbers, differences are paired, unlike runs are refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny

from thinsight.analysis.comparisons import compare, score_flops_frontier
from thinsight.analysis.results import finished, load_answers, load_scores, nearest_budgets, score_cells, without_seed
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation.run import evaluate
from thinsight.ledger.published import load_published
from thinsight.models.loading import load_model
from thinsight.papers.vtw import (
    attention_shares,
    beside_published,
    choose_layer,
    efficiency_table,
    first_below,
    relative_table,
    vtw_finding,
    with_answer,
)
from thinsight.report.tables import comparison
from thinsight.tasks.rows import collate, load_rows, training_rows, training_task

RUNS = {
    "plain": ["method=identity"],
    "vtw": ["method=vtw", "sweep.layer=[1,3]"],
    "random": ["method=random", "sweep.keep=[0.5]", "sweep.seed=[0,1]"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three real runs of a tiny random model."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("results")
    tiny.save_model(home / "model")
    tiny.save_task(home / "flat.parquet")
    where = [f"model.checkpoint={home / 'model'}", "task=exist", f"task.path={home / 'flat.parquet'}"]
    plain = evaluate_plain(home, where)
    task = pd.read_parquet(home / "flat.parquet")  # what the model says becomes the right answer of most questions
    said = task["id"].map(plain).where(task.index % 3 > 0, "circle")
    task.assign(answer=said.where(said.str.strip() != "", "circle")).to_parquet(home / "flat.parquet")
    for name, method in RUNS.items():
        config = load_config([*where, *method, f"run={name}", "preset=default", "limit=24"])
        evaluate(config, home / "runs" / name, home / "journal")
    return home / "runs"


def evaluate_plain(home, where):
    evaluate(load_config([*where, "limit=24"]), home / "first", home / "journal")
    return pd.read_parquet(home / "first" / "predictions.parquet").set_index("id")["prediction"]


def test_scores_are_those_of_the_files(folder):
    table = load_scores(folder)
    assert set(table["run"]) == set(RUNS)
    for line in table.to_dict("records"):
        cell = json.loads((folder / line["run"] / "metrics.json").read_text())["scores"][line["task"]][line["budget"]]
        assert line["accuracy"] == cell["accuracy"]
        assert line["profiler"] == cell["prefill_flops"]["profiler"]
        rows = score_cells(load_answers(folder), line["run"], line["budget"])
        assert rows["correct"].mean() == pytest.approx(line["accuracy"])


def test_a_page_reads_the_runs_that_it_names(folder, tmp_path):
    for name in ("plain", "vtw", "vtw_random", "vtw-fields"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
    (tmp_path / "unfinished").mkdir()
    found = {
        wanted: [file.parent.name for file in finished(tmp_path, wanted and wanted.split())]
        for wanted in (None, "vtw*", "vtw-*", "plain nowhere")
    }
    assert found[None] == ["plain", "vtw", "vtw_random"]  # a hyphen marks what is compared within itself
    assert found["vtw*"] == ["vtw", "vtw_random"]
    assert found["vtw-*"] == ["vtw-fields"]
    assert found["plain nowhere"] == ["plain"]
    assert set(load_scores(folder, ["vtw", "nowhere"])["run"]) == {"vtw"}
    assert set(load_answers(folder, ["vtw"])["run"]) == {"vtw"}


def test_the_nearest_budget_goes_by_the_mean_over_layers():
    table = pd.DataFrame(
        {
            "run": ["vtw", "grid", "grid", "grid"],
            "budget": ["layer=7", "keep=0.5,phase=0.1", "keep=0.5,phase=0.5", "keep=0.75,phase=0.5"],
            "visual": [84.0, 72.0, 72.0, 108.0],
        }
    )
    assert nearest_budgets(table, "grid", ("vtw", "layer=7")) == ["keep=0.5,phase=0.1", "keep=0.5,phase=0.5"]
    assert without_seed("keep=0.5,phase=0.1") == "keep=0.5"


def test_comparison_is_paired_and_averages_seeds(folder):
    scores, rows = load_scores(folder), load_answers(folder)
    seeds = ["keep=0.5,seed=0", "keep=0.5,seed=1"]
    lines = {"whole": ("plain", ["fixed"]), "random": ("random", seeds)}
    table = compare(scores, rows, lines, base="whole").set_index("line")
    assert table.loc["whole", "difference"] == 0
    assert table.loc["whole", "p"] == 1
    each = [score_cells(rows, "random", seed).set_index("id")["correct"] for seed in seeds]
    whole = score_cells(rows, "plain").set_index("id")["correct"]
    assert table.loc["random", "accuracy"] == pytest.approx(np.mean([e.mean() for e in each]))
    assert table.loc["random", "difference"] == pytest.approx(np.mean([e.mean() - whole.mean() for e in each]))
    text = comparison(compare(scores, rows, lines, base="whole"), base="whole").data
    assert text.loc["whole", "FLOPs, profiler"] == "100%"
    share = table.loc["random", "profiler"] / table.loc["whole", "profiler"]
    assert text.loc["random", "FLOPs, profiler"] == f"{share:.0%}"


def test_the_frontier_is_relative_to_the_whole_model(folder):
    scores = load_scores(folder)
    points = score_flops_frontier(scores, load_answers(folder), base="plain", resamples=200).set_index(
        ["run", "budget"]
    )
    assert points.loc[("plain", "fixed"), ["flops", "score", "low", "high"]].tolist() == [1, 1, 1, 1]
    assert ("random", "keep=0.5") in points.index  # seeds are one point
    assert (points.loc["vtw", "flops"] < 1).all()
    assert (points["low"] <= points["score"]).all()
    assert (points["score"] <= points["high"]).all()


def test_runs_under_other_protocols_are_not_compared(folder, tmp_path):
    for name in ("plain", "vtw"):
        (tmp_path / name).mkdir()
        for file in ("metrics.json", "protocol.json"):
            (tmp_path / name / file).write_bytes((folder / name / file).read_bytes())
    card = json.loads((tmp_path / "vtw" / "protocol.json").read_text())
    card["processor"]["image"]["do_center_crop"] = "otherwise"
    (tmp_path / "vtw" / "protocol.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="do_center_crop"):
        load_scores(tmp_path)


def test_missing_runs_and_budgets_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="no finished runs"):
        load_scores(tmp_path)
    table = load_scores(folder)
    with pytest.raises(UserError, match="did you mean random"):
        score_cells(table, "randon")
    with pytest.raises(UserError, match="layer=3"):
        score_cells(table, "vtw", "layer=4")


def test_printed_scores_are_divided_by_their_own_whole_model():
    published = load_published("vtw")
    style = relative_table(published, ["ShortV", "VTW"], ["LLaVA-1.5-7B"])
    frame = style.data
    assert frame.loc["GQA", "ShortV, LLaVA-1.5-7B, VTW K16"] == pytest.approx(55.1 / 61.9)
    assert frame.loc["ScienceQA-IMG", "VTW, LLaVA-1.5-7B, VTW K=15"] == pytest.approx(0.6971 / 0.6961)
    assert not [name for name in frame.index if "TFLOPs" in name or "error" in name]
    assert "89%" in style.to_html()


def test_efficiency_stands_beside_what_papers_print():
    saved = efficiency_table("llava_1_5_7b", [16], text_tokens=64)
    assert saved["profiler"].round(2).tolist() == [8.50, 4.67]  # specs of VTW: 640 tokens, K = 16
    frame = beside_published(saved, load_published("vtw")).data
    assert "8.48 (VTW)" in frame["printed"][0]
    assert "4.7 (ShortV)" in frame["printed"][1]
    assert "4.94 (V-Skip)" in frame["printed"][1]


def test_finding_names_the_layer_and_says_so_if_there_is_none(folder):
    scores, rows = load_scores(folder), load_answers(folder)
    text = vtw_finding(scores, rows, 3, base="plain")
    whole, ours = (score_cells(scores, *of)["accuracy"].mean() for of in (("plain",), ("vtw", "layer=3")))
    assert f"{whole:.1%} to {ours:.1%}" in text
    assert "layer 3" in text
    assert "no layer" in vtw_finding(scores, rows, None, base="plain")


def test_training_questions_are_not_the_test_questions():
    rows = training_rows(["easyvqa", "read"], 5)
    assert all(row.id.startswith("train-") for row in rows["easyvqa"])
    assert all(row.id.startswith("read-train-") for row in rows["read"])
    assert not {row.id for row in rows["read"]} & {row.id for row in load_rows(load_config(["task=read"]).task)}


def test_the_choice_over_all_tasks_is_the_mean_of_the_tasks():
    model, processor = load_model("pocket")
    rows = training_rows(["exist", "read"], 3)
    chosen, curve = choose_layer(model, processor, rows, [1e9])
    assert chosen.layer == 1  # anything is below such a threshold
    wide = curve.pivot(index="layer", columns="task", values="divergence")
    assert np.allclose(wide["all"], wide[["exist", "read"]].mean(axis=1), rtol=1e-4, atol=1e-7)
    nothing, same = choose_layer(model, processor, rows, [-1.0])
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
