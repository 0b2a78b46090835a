"""Runs of the pipeline, and shards of them, as jobs of submitit: on a SLURM cluster, on this machine's GPUs, or here.

A job computes its batches into a journal below ``.thinsight/journal`` and leaves it there; whoever evaluates the run
afterwards (`make repro`, its notebook) finds the journals full and only reads them. So nothing is lost with a job: one
that is preempted or runs out of time is queued again and goes on from its journal, and so does one that is submitted
anew after a kill. All machines see the project's folder. submitit (https://github.com/facebookincubator/submitit) is
optional.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from shlex import quote
from threading import Lock
from typing import TYPE_CHECKING, Any

from thinsight.errors import UserError
from thinsight.paths import ROOT

if TYPE_CHECKING:
    from submitit import AutoExecutor
    from submitit.helpers import DelayedSubmission

FOLDER = ROOT / ".thinsight" / "jobs"
"""What submitit writes of each job: its output, its errors, its function and its result."""

CLUSTERS = ("slurm", "local", "debug")

REQUEUES = 20
"""How often a SLURM job that ran out of time is queued again."""

DEFAULTS = {
    "slurm": {"name": "thinsight", "timeout_min": 240, "gpus_per_node": 1, "cpus_per_task": 8, "mem_gb": 64},
    "local": {"timeout_min": 7 * 24 * 60},
    "debug": {},
}
"""Parameters of submitit's executors; others replace them, and None takes one out."""


@dataclass(frozen=True)
class Job:
    """A run's config, a file, and which shard of it (``0/4``) to compute; all of it if None."""

    run: str
    config: Path
    shard: str | None = None

    def __call__(self) -> tuple[int, int]:
        """Compute it; how many answers of the whole run are in the journals now, and how many it has."""
        from thinsight.config.compose import load_config
        from thinsight.evaluation.run import compute

        return compute(load_config([f"shard={self.shard}"] if self.shard else [], self.config), progress=True)

    def checkpoint(self) -> "DelayedSubmission":
        """What is queued in place of a job that is interrupted: the same, since its journal is on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __str__(self) -> str:
        return f"{self.run} {self.shard}" if self.shard else self.run


def jobs_of(runs: Sequence[str], configs: Path, shards: int = 1) -> list[Job]:
    """The jobs of ``runs``, whose configs lie in the folder ``configs``, in ``shards`` parts each.

    First the first shards of all runs: they look early whether a method reduces anything.
    """
    numbers = [f"{number}/{shards}" for number in range(shards)] if shards > 1 else [None]
    return [Job(run, configs / f"{run}.yaml", shard) for shard in numbers for run in runs]


def open_executor(cluster: str, parameters: Mapping[str, Any], folder: Path = FOLDER) -> "AutoExecutor":
    """submitit's executor with its ``parameters`` over our `DEFAULTS`; what it refuses is a `UserError`."""
    try:
        from submitit import AutoExecutor
    except ImportError as error:
        raise UserError(
            "jobs are handed out by submitit, which is not installed: python -m pip install 'submitit>=1.5,<2'"
        ) from error
    try:
        executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=REQUEUES)
        executor.update_parameters(**DEFAULTS[cluster] | dict(parameters))
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:  # its own checks
        raise UserError(f"submitit does not take this for cluster={cluster}: {str(error).splitlines()[0]}") from error
    return executor


def submit_array(executor: "AutoExecutor", jobs: Sequence[Job]) -> str:
    """Hand all jobs to the queue of a cluster, as one array; its number."""
    with executor.batch():
        submitted = [executor.submit(job) for job in jobs]
    return submitted[0].job_id.partition("_")[0]


def compute_here(executor: "AutoExecutor", jobs: Sequence[Job], places: Sequence[str | None]) -> Iterator[tuple]:
    """Compute jobs on this machine, one at a time at each of ``places`` (a GPU as CUDA_VISIBLE_DEVICES
    names it; None: no GPU).

    Yields each job when it has ended, with what it returned, or with the exception that submitit gives for it.
    """
    free: SimpleQueue[str | None] = SimpleQueue()
    for place in places:
        free.put(place)
    one_by_one = Lock()  # an executor has one set of parameters

    def compute(job: Job) -> tuple[int, int] | BaseException:
        place = free.get()
        try:
            with one_by_one:
                if place is not None:
                    executor.update_parameters(local_setup=[f"export CUDA_VISIBLE_DEVICES={quote(place)}"])
                submitted = executor.submit(job)
            return submitted.exception() or submitted.result()
        finally:
            free.put(place)

    if executor.cluster == "debug":  # in this very thread, where a debugger can look at it
        yield from ((job, compute(job)) for job in jobs)
        return
    with ThreadPoolExecutor(len(places)) as pool:
        running = {pool.submit(compute, job): job for job in jobs}
        for ended in as_completed(running):
            yield running[ended], ended.result()


def reason(error: BaseException) -> str:
    """Why a job failed, in a sentence: the last line of its traceback, without the name of a `UserError`."""
    if isinstance(error, UserError):
        return str(error)
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("-", " ", "You can check"))]
    ours = [line.partition("UserError: ")[2] for line in lines if line.startswith("thinsight.errors.UserError: ")]
    return (ours or lines or [type(error).__name__])[-1]


def visible_gpus() -> list[str]:
    """The GPUs of this machine that jobs may take, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
