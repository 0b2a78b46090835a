"""``python -m thinsight.cluster``: compute the runs that are out of date as jobs, on a cluster or on several GPUs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from thinsight.errors import UserError, about, command, nearest

if TYPE_CHECKING:
    from submitit import AutoExecutor

    from thinsight.pipeline.jobs import Job

OWN = {"cluster": "local", "shards": 1, "runs": None}
"""The keys that are not submitit's, and their defaults."""


def read_arguments(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``key=value`` -> our own keys, and parameters of submitit; numbers are numbers, as in YAML."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"cannot read '{word}': write key=value, e.g. cluster=slurm shards=4 slurm_partition=gpu.")
        values[key] = text if key == "runs" else yaml.safe_load(text)
    own = OWN | {key: values.pop(key) for key in OWN if key in values}
    return own, values


def main(arguments: list[str]) -> None:
    """``cluster=slurm|local|debug shards=N runs=NAME,... submitit's parameters...``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.cluster", description=about(__doc__))
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="cluster=slurm, local or debug; shards=4: parts of each run; runs=plain,vtw: these only; others are "
        "submitit's (timeout_min=240 slurm_partition=gpu slurm_array_parallelism=8)",
    )
    own, parameters = read_arguments(parser.parse_args(arguments).settings)
    from thinsight.pipeline import jobs

    if own["cluster"] not in jobs.CLUSTERS:
        raise nearest("cluster", own["cluster"], jobs.CLUSTERS)
    shards = own["shards"]
    if type(shards) is not int or not 1 <= shards <= 1000:
        raise UserError(f"shards is a number of parts from 1 to 1000, not {shards}")
    executor = jobs.open_executor(own["cluster"], parameters)  # before anything else takes time
    from thinsight.pipeline import plan, repro

    here = own["cluster"] != "slurm"
    count = repro.job_count() if here else 1
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    repro.call_dvc(environment, "repro", "--quiet", "plan")
    runs = repro.stale_stages(environment, "evaluate")
    if own["runs"] is not None:
        runs = _chosen(own["runs"].split(","), runs)
    if not runs:
        print("every run is up to date")
        return
    work = jobs.jobs_of(runs, plan.DATA / "configs", shards)
    if here:
        _compute(executor, work, count)
        print("all journals are full: make repro")
    else:
        number = jobs.submit_array(executor, work)
        print(
            f"{len(work)} jobs are queued as array {number}; their output goes to {jobs.FOLDER}. When they are done, "
            "make the results and pages on a node with such a GPU, e.g.\n"
            f"  sbatch --dependency=afterany:{number} --gpus-per-node=1 --wrap 'make repro'"
        )


def _chosen(names: Sequence[str], stale: Sequence[str]) -> list[str]:
    """Those among the runs ``stale`` that are named; a name that is in no plan is a `UserError`."""
    from thinsight.paths import ROOT
    from thinsight.pipeline.params import read_params

    known = read_params(ROOT / "params.yaml").runs
    for name in names:
        if name not in known:
            raise nearest("run", name, known)
    return [run for run in stale if run in names]


def _compute(executor: "AutoExecutor", work: "Sequence[Job]", count: int) -> None:
    """Compute on this machine, and say how it goes; that some have failed is a `UserError`."""
    from thinsight.pipeline import jobs

    gpus = jobs.visible_gpus()
    failed = []
    for number, (job, outcome) in enumerate(jobs.compute_here(executor, work, gpus or [None] * count), 1):
        if isinstance(outcome, BaseException):
            failed.append(str(job))
            said = f"failed: {jobs.reason(outcome)}"
        else:
            said = "done, {} of the run's {} batches are there".format(*outcome)
        print(f"{number} of {len(work)} jobs: {job} {said}", flush=True)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(work)} jobs failed ({', '.join(failed)}): run the command again to go on; their "
            f"output is in {jobs.FOLDER}"
        )


if __name__ == "__main__":
    command(main)
