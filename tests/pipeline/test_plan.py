"""The plan of the pipeline: small texts that say what there is to run, and only change when that does."""

import json

import pytest
import yaml

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.paths import ROOT
from thinsight.pipeline import plan
from thinsight.pipeline.plan import main, write_plan, write_reads

PARAMS = {
    "preset": "smoke",
    "overrides": "limit=5",
    "tasks": "exist,read",
    "runs": {"plain": "method=identity", "par-parts": "method=par tasks=[read] sweep.points=[{},{merge:mean}]"},
    "papers": ["vtw"],
    "tours": ["quickstart"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "PLAN", tmp_path / "plan")
    monkeypatch.setattr(plan, "READS", tmp_path / "reads")
    return tmp_path


def test_a_plan_holds_a_config_and_the_code_of_every_run_and_page(folder):
    (folder / "plan" / "runs" / "gone").mkdir(parents=True)
    write_plan(PARAMS)
    names = {str(path.relative_to(folder / "plan")) for path in folder.rglob("*") if path.is_file()}
    runs = {f"runs/{run}/{file}" for run in PARAMS["runs"] for file in ("config.yaml", "code.txt")}
    assert names == runs | {f"pages/{page}.txt" for page in ("vtw", "quickstart", "report")} | {"contents.json"}
    config = load_config(path=folder / "plan" / "runs" / "par-parts" / "config.yaml")
    assert (config.run, list(config.tasks), config.limit) == ("par-parts", ["read"], 5)
    assert "thinsight.methods.par" in (folder / "plan" / "runs" / "par-parts" / "code.txt").read_text()
    assert "thinsight.methods.par" not in (folder / "plan" / "runs" / "plain" / "code.txt").read_text()
    assert [page["name"] for page in json.loads((folder / "plan" / "contents.json").read_text())] == [
        "vtw",
        "quickstart",
    ]


def test_a_page_depends_on_the_results_that_it_reads(folder):
    for run, score in (("plain", "{}"), ("vtw", "{}"), ("par", "{}")):
        (folder / "runs" / run).mkdir(parents=True)
        (folder / "runs" / run / "metrics.json").write_text(score)
    write_reads(PARAMS, folder / "runs")
    before = {path.name: path.read_text() for path in (folder / "reads").iterdir()}
    assert set(before) == {"vtw.txt", "quickstart.txt"}
    (folder / "runs" / "par" / "metrics.json").write_text('{"scores": 1}')
    write_reads(PARAMS, folder / "runs")
    assert {path.name: path.read_text() for path in (folder / "reads").iterdir()} == before
    (folder / "runs" / "vtw" / "metrics.json").write_text('{"scores": 1}')
    write_reads(PARAMS, folder / "runs")
    assert (folder / "reads" / "vtw.txt").read_text() != before["vtw.txt"]
    assert (folder / "reads" / "quickstart.txt").read_text() == ""


def test_every_stage_that_it_names_is_one_of_the_pipeline(capsys):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for part in ("runs", "papers"):
        main([part])
        named = capsys.readouterr().out.split()
        assert named
        assert {name.partition("@")[0] for name in named} <= set(stages)
    with pytest.raises(UserError, match="did you mean papers"):
        main(["papres"])
    with pytest.raises(UserError, match="usage"):
        main(["runs", "papers"])
