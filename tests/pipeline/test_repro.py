"""The quick way through the pipeline: what `dvc repro` makes, one line on the way, failures named and walled off."""

import json
import os

import pytest
import yaml
from helpers.workspace import build, run, stages

from thinsight.errors import UserError
from thinsight.pipeline import repro
from thinsight.pipeline.repro import Pipeline, Progress, call_dvc

REPRO = ("python", "-m", "thinsight.pipeline.repro")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("workspace")
    build(root, real=True)
    return root


def test_what_fails_is_named_the_rest_goes_on_and_dvc_finds_nothing_to_do_when_it_is_repaired(project):
    """A run whose method the model cannot have and a notebook that fails, among three runs and two pages."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    notebook = project / "notebooks/tour.ipynb"
    sound = notebook.read_text()
    notebook.write_text(sound.replace("print(x)", "x / 0"))
    write(project, params | {"runs": params["runs"] | {"late": "method=vtw method.layer=12"}})
    said = run(project, *REPRO, fails=True)
    assert "run late failed: method vtw with" in said
    assert "notebook tour failed:" in said
    assert "ZeroDivisionError" in said
    assert "(log: .thinsight/logs/notebook@tour.log)" in said
    assert "error: not all was made: late, tour failed, and what needs them (see above)" in said
    metrics = json.loads((project / "data/runs/vtw/metrics.json").read_text())
    assert metrics["scores"]["exist"]["layer=4"]["n"] == 8
    assert (project / "data/runs/par/metrics.json").is_file()
    for page in ("vtw", "par"):
        assert (project / f"reports/pages/{page}.html").is_file()
    assert not (project / "reports/pages/tour.html").exists()
    (journal,) = (project / ".thinsight/journal").glob("*")
    assert journal.read_bytes().count(b"\n") == 1  # the head of the one that failed; the others are gone

    notebook.write_text(sound)
    write(project, params)
    said = run(project, *REPRO)
    assert "failed" not in said
    assert "pages 3 of 3" in said
    assert (project / "reports/pages/tour.html").is_file()
    assert (project / "reports/index.html").is_file()
    assert stages(run(project, "dvc", "repro")) == []


def write(project, params):
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_what_dvc_refuses_is_its_own_sentence(project, monkeypatch):
    """Here a plan that cannot be made: a method that there is not."""
    before = (project / "params.yaml").read_text()
    write(project, yaml.safe_load(before) | {"runs": {"par": "method=pra"}})
    monkeypatch.setattr(repro, "ROOT", project)
    try:
        with pytest.raises(UserError, match=r"run par in params\.yaml: unknown method 'pra'"):
            call_dvc(os.environ | {"PYTHONPATH": str(project / "src")}, "repro", "--quiet", "plan")
    finally:
        (project / "params.yaml").write_text(before)


@pytest.fixture
def pipeline():
    reads = {"vtw": {"plain", "vtw"}, "all": {"plain", "vtw", "par"}, "tour": set()}
    return Pipeline({}, ["plain", "vtw", "par"], reads)


def begun(pipeline, most=1):
    """What would begin now, in the order of its beginning; nothing of it ends."""

    class Pool:
        def submit(self, _, stages):
            return tuple(stages)

    pipeline.start(Pool(), most)
    return list(pipeline.running.values())


def test_a_page_is_made_when_its_runs_are_there(pipeline):
    assert begun(pipeline) == []
    pipeline.ready = ["plain", "vtw"]
    assert begun(pipeline) == [["evaluate@plain", "evaluate@vtw"]]
    pipeline.running.clear()
    pipeline.finished |= {"plain", "vtw"}
    assert begun(pipeline) == [["read"]]
    pipeline.running.clear()
    assert begun(pipeline, 2) == [["notebook@vtw", "page@vtw"]]  # tour needs no run, and comes last
    pipeline.ready = ["par"]
    assert begun(pipeline, 2) == [["notebook@vtw", "page@vtw"]]  # results are not written while a page may read
    pipeline.running.clear()
    pipeline.made.add("vtw")
    assert begun(pipeline, 2) == [["evaluate@par"]]
    pipeline.running.clear()
    pipeline.finished.add("par")
    pipeline.read = 3
    assert begun(pipeline, 2) == [["notebook@tour", "page@tour"], ["notebook@all", "page@all"]]


def test_a_page_that_reads_a_failed_run_is_not_made(pipeline):
    pipeline.finished |= {"plain", "vtw"}
    pipeline.failed["par"] = "no memory"
    pipeline.read = 2
    assert begun(pipeline, 3) == [["notebook@tour", "page@tour"], ["notebook@vtw", "page@vtw"]]


def test_in_a_log_every_line_is_one(capsys, monkeypatch):
    progress = Progress(answers=100, done=20, runs=2, pages=3)
    monkeypatch.setattr(progress, "shown", -1000.0)
    progress.answered(30)
    progress.show(1, 0, ["vtw", "page par"])
    progress.say("run x failed: why")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert "run x failed: why" in lines
    assert any(line.startswith("runs 1 of 2, pages 0 of 3 | 50 of 100 answers,") for line in lines)
    assert any(line.rstrip().endswith("now vtw, page par") for line in lines)
    assert not any("\r" in line for line in lines)
