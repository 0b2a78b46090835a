"""The plan of the pipeline: small files that say what there is to run, and only change when that does."""

import json
import shutil

import pandas as pd
import pytest

from thinsight.analysis import clocks
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.ledger import claims, published
from thinsight.paths import ROOT
from thinsight.pipeline import plan
from thinsight.pipeline.plan import main, outside_files, page_code, run_code, write_plan, write_reads

PARAMS = {
    "preset": "smoke",
    "overrides": "limit=5",
    "tasks": "exist,read",
    "runs": {
        "plain": "method=identity",
        "parts": "group=ablation method=par tasks=[read] sweep.points=[{},{merge:mean}]",
    },
    "pages": ["vtw", "quickstart"],
}


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_holds_a_config_and_the_code_of_every_run_and_page(tmp_path):
    (tmp_path / "plan" / "runs").mkdir(parents=True)
    (tmp_path / "plan" / "runs" / "gone.txt").touch()
    write_plan(PARAMS, tmp_path)
    plan, configs = files(tmp_path / "plan"), files(tmp_path / "configs")
    assert set(configs) == {"plain.yaml", "parts.yaml"}
    pages = {f"pages/{page}.txt" for page in ("vtw", "quickstart", "report")}
    assert set(plan) == {"runs/plain.txt", "runs/parts.txt", *pages, "contents.json", "parameters.json"}
    config = load_config(path=tmp_path / "configs" / "parts.yaml")
    assert (config.run, config.group, list(config.tasks), config.limit) == ("parts", "ablation", ["read"], 5)
    assert "thinsight.methods.par" in plan["runs/parts.txt"]
    assert "thinsight.methods.par" not in plan["runs/plain.txt"]
    assert "thinsight.report.page" in plan["pages/report.txt"]
    assert [page["name"] for page in json.loads(plan["contents.json"])] == ["vtw", "quickstart"]


def test_runs_about_other_tasks_than_those_asked_for_are_refused(tmp_path):
    """A large model on a benchmark is not to answer the questions of the model in the box."""
    with pytest.raises(UserError, match=r"\(count\): parts\. Leave them out: .* dvc exp run -S '~runs\.parts'"):
        write_plan(PARAMS | {"tasks": "count"}, tmp_path)
    assert not files(tmp_path)


def test_what_a_run_reads_from_outside_is_part_of_its_plan(tmp_path):
    """A checkpoint, a text tower and a task that DVC does not watch."""
    named = {"model.checkpoint": tmp_path / "my model", "model.text_tower": tmp_path / "tower"}
    for folder in named.values():
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    table = tmp_path / "mine.parquet"
    table.write_bytes(b"rows")
    overrides = [f"{key}='{folder}'" for key, folder in named.items()]
    params = PARAMS | {
        "tasks": "",
        "runs": {"own": ["method=identity", *overrides, "task=exist", f"task.path={table}"]},
    }
    seen = []
    for file in (None, tmp_path / "my model" / "weights.safetensors", tmp_path / "tower" / "config.json", table):
        if file is not None:
            file.write_bytes(b"another")
        write_plan(params, tmp_path / "data")
        seen.append((tmp_path / "data" / "plan" / "runs" / "own.txt").read_text())
        listed = (tmp_path / "data" / "plan" / "outside.txt").read_text().splitlines()
        assert listed == sorted(map(str, [*named.values(), table]))
    assert len(set(seen)) == 4
    write_plan(PARAMS, tmp_path / "data")
    assert not (tmp_path / "data" / "plan" / "outside.txt").exists()


def test_the_path_of_one_task_is_that_of_its_override(tmp_path):
    assert outside_files(load_config(["tasks=[exist]", f"task.path={tmp_path}"])) == [tmp_path]
    assert outside_files(load_config(["tasks=[exist]"])) == []


def test_a_file_in_conf_that_no_run_reads_is_named_where_it_is_broken(tmp_path, monkeypatch):
    shutil.copytree(plan.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "task" / "mine.yaml").write_text("a: [")
    monkeypatch.setattr(plan, "CONF", tmp_path / "conf")
    with pytest.raises(UserError, match=r"conf/task/mine.yaml cannot be read: "):
        page_code(ROOT / "notebooks" / "vtw.ipynb")


