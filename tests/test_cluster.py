"""Runs and shards as jobs of submitit: what they leave is read by the pipeline, an interrupted job goes on.

Tests with jobs are skipped where submitit is missing: python -m pip install 'submitit>=1.5,<2'.
"""

import importlib.util
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from helpers import tiny_checkpoint as tiny
from helpers.workspace import build, run

from thinsight.cluster import main, read_arguments
from thinsight.config.compose import load_config, to_yaml
from thinsight.errors import UserError
from thinsight.evaluation.run import Run, evaluate
from thinsight.pipeline import jobs
from thinsight.pipeline.jobs import Job, jobs_of, open_executor, reason, submit_array, visible_gpus

FILES = ("metrics.json", "predictions.parquet", "trace.parquet", "curve.csv", "protocol.json")

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed: it is optional"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Three runs of pocket, eight questions of one task each, two in a batch."""
    root = tmp_path_factory.mktemp("workspace")
    build(root, real=True)
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"overrides": "batch_size=2"}))
    return root


@pytest.fixture
def config(tmp_path):
    """A run of 100 batches of a tiny model, as the file of its config."""
    tiny.save_model(tmp_path / "model")
    tiny.save_task(tmp_path / "flat.parquet", rows=100)
    where = [f"model.checkpoint={tmp_path / 'model'}", "task=exist", f"task.path={tmp_path}/flat.parquet"]
    text = to_yaml(load_config([*where, "batch_size=2", "limit=null", "method=vtw", "sweep.layer=[1,2]"]))
    (tmp_path / "vtw.yaml").write_text(text)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "vtw.yaml"
    torch.set_num_threads(before)


@needs_submitit
def test_what_jobs_have_computed_is_only_read_by_the_pipeline(project):
    said = run(project, "python", "-m", "thinsight.cluster", "cluster=local", "shards=2", "runs=plain,vtw")
    assert "4 of 4 jobs: " in said
    assert "all journals are full; results and pages: `make repro`" in said
    journals = sorted((project / ".thinsight/journal").iterdir())
    assert [path.name.split(".", 1)[1] for path in journals] == ["0-of-2.jsonl", "1-of-2.jsonl"] * 2
    said = run(project, "python", "-m", "thinsight.cluster", "cluster=debug", "runs=par")
    assert "1 of 1 jobs: par done, " in said
    run(project, "python", "-m", "thinsight.pipeline.repro")
    for name in ("plain", "vtw", "par"):
        timing = json.loads((project / f"data/runs/{name}/timing.json").read_text())
        assert timing["resumed"] == timing["answers"] >= 4
    assert not list((project / ".thinsight/journal").iterdir())
    line = ["--config", "data/configs/vtw.yaml", "--out", "alone", "--journal", "alone.jsonl"]
    run(project, "python", "-m", "thinsight.evaluate", *line)
    for file in FILES:
        assert (project / "alone" / file).read_bytes() == (project / "data/runs/vtw" / file).read_bytes()
    assert "every run is up to date" in run(project, "python", "-m", "thinsight.cluster")


