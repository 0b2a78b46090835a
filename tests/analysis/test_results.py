"""From runs to tables: cells are the runs' numbers, differences are paired, unlike runs are refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny

from thinsight.analysis.comparisons import MEAN, compare, relative_points
from thinsight.analysis.results import load_answers, load_scores, nearest_budgets, score_cells, without_seed
from thinsight.analysis.runs import finished
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation.run import evaluate
from thinsight.report.tables import comparison_table
from thinsight.tasks.rows import load_rows, training_rows

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
        beside = cell["vision_flops"] + cell["choice_flops"]
        assert line["end_to_end"] == cell["prefill_flops"]["profiler_last_row"] + beside
        rows = score_cells(load_answers(folder), line["run"], line["budget"])
        assert rows["correct"].mean() == pytest.approx(line["accuracy"])


def test_a_page_reads_the_runs_that_it_names(folder, tmp_path):
    runs = tmp_path / "runs"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "vtw_fields.yaml").write_text("group: ablation")
    for name in ("plain", "vtw", "vtw_random", "vtw_fields"):
        (runs / name).mkdir(parents=True)
        (runs / name / "metrics.json").write_text("{}")
    (runs / "unfinished").mkdir()

    def names(*wanted):
        return [file.parent.name for file in finished(runs, wanted or None)]

    assert names() == names("*") == ["plain", "vtw", "vtw_random"]  # those of the group main
    assert names("vtw*") == ["vtw", "vtw_random"]
    assert names("ablation/*") == names("ablation/vtw*") == names("vtw_fields") == ["vtw_fields"]
    assert names("vtw*", "*/vtw*") == ["vtw", "vtw_fields", "vtw_random"]
    assert names("plain", "nowhere", "exist/*") == ["plain"]
    plan = tmp_path / "plan" / "runs"  # what params.yaml names now
    plan.mkdir(parents=True)
    for name in ("plain", "vtw"):
        (plan / f"{name}.txt").touch()
    assert names() == names("plain", "vtw*", "*/vtw*", "vtw_random") == ["plain", "vtw"]
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
    both = compare(scores, rows, lines, base="whole").set_index("line")
    table = both[both["task"] == MEAN]
    pd.testing.assert_frame_equal(table.drop(columns="task"), both[both["task"] != MEAN].drop(columns="task"))
    assert table.loc["whole", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert table.loc["whole", ["share", "p"]].tolist() == [1, 1]
    each = [score_cells(rows, "random", seed).set_index("id")["correct"] for seed in seeds]
    whole = score_cells(rows, "plain").set_index("id")["correct"]
    assert table.loc["random", "accuracy"] == pytest.approx(np.mean([e.mean() for e in each]))
    assert table.loc["random", "difference"] == pytest.approx(np.mean([e.mean() - whole.mean() for e in each]))
    text = comparison_table(compare(scores, rows, lines, base="whole"), base="whole")
    assert text.loc["whole", "FLOPs, profiler"] == "100%"
    share = table.loc["random", "profiler"] / table.loc["whole", "profiler"]
    assert text.loc["random", "FLOPs, profiler"] == f"{share:.0%}"


def test_the_frontier_is_relative_to_the_whole_model(folder):
    scores = load_scores(folder)
    points = relative_points(scores, load_answers(folder)).set_index(["run", "budget"])
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


@pytest.mark.parametrize("name", ["metrics.json", "protocol.json"])
@pytest.mark.parametrize("text", [b"", b"<<<<<<< HEAD", b"[]", b"\xe9"])
def test_a_file_that_is_not_json_is_named(folder, tmp_path, name, text):
    shutil.copytree(folder / "plain", tmp_path / "plain")
    (tmp_path / "plain" / name).write_bytes(text)
    with pytest.raises(UserError, match=f"plain/{name} (is not|cannot be read)"):
        load_scores(tmp_path)


def test_missing_runs_and_budgets_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="no finished runs"):
        load_scores(tmp_path)
    table = load_scores(folder)
    with pytest.raises(UserError, match="did you mean random"):
        score_cells(table, "randon")
    with pytest.raises(UserError, match="layer=3"):
        score_cells(table, "vtw", "layer=4")


def test_training_questions_are_not_the_test_questions():
    rows = training_rows(["easyvqa", "read"], 5)
    assert all(row.id.startswith("train-") for row in rows["easyvqa"])
    assert all(row.id.startswith("read-train-") for row in rows["read"])
    assert not {row.id for row in rows["read"]} & {row.id for row in load_rows(load_config(["task=read"]).task)}
