"""Many runs computed together: pictures are read once, and layers below the first cut run once, for all of them.

Each run keeps its own journal, as if it had been computed alone, so that `thinsight.evaluation.run.evaluate` goes on
from it, whether it is full or not. Several processes share the work on a CPU; one does all of it where a GPU is.
"""

import gc
import multiprocessing
import os
import queue
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omegaconf import DictConfig

from thinsight.errors import UserError
from thinsight.evaluation.batches import Answerer, Batch
from thinsight.evaluation.journal import Key
from thinsight.evaluation.run import Loader, Run
from thinsight.evaluation.sharing import shared_layers
from thinsight.models.families import find_parts
from thinsight.reduction.method import Method
from thinsight.reduction.sites import BeforeProjector, Projected

MOST = 60
"""Budgets that one piece of work has at most, so that processes end at about the same time."""

SECONDS = 5.0
"""How long a process that says nothing is waited for before it is looked after."""


class Told(NamedTuple):
    """What is told of a run on the way: a batch at one budget (``key``) is begun, or its ``records``, or why the run
    has failed."""

    run: str
    key: Key
    records: list[dict[str, Any]] | None = None
    failure: str | None = None


@dataclass
class Piece:
    """A batch, and the budgets of some runs that it is to be answered at: pairs of a run's name and a number."""

    batch: Batch
    budgets: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Campaign:
    """Opened runs by name; ``failures``: why those that could not be opened, or have failed, have."""

    runs: dict[str, Run] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, configs: Mapping[str, DictConfig]) -> "Campaign":
        """Load what all ``configs`` name, each model and each task's rows once."""
        gc.disable()  # what is loaded stays: to look through it again and again would take a fifth of the time
        campaign, loader = cls(), Loader()
        try:
            for name, config in configs.items():
                try:
                    campaign.runs[name] = Run.open(config, loader=loader)
                except UserError as error:
                    campaign.failures[name] = str(error)
        finally:
            gc.freeze()
            gc.enable()
        return campaign

    def close(self) -> None:
        """Let go of the journals, and leave them."""
        for run in self.runs.values():
            run.journal.close()

    def release(self, name: str) -> None:
        """Let go of one journal, so that another process finishes the run."""
        self.runs[name].journal.close()

    @property
    def on_gpu(self) -> bool:
        """Whether a model is on a GPU, of which one process at a time makes use."""
        return any(run.model.device.type != "cpu" for run in self.runs.values())

    @property
    def total(self) -> int:
        """Answers of all runs."""
        return sum(run.total for run in self.runs.values())

    @property
    def done(self) -> int:
        """Answers in their journals."""
        return sum(len(run.journal) for run in self.runs.values())

    def is_full(self, name: str) -> bool:
        """Whether everything of a run has been computed."""
        run = self.runs[name]
        return len(run.journal) == run.total

    def compute(self, jobs: int = 1, order: Sequence[Sequence[str]] = ()) -> Iterator[Told]:
        """Fill the journals, with ``jobs`` processes; what is computed is told as it comes.

        ``order``: names of runs in groups, each computed before the next one; other runs come last.
        """
        pieces, left = [], dict.fromkeys(self.runs)
        for group in [*order, list(left)]:
            names = [name for name in group if name in left]
            pieces += self._pieces(names)
            left = dict.fromkeys(name for name in left if name not in names)
        for told in _in_processes(self.runs, pieces, jobs) if jobs > 1 else _here(self.runs, pieces, set()):
            if told.failure is not None:
                self.failures.setdefault(told.run, told.failure)
            elif told.records is not None:
                self.runs[told.run].journal.add(told.key, told.records)
            yield told

    def _pieces(self, names: Sequence[str]) -> list[Piece]:
        """The work of some runs. What shares layers of the decoder stays together."""
        pieces: dict[tuple, list[Piece]] = {}
        for name in names:
            run = self.runs[name]
            places = [_place(point.method.resolve(find_parts(run.model).depth)) for point in run.points]
            for batch in run.batches:
                for point in run.missing(batch):
                    key = (id(run.model), places[point], batch.task.name, *(row.id for row in batch.rows))
                    some = pieces.setdefault(key, [Piece(batch)])
                    if len(some[-1].budgets) == MOST and places[point] == "front":
                        some.append(Piece(batch))
                    some[-1].budgets.append((name, point))
        whole = [piece for some in pieces.values() for piece in some]
        return sorted(whole, key=lambda piece: -len(piece.budgets) * len(piece.batch.rows))


def _place(method: Method) -> str:
    """Where a resolved method first removes anything; what does so at the same place shares what comes before."""
    sites = [reduction.site for reduction in method.reductions]
    if any(isinstance(site, BeforeProjector) for site in sites):
        return "tower"
    return "front" if any(isinstance(site, Projected) or 0 in site.layers for site in sites) else "decoder"


def _here(runs: Mapping[str, Run], pieces: Iterable[Piece], failed: set[str]) -> Iterator[Told]:
    """Compute ``pieces`` in this process; a run that fails is left out from then on."""
    most = None
    for piece in pieces:
        first = runs[piece.budgets[0][0]]
        with shared_layers(first.model) as shared:
            answerer = Answerer(first.model, first.processor, shared, most)
            ((batch, inputs),) = answerer.batches([piece.batch])
            for name, point in piece.budgets:
                if name in failed:
                    continue
                key = batch.task.name, point
                yield Told(name, key)
                try:
                    yield Told(name, key, records=runs[name].answer(answerer, batch, inputs, point))
                except Exception as error:
                    failed.add(name)
                    known = isinstance(error, UserError)
                    yield Told(name, key, failure=str(error) if known else traceback.format_exc())
            most = answerer.most


def _in_processes(runs: Mapping[str, Run], pieces: Sequence[Piece], jobs: int) -> Iterator[Told]:
    """Compute ``pieces`` in ``jobs`` processes, which inherit what has been loaded."""
    context = multiprocessing.get_context("fork")
    todo, told = context.Queue(), context.Queue()
    workers = [context.Process(target=_work, args=(runs, pieces, todo, told), daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    for number in (*range(len(pieces)), *[None] * jobs):
        todo.put(number)
    working = jobs
    try:
        while working:
            try:
                message = told.get(timeout=SECONDS)
            except queue.Empty:
                _check_alive(workers)
                continue
            if message is None:
                working -= 1
            else:
                yield message
    finally:
        for worker in workers:
            worker.terminate()


def _check_alive(workers: Sequence[multiprocessing.Process]) -> None:
    status = next((worker.exitcode for worker in workers if worker.exitcode), None)
    if status is not None:
        raise UserError(
            f"a process of the evaluation died (exit status {status}), perhaps for want of memory: run the command "
            "again, with JOBS=1 if that was it"
        )


def _work(runs: Mapping[str, Run], pieces: Sequence[Piece], todo: Any, told: Any) -> None:
    """What a process does: one piece after the other, as long as there is somebody to tell."""
    for run in runs.values():
        run.journal.close()  # the other process writes them
    parent, failed = os.getppid(), set()
    for message in _here(runs, (pieces[number] for number in iter(todo.get, None)), failed):
        if os.getppid() != parent:
            os._exit(1)
        told.put(message)
    told.put(None)
