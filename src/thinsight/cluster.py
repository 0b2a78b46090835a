"""``python -m thinsight.cluster``: compute the runs that are out of date as jobs, on a cluster or on several GPUs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from thinsight.errors import UserError, about, command, nearest
from thinsight.paths import ROOT

if TYPE_CHECKING:
    from submitit import AutoExecutor

    from thinsight.pipeline.jobs import Job

OWN = {"cluster": "local", "shards": 1, "runs": None, "plan": None}
"""The keys that are not submitit's, and their defaults."""


def read_arguments(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``key=value`` -> our own keys, and parameters of submitit; numbers are numbers, as in YAML."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"cannot read '{word}': write key=value, e.g. cluster=slurm shards=4 slurm_partition=gpu.")
        values[key] = text if key in ("runs", "plan") else yaml.safe_load(text)
    own = OWN | {key: values.pop(key) for key in OWN if key in values}
    return own, values


def main(arguments: list[str]) -> None:
    """``cluster=slurm|local|debug shards=N runs=NAME,... plan=FOLDER submitit's parameters...``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.cluster", description=about(__doc__))
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="cluster=slurm, local or debug; shards=4: parts of each run; runs=plain,vtw: these only; "
        "plan=data/replicate/llava_1_5_7b: those of `thinsight replicate` in place of params.yaml's; others are "
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
    from thinsight.pipeline.repro import job_count

    here = own["cluster"] != "slurm"
    count = job_count() if here else 1
    home, known, left = _planned(ROOT / own["plan"]) if own["plan"] else _pipeline()
    wanted = own["runs"].split(",") if own["runs"] else known
    for name in wanted:
        if name not in known:
            raise nearest("run", name, known)
    work = jobs.jobs_of([run for run in left if run in wanted], home / "configs", shards)
    then = "the same `thinsight replicate` once more" if own["plan"] else "`make repro`"
    if not work:
        print("every run is up to date")
    elif here:
        _compute(executor, work, count)
        print(f"all journals are full; results and pages: {then}")
    else:
        array = jobs.submit_array(executor, work)
        print(f"{len(work)} jobs are queued as array {array}, with their output in {jobs.FOLDER}")
        print(f"then, on a node with such a GPU (sbatch --dependency=afterany:{array} --gpus-per-node=1): {then}")


def _pipeline() -> tuple[Path, list[str], list[str]]:
    """Of params.yaml: the folder of its plan, its runs, and those that DVC finds out of date."""
    from thinsight.pipeline import plan, repro
    from thinsight.pipeline.params import read_params

    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    repro.call_dvc(environment, "repro", "--quiet", "plan")
    stale = repro.stale_stages(environment, "evaluate")
    known = list(read_params(ROOT / "params.yaml").runs)
    return plan.DATA, known, [run for run in known if run in stale]


def _planned(home: Path) -> tuple[Path, list[str], list[str]]:
    """The same of a plan of `thinsight.pipeline.replication`: all runs, and those without results."""
    known = sorted(file.stem for file in (home / "configs").glob("*.yaml"))
    if not known:
        raise UserError(f"there is no plan in {home}: thinsight replicate model=NAME --dry-run writes one")
    return home, known, [run for run in known if not (home / "runs" / run / "metrics.json").is_file()]


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
            said = "done, {} of the run's {} answers are there".format(*outcome)
        print(f"{number} of {len(work)} jobs: {job} {said}", flush=True)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(work)} jobs failed ({', '.join(failed)}): run the command again to go on; their "
            f"output is in {jobs.FOLDER}"
        )


if __name__ == "__main__":
    command(main)
