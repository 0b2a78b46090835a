"""A whole evaluation: every task, batch and budget of one config, resumable.

The journal of an unfinished run lies under ``.thinsight/journal`` in the project's root; the same run goes on from it,
and only the batch that was in flight is computed again.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from thinsight.code_hash import code_hash
from thinsight.costs.flops import decoder_shape
from thinsight.errors import UserError, writing
from thinsight.evaluation.answer import answer, cache_tower, check_reduced, shareable
from thinsight.evaluation.journal import Journal, run_key
from thinsight.evaluation.outputs import score_records, write_run
from thinsight.evaluation.protocol import folder_hash, protocol_card, weights_hash
from thinsight.evaluation.sweep import SweepPoint, sweep_points
from thinsight.models.families import find_parts
from thinsight.models.loading import load_model
from thinsight.paths import ROOT
from thinsight.tasks import metrics
from thinsight.tasks.functions import task_function
from thinsight.tasks.rows import Row, collate, load_rows, run_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Tasks = Mapping[str, tuple[DictConfig, Sequence[Row]]]
"""Name of a task -> its config and its rows."""


@dataclass(frozen=True)
class Batch:
    """The ``number``-th batch of a task: some of its rows."""

    task: DictConfig
    number: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class RunLoop:
    """Every row of every task under every budget, ``batch_size`` rows at a time."""

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    tasks: Tasks
    points: Sequence[SweepPoint]
    batch_size: int

    def fill(self, journal: Journal, progress: bool | None = None) -> None:
        """Compute what ``journal`` lacks. ``progress``: a bar on stderr; None shows one on a terminal."""
        batches = list(self._batches())
        bar = tqdm(
            total=len(batches) * len(self.points),
            initial=len(journal.batches),
            disable=None if progress is None else not progress,
            mininterval=0.1 if sys.stderr.isatty() else 5.0,  # a line now and then where a bar cannot be redrawn
            unit="batch",
        )
        with bar, self._shared_features():
            for batch in batches:
                name = batch.task.name
                missing = [i for i in range(len(self.points)) if (name, i, batch.number) not in journal.batches]
                if not missing:
                    continue
                bar.set_description(name, refresh=False)
                inputs = collate(self.processor, batch.rows, batch.task).to(self.model.device, self.model.dtype)
                for i in missing:
                    records = self._answer(self.points[i], inputs, batch)
                    if batch.number == 0:  # before hours are spent on it
                        check_reduced(self.points[i].method, records)
                    journal.add((name, i, batch.number), records)
                    bar.update()

    def gather(self, journal: Journal) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Task -> label of a budget -> its records in the order of the rows, from a full ``journal``."""
        records: dict[str, dict[str, list]] = {
            name: {str(point.budget): [] for point in self.points} for name in self.tasks
        }
        for batch in self._batches():
            for i, point in enumerate(self.points):
                records[batch.task.name][str(point.budget)] += journal.batches[batch.task.name, i, batch.number]
        for budgets in records.values():
            for point in self.points:
                check_reduced(point.method, budgets[str(point.budget)])
        return records

    def _batches(self) -> Iterator[Batch]:
        for task, rows in self.tasks.values():
            for number, start in enumerate(range(0, len(rows), self.batch_size)):
                yield Batch(task, number, rows[start : start + self.batch_size])

    def _shared_features(self) -> ExitStack:
        """A context in which the budgets share the features of the vision tower, where their methods allow it."""
        stack, tower = ExitStack(), find_parts(self.model).vision
        if tower is not None and shareable([point.method for point in self.points]):
            stack.enter_context(cache_tower(tower))
        return stack

    def _answer(self, point: SweepPoint, inputs: Any, batch: Batch) -> list[dict[str, Any]]:
        try:
            return answer(self.model, self.processor, point.method, inputs, batch.rows, batch.task)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"out of GPU memory with batch_size={self.batch_size}: choose less.") from error


def evaluate(
    config: DictConfig,
    out: Path | str | None = None,
    journal: Path | str | None = None,
    *,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run ``config`` and return its result, ``{"model", "method", "scores": {task: {budget: ...}}, "protocol"}``.

    ``out``: a folder for the result's files (see `evaluation.outputs`), written when all is computed. ``journal``:
    where the journal of the unfinished run is kept. ``progress``: a bar on stderr; None shows one on a terminal.
    Equal configs give equal results to the bit on one machine, interrupted or not.
    """
    torch.manual_seed(config.seed)
    points, out = sweep_points(config), _folder(out)
    tasks = {task.name: (task, load_rows(task, config.limit)) for task in run_tasks(config)}
    model, processor = load_model(config)
    protocol = protocol_card(model, processor, config, tasks, weights_hash(config.model))
    key = _key(config, protocol, [task for task, _ in tasks.values()])
    kept = Journal(Path(journal) if journal else ROOT / ".thinsight" / "journal" / f"{key}.jsonl", key)
    resumed, started = len(kept.batches), time.perf_counter()
    try:
        loop = RunLoop(model, processor, tasks, points, config.batch_size)
        loop.fill(kept, progress)
        records = loop.gather(kept)
        scores = {name: _scores(model, tasks[name][0], budgets) for name, budgets in records.items()}
        result = {"model": config.model.name, "method": config.method.name, "scores": scores, "protocol": protocol}
        if out is not None:
            timing = {"seconds": time.perf_counter() - started, "batches": len(kept.batches), "resumed": resumed}
            write_run(out, config, points, records, result, timing)
    except BaseException:
        kept.close()
        raise
    kept.remove()
    return result


def _scores(model: "PreTrainedModel", task: DictConfig, budgets: Mapping[str, list[dict]]) -> dict[str, dict[str, Any]]:
    """Label of a budget -> the scores of ``task`` under it."""
    shape, size = decoder_shape(model), model.dtype.itemsize
    summary = task_function(task, "summary", metrics) if task.summary else None
    return {budget: score_records(records, shape, size, summary) for budget, records in budgets.items()}


def _folder(out: Path | str | None) -> Path | None:
    """The output folder, made and written to before the work so that a wrong path is found at once."""
    if out is None:
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {out} cannot be made ({error.strerror}).") from error
    with writing(f"the output folder {out}"), TemporaryFile(dir=out):
        return Path(out)


def _key(config: DictConfig, protocol: Mapping[str, Any], tasks: Sequence[DictConfig]) -> str:
    """The run's identity: config, data, weights and versions (all on the card), code, and the number of threads.

    Not the hardware: a run that a cluster moves to another node goes on.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    named = [OmegaConf.to_container(task, resolve=True) for task in tasks]  # the config holds only the names of most
    tower = ROOT / (config.model.text_tower or "")
    text = folder_hash(tower) if config.model.text_tower and tower.is_dir() else None  # on the hub: its name, in config
    return run_key(
        config=plain,
        text_tower=text,
        protocol={part: card for part, card in protocol.items() if part != "hardware"},
        code=code_hash(plain, *named),
        threads=torch.get_num_threads(),
    )