def test_an_override_that_only_one_task_can_have_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run plain in params.yaml: task.path holds for one task"):
        write_plan(PARAMS | {"overrides": "task.path=x"}, tmp_path)


def test_a_page_with_a_ledger_runs_again_for_a_printed_number(tmp_path, monkeypatch):
    shutil.copytree(published.FOLDER, tmp_path / "published")
    monkeypatch.setattr(published, "FOLDER", tmp_path / "published")
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "FILE", tmp_path / "claims.yaml")
    shutil.copy(ROOT / "data" / "claims.yaml", claims.FILE)
    notebooks = [ROOT / "notebooks" / f"{page}.ipynb" for page in ("vtw", "quickstart")]
    before = [page_code(notebook) for notebook in notebooks]
    (tmp_path / "published" / "README.md").write_text("a remark")
    assert [page_code(notebook) for notebook in notebooks] == before
    (tmp_path / "published" / "peers.csv").write_text("another number")
    after = [page_code(notebook) for notebook in notebooks]
    assert [text == old for text, old in zip(after, before, strict=True)] == [False, True]


def test_a_page_of_claims_runs_again_for_a_claim():
    notebooks = [ROOT / "notebooks" / f"{page}.ipynb" for page in ("vtw", "par", "trsm", "ficoco", "overview")]
    read = ["  data/claims.yaml" in page_code(notebook) for notebook in notebooks]
    assert read == [True, True, True, True, False]


def test_the_page_that_shows_benchmarks_runs_again_for_a_new_one(tmp_path, monkeypatch):
    notebooks = [ROOT / "notebooks" / f"{page}.ipynb" for page in ("efficiency", "vtw")]
    before = [page_code(notebook) for notebook in notebooks]
    monkeypatch.setattr(clocks, "FOLDER", tmp_path / "benchmarks")
    assert before[1] == page_code(notebooks[1])
    here = [line for line in before[0].splitlines() if "  data/benchmarks/" in line]
    assert len(here) == len(list((ROOT / "data" / "benchmarks").glob("*.json")))
    assert not any("  data/benchmarks/" in line for line in [*page_code(notebooks[0]).splitlines(), before[1]])


def test_the_code_of_a_run_has_the_values_of_its_tasks():
    """A resolved config only names its tasks; their values decide the score as much as the model's do."""
    both, one = (run_code(load_config(["method=vtw", f"tasks=[{tasks}]"])) for tasks in ("exist,read", "exist"))
    (line,) = set(both.splitlines()) - set(one.splitlines())
    assert line.endswith("  conf/task/read.yaml")


def result(data, run, score, group="main"):
    home = data / "runs" / run
    home.mkdir(parents=True, exist_ok=True)
    (data / "configs").mkdir(exist_ok=True)
    (data / "configs" / f"{run}.yaml").write_text(f"group: {group}")
    (home / "metrics.json").write_text(json.dumps(score))
    lines = [(task, "keep=0.5", accuracy, 2.0) for task, accuracy in (("exist", 0.5), ("read", 1.0))]
    pd.DataFrame(lines, columns=["task", "budget", "accuracy", "tflops"]).to_csv(home / "curve.csv", index=False)


def test_a_page_depends_on_the_results_that_it_reads(tmp_path):
    for run in ("plain", "vtw", "par"):
        result(tmp_path, run, 0)
    write_reads(PARAMS, tmp_path)
    before = files(tmp_path / "reads")
    assert set(before) == {"vtw.txt", "quickstart.txt"}
    assert before["quickstart.txt"] == ""
    result(tmp_path, "par", 1)
    write_reads(PARAMS, tmp_path)
    assert files(tmp_path / "reads") == before
    result(tmp_path, "vtw", 1)
    write_reads(PARAMS, tmp_path)
    assert files(tmp_path / "reads")["vtw.txt"] != before["vtw.txt"]


def test_the_curves_of_the_main_runs_stand_in_one_table(tmp_path):
    result(tmp_path, "vtw", 0)
    result(tmp_path, "parts", 0, group="ablation")
    write_reads(PARAMS, tmp_path)
    assert (tmp_path / "curves.csv").read_text() == "run,budget,tflops,accuracy\nvtw,keep=0.5,2.0,0.75\n"


def test_a_command_line_that_cannot_be_read():
    with pytest.raises(UserError, match="usage"):
        main(["runs"])
