"""The real dvc.yaml, on stand-in notebooks: what runs again after which change, and what DVC then shows."""

import json
import re

import pytest
import yaml
from helpers.workspace import READS, build, run, stages

from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.paths import ROOT

CHEAP = {"plan", "read"}
PAGES = {f"{stage}@{page}" for stage in ("notebook", "page") for page in [*READS, "tour"]}
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("workspace")
    build(root)
    ran = stages(run(root, "dvc", "repro"))
    assert set(ran) == CHEAP | PAGES | {"evaluate@plain", "evaluate@vtw", "evaluate@par", "index"}
    return root


@pytest.fixture
def change(project):
    """Append to files, or replace in them, and return what a function says then; afterwards the files are as before,
    and the next call of DVC finds them so."""

    def apply(say, *changes):
        before = {project / name: (project / name).read_text() for name, *_ in changes}
        for name, text, *instead_of in changes:
            path = project / name
            assert all(part in before[path] for part in instead_of)
            path.write_text(before[path].replace(instead_of[0], text) if instead_of else f"{before[path]}\n{text}\n")
        try:
            return say(project)
        finally:
            for path, text in before.items():
                path.write_text(text)

    return apply


def stale(project):
    """What `dvc repro` would run behind the plan, as far as it knows before it does."""
    run(project, "dvc", "repro", "plan")
    return set(json.loads(run(project, "dvc", "status", "--json").splitlines()[-1]))


def test_a_second_repro_has_nothing_to_do(project):
    assert stages(run(project, "dvc", "repro")) == []
    assert (project / "reports" / "index.html").is_file()
    assert (project / "reports" / "pages" / "vtw.html").is_file()


def test_a_remark_in_conf_or_code_runs_only_the_cheap_stages(change):
    remarks = (("conf/method/vtw.yaml", "# a remark"), ("src/thinsight/evaluation/run.py", "# a remark"))
    assert change(stale, *remarks) <= CHEAP


def test_presentation_runs_no_evaluation_and_no_paper(change):
    template, code = "src/thinsight/report/templates/style.css", "src/thinsight/report/page.py"
    found = change(stale, (code, "CHANGED = 1"), (template, "/* changed */"))
    assert {"page@vtw", "page@par", "page@tour", "index"} <= found
    assert found <= CHEAP | {"page@vtw", "page@par", "page@tour", "index"}


def test_a_threshold_of_par_runs_par_and_the_pages_that_read_it_and_nothing_else(change):
    ran = change(
        lambda project: set(stages(run(project, "dvc", "repro"))),
        ("conf/method/par.yaml", "tau_e: 0.25 ", "tau_e: 0.2 "),
    )
    assert "evaluate@par" in ran
    assert ran <= CHEAP | {"evaluate@par", "notebook@par", "page@par", "index"}


def test_code_that_evaluation_reaches_runs_it_again(change):
    found = change(stale, ("src/thinsight/evaluation/run.py", "CHANGED = 1"))
    assert {"evaluate@plain", "evaluate@vtw", "evaluate@par"} <= found


def test_a_failing_notebook_stops_the_pipeline_without_a_result(project, change):
    failed = project / "reports/notebooks/vtw.failed.ipynb"
    said = change(
        lambda project: run(project, "dvc", "repro", "page@vtw", fails=True),
        ("notebooks/vtw.ipynb", "len(reads) / 0, runs", "print(runs, reads)"),
    )
    assert "ZeroDivisionError" in said
    assert "page@vtw" not in stages(said)
    assert not (project / "reports/notebooks/vtw.ipynb").exists()
    assert failed.exists()
    assert "notebook@vtw" in stages(run(project, "dvc", "repro", "notebook@vtw"))
    assert (project / "reports/notebooks/vtw.ipynb").exists()


def _questions(project):
    """How many questions the run of vtw was asked."""
    return json.loads((project / "data/runs/vtw/metrics.json").read_text())["scores"]["exist"]["all"]["n"]


def test_an_experiment_and_what_dvc_shows_of_it(project):
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "results")
    before = _questions(project)
    ran = stages(run(project, "dvc", "exp", "run", "-S", "overrides='limit=5'", "evaluate@vtw"))
    assert set(ran) == {"plan", "evaluate@vtw"}
    assert _questions(project) == 5 < before
    shown = run(project, "dvc", "metrics", "diff")
    assert "data/runs/vtw/metrics.json" in shown
    assert f" {5 - before}\n" in shown
    shown = run(project, "dvc", "params", "diff")
    assert "data/configs/vtw.yaml" in shown
    assert "limit" in shown
    assert "dvc_plots" in run(project, "dvc", "plots", "show")
    assert "accuracy" in (project / "dvc_plots" / "index.html").read_text()


def test_the_frozen_stages_train_nothing_by_themselves():
    for name in ("pocket", "pocket-data"):
        assert PIPELINE["stages"][name]["frozen"]


def planned() -> list[tuple[str, str]]:
    """(run, preset): every run under the preset of params.yaml, and one run of each sweep under the others."""
    sweeps = {re.search(r"sweep\S*|$", line)[0]: name for name, line in PARAMS["runs"].items()}
    others = [preset for preset in names("preset") if preset != PARAMS["preset"]]
    return [(run, PARAMS["preset"]) for run in PARAMS["runs"]] + [(r, p) for p in others for r in sweeps.values()]


@pytest.mark.parametrize(("name", "preset"), planned())
def test_every_planned_run_composes(name, preset):
    config = load_config(
        [*PARAMS["runs"][name].split(), f"preset={preset}", f"tasks=[{PARAMS['tasks']}]", f"run={name}"]
    )
    assert config.run == name
    assert config.group != "main" or set(config.tasks) == set(PARAMS["tasks"].split(","))
    assert "sweep=budgets" not in PARAMS["runs"][name].split() or config.sweep["keep"] == config.budgets


def test_a_run_is_one_line_of_the_parameters():
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) <= 110
    assert not [name for name in PARAMS["runs"] if f"{name}/" in text.replace("data/runs/plain/", "")]
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(PARAMS["pages"]) == notebooks - {"evaluate"}


@pytest.mark.parametrize("preset", names("preset"))
def test_random_is_run_at_every_budget_with_three_seeds(preset):
    """What a method is compared with at a budget has to be there at that budget."""
    config = load_config([*PARAMS["runs"]["random"].split(), f"preset={preset}"])
    assert set(config.budgets) <= set(config.sweep["keep"])
    assert len(config.sweep["seed"]) >= 3
    assert sum("sweep=budgets" in words.split() for words in PARAMS["runs"].values()) > 15
