"""Are results those in git: to the byte, but for answers that a CPU's last digits decide, or not."""

import copy
import json
import subprocess

import pytest

from thinsight.errors import UserError
from thinsight.pipeline import verify as module
from thinsight.pipeline.verify import compare_metrics, main, verify

CELL = {
    "n": 200,
    "correct": 150,
    "kinds": {"colour": {"n": 100, "accuracy": 0.9}, "shape": {"n": 100, "accuracy": 0.6}},
    "picture_tokens": 144.0,
    "visual_tokens": [144.0, 16.0],
    "prefill_flops": {"fastv": 1e9},
    "generated_tokens": 2.0,
}


def metrics(tokens=16.0, right=90, other=60, flops=1e9, generated=2.0, budget="keep=0.1111"):
    cell = copy.deepcopy(CELL) | {"correct": right + other, "visual_tokens": [144.0, tokens]}
    cell |= {"prefill_flops": {"fastv": flops}, "generated_tokens": generated}
    cell["kinds"]["colour"]["accuracy"], cell["kinds"]["shape"]["accuracy"] = right / 100, other / 100
    return json.dumps({"model": "pocket", "method": "par", "scores": {"exist": {budget: cell}}})


@pytest.mark.parametrize(
    ("old", "new", "verdict", "text"),
    [
        (metrics(), metrics(), "same", "same"),
        (metrics(), metrics(right=91), "flipped", "at least 1 of 200 answers flipped"),
        (metrics(), metrics(right=91, other=59), "flipped", "at least 2 of 200 answers flipped"),
        (metrics(), metrics(generated=2.1), "flipped", "none of 200 answers is scored otherwise"),
        (metrics(), metrics(right=80), "different", "different; at least 10 of 200 answers flipped"),
        (metrics(), metrics(tokens=17.0), "different", "other numbers of visual tokens"),
        (metrics(), metrics(flops=1.001e9), "different", "other FLOPs"),
        (metrics(tokens=16.5), metrics(tokens=16.6, flops=1.001e9), "flipped", "none of 200"),
        (metrics(tokens=16.5), metrics(tokens=17.5), "different", "other numbers of visual tokens"),
        (metrics(), metrics(budget="keep=0.2"), "different", "other tasks or budgets"),
    ],
)
def test_verdicts(old, new, verdict, text):
    comparison = compare_metrics(old, new)
    assert comparison.verdict == verdict
    assert text in str(comparison)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with the results of three runs, of which one was changed after the commit, and a fourth run."""

    def git(*words):
        name = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True)

    for run in ("plain", "par", "gone"):
        (tmp_path / "data/runs" / run).mkdir(parents=True)
        (tmp_path / "data/runs" / run / "metrics.json").write_text(metrics())
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "results")
    (tmp_path / "data/runs/par/metrics.json").write_text(metrics(right=91))
    (tmp_path / "data/runs/par/protocol.json").write_text(json.dumps({"hardware": {"processor": "a new one"}}))
    (tmp_path / "data/runs/gone/metrics.json").unlink()
    (tmp_path / "data/runs/new").mkdir()
    (tmp_path / "data/runs/new/metrics.json").write_text(metrics())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def test_runs_that_are_here_and_in_git_are_compared(project, capsys):
    compared = verify(project / "data" / "runs")
    assert {run: comparison.verdict for run, comparison in compared.items()} == {"par": "flipped", "plain": "same"}
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert "hardware here:    processor a new one" in printed
    assert "hardware in git:  not recorded" in printed
    assert "2 runs: 1 same, 1 flipped, 0 different" in printed


def test_a_different_result_is_exit_status_1_and_none_is_2(project):
    (project / "data/runs/par/metrics.json").write_text(metrics(tokens=20.0))
    with pytest.raises(SystemExit) as done:
        main(["HEAD"])
    assert done.value.code == 1
    with pytest.raises(UserError, match="git has no revision another-revision"):
        main(["another-revision"])
    with pytest.raises(UserError, match="usage"):
        main(["a", "b"])


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"GIT_DIR": "/none"}, "git cannot read what is committed: not a git repository: '/none'"),
        ({"PATH": "/none"}, "git cannot be run (No such file or directory)"),
    ],
)
def test_a_git_that_fails_is_not_taken_for_a_revision_without_results(project, monkeypatch, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        main([])
    assert str(caught.value) == sentence


def test_a_tree_that_is_no_repository_is_said_to_be_none(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(UserError, match="git cannot read what is committed: not a git repository"):
        main([])


def test_results_may_lie_behind_a_link(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "runs"
    (project / "data" / "runs").rename(elsewhere)
    (project / "data" / "runs").symlink_to(elsewhere)
    assert set(verify(project / "data" / "runs")) == {"par", "plain"}


@pytest.mark.parametrize("text", [b"", b"{", b"<<<<<<< HEAD\n{}", b"[]", b"3", b"\xe9"])
@pytest.mark.parametrize("name", ["metrics.json", "protocol.json"])
def test_a_file_that_is_not_json_is_named(project, name, text):
    (project / "data" / "runs" / "par" / name).write_bytes(text)
    with pytest.raises(UserError, match=f"data/runs/par/{name} (is not|cannot be read)"):
        main([])


def test_json_that_no_run_wrote_is_named(project):
    (project / "data" / "runs" / "par" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"HEAD:data/runs/par/metrics.json or .* does not hold what a run writes"):
        main([])