@needs_submitit
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of processes")
def test_a_preempted_job_is_queued_again_and_goes_on(config, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    opened = Run.open(load_config(path=config))
    opened.journal.remove()
    journal, total = opened.journal.path, opened.total
    job = open_executor("local", {}, tmp_path / "jobs").submit(Job("vtw", config))
    deadline = time.monotonic() + 60
    while not job.done() and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.002)
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # what SLURM sends, too
    assert job.result() == (total, total)
    assert "preempted" in job.stderr()
    assert journal.read_bytes().count(b"\n") == total // 2 + 1  # batches of two rows, none of them twice
    evaluate(load_config(path=config), tmp_path / "read")
    evaluate(load_config(path=config), tmp_path / "alone", tmp_path / "alone.jsonl")
    assert json.loads((tmp_path / "read/timing.json").read_text())["resumed"] == total
    for file in FILES:
        assert (tmp_path / "read" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


@needs_submitit
def test_what_fails_is_named_and_the_rest_is_computed(config, tmp_path):
    broken = config.with_name("broken.yaml")
    broken.write_text(config.read_text().replace(str(tmp_path / "model"), str(tmp_path / "nowhere")))
    work = [Job("broken", broken), Job("vtw", config, "9/50")]
    for cluster in ("local", "debug"):
        executor = open_executor(cluster, {}, tmp_path / "jobs")
        ended = {job.run: outcome for job, outcome in jobs.compute_here(executor, work, [None, None])}
        assert "has no weights at" in reason(ended["broken"])
        assert "Traceback" not in reason(ended["broken"])
        assert ended["vtw"] == (4, 200)
    opened = Run.open(load_config(path=config))
    assert len(opened.journal) == 4
    opened.journal.remove()


@needs_submitit
def test_each_job_has_a_gpu_of_its_own(tmp_path):
    look = partial(os.getenv, "CUDA_VISIBLE_DEVICES")
    ended = jobs.compute_here(open_executor("local", {}, tmp_path / "jobs"), [look] * 4, ["3", "MIG-a"])
    assert {seen for _, seen in ended} == {"3", "MIG-a"}


@needs_submitit
def test_a_cluster_gets_one_array_with_a_gpu_a_job(tmp_path, monkeypatch):
    """SLURM's commands are stand-ins here: what is handed to them is what counts."""
    for name in ("srun", "sbatch"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text("#!/bin/sh\necho Submitted batch job 77\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    given = {"slurm_partition": "gpu", "slurm_array_parallelism": 3, "timeout_min": 60}
    executor = open_executor("slurm", given, tmp_path / "jobs")
    assert submit_array(executor, jobs_of(["plain", "vtw"], tmp_path, 2)) == "77"
    files = list((tmp_path / "jobs").glob("*.sh"))  # with a copy of it
    lines = files[0].read_text().splitlines()
    for line in ("--array=0-3%3", "--partition=gpu", "--gpus-per-node=1", "--time=60", "--job-name=thinsight"):
        assert f"#SBATCH {line}" in lines
    with pytest.raises(UserError, match=r"submitit does not take this for cluster=slurm: .*slurm_partitoin"):
        open_executor("slurm", {"slurm_partitoin": "gpu"}, tmp_path / "jobs")


@needs_submitit
def test_where_there_is_no_cluster_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="submitit does not take this for cluster=slurm"):
        open_executor("slurm", {}, tmp_path / "jobs")


def test_without_submitit_is_one_sentence_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"submitit, which is not installed: python -m pip install 'submitit>=1.5,<2'"):
        main(["cluster=local"])


def test_jobs_of_runs_and_shards(tmp_path):
    assert list(map(str, jobs_of(["plain", "vtw"], tmp_path, 2))) == ["plain 0/2", "vtw 0/2", "plain 1/2", "vtw 1/2"]
    assert jobs_of(["plain"], tmp_path) == [Job("plain", tmp_path / "plain.yaml", None)]


def test_settings_are_keys_with_values():
    own, rest = read_arguments(["shards=4", "runs=trsm-20,1e3", "slurm_partition=gpu", "gpus_per_node=null"])
    assert own == {"cluster": "local", "shards": 4, "runs": "trsm-20,1e3", "plan": None}
    assert rest == {"slurm_partition": "gpu", "gpus_per_node": None}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cluster=slrum"], "unknown cluster 'slrum': did you mean slurm?"),
        (["shards=0"], "shards is a number of parts from 1 to 1000, not 0"),
        (["shards=many"], "shards is a number of parts from 1 to 1000, not many"),
        (["slurm"], "cannot read 'slurm': write key=value"),
    ],
)
def test_a_wrong_setting_is_one_sentence(words, sentence):
    with pytest.raises(UserError) as error:
        main(words)
    assert str(error.value).startswith(sentence)


def test_gpus_are_those_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
