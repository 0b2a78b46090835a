"""A whole evaluation: every task, batch and budget of one config, resumable.

The journal of an unfinished run lies under ``.thinsight/journal`` in the project's root; the same run goes on from it,
and only the batch that was in flight is computed again. `thinsight.evaluation.campaign` computes many runs together.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from thinsight.code_hash import code_hash
from thinsight.costs.flops import decoder_shape
from thinsight.errors import UserError, writing
from thinsight.evaluation.answer import FAILED, check_reduced, failed_record
from thinsight.evaluation.batches import Answerer, Batch
from thinsight.evaluation.counted import ROWS, flops_besides_decoder
from thinsight.evaluation.journal import Journal, run_key
from thinsight.evaluation.outputs import score_records, write_run
from thinsight.evaluation.protocol import protocol_card, weights_hash
from thinsight.evaluation.shards import Shard, ShardedJournal
from thinsight.evaluation.sharing import shared_layers
from thinsight.evaluation.sweep import SweepPoint, sweep_points
from thinsight.models.loading import load_model, torch_device
from thinsight.paths import ROOT
from thinsight.tasks import metrics
from thinsight.tasks.functions import task_function
from thinsight.tasks.rows import Failure, Row, check_failures, read_rows, run_tasks

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

Tasks = Mapping[str, tuple[DictConfig, Sequence[Row], Sequence[Failure]]]
"""Name of a task -> its config, its rows, and those that cannot be asked."""

Loaded = tuple["PreTrainedModel", "ProcessorMixin", str | None]
"""A model, its processor and the hash of its weights (None for a model of the hub)."""

JOURNALS = ROOT / ".thinsight" / "journal"


@dataclass
class Loader:
    """Models and rows that several runs may share, each loaded once."""

    models: dict[str, Loaded] = field(default_factory=dict)
    tasks: dict[str, list[DictConfig]] = field(default_factory=dict)
    rows: dict[str, tuple[Sequence[Row], Sequence[Failure]]] = field(default_factory=dict)

    def run_tasks(self, config: DictConfig) -> list[DictConfig]:
        """The tasks of a run's ``config`` (see `thinsight.tasks.rows.run_tasks`), composed once for equal ones."""
        key = f"{config.tasks} {config.overridden} {_json(config.task)}"
        if key not in self.tasks:
            self.tasks[key] = run_tasks(config)
        return self.tasks[key]

    def load_model(self, config: DictConfig) -> Loaded:
        """The model of a run's ``config``."""
        key = _json(config.model)
        if key not in self.models:
            self.models[key] = (*load_model(config), weights_hash(config.model))
        return self.models[key]

    def read_rows(self, task: DictConfig, limit: int | None) -> tuple[Sequence[Row], Sequence[Failure]]:
        """The rows of a task (see `thinsight.tasks.rows.read_rows`)."""
        key = f"{limit} {_json(task)}"
        if key not in self.rows:
            self.rows[key] = read_rows(task, limit)
        return self.rows[key]


@dataclass
class Run:
    """A run with everything loaded: what there is to compute, and what its journal holds of it."""

    config: DictConfig
    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    tasks: Tasks
    points: Sequence[SweepPoint]
    protocol: dict[str, Any]
    journal: Journal
    shard: Shard | None = None

    def __post_init__(self) -> None:
        self.resumed, self.started = len(self.journal), time.perf_counter()

    @classmethod
    def open(cls, config: DictConfig, journal: Path | str | None = None, loader: Loader | None = None) -> "Run":
        """Load what ``config`` names. ``journal``: a file in place of the run's own; ``loader``: of several runs."""
        loader = loader or Loader()
        shard = Shard.parse(config.shard) if config.shard else None
        torch_device(config.model.device)  # one that is not there is told before anything is fetched
        torch.manual_seed(config.seed)
        points = sweep_points(config)
        tasks = {task.name: (task, *loader.read_rows(task, config.limit)) for task in loader.run_tasks(config)}
        model, processor, weights = loader.load_model(config)
        reads_tower = any("text_tower" in point.method.needs for point in points)
        protocol = protocol_card(model, processor, config, tasks, weights, reads_tower)
        key = run_identity(config, protocol, [task for task, *_ in tasks.values()])
        kept = ShardedJournal(Path(journal) if journal else JOURNALS / f"{key}.jsonl", key, shard)
        return cls(config, model, processor, tasks, points, protocol, kept, shard)

    @cached_property
    def batches(self) -> list[Batch]:
        """All rows, ``batch_size`` at a time, those with questions of a like length together."""
        batches = []
        for task, rows, _ in self.tasks.values():
            tokens = self.processor.tokenizer([row.question for row in rows], add_special_tokens=False)["input_ids"]
            order = sorted(range(len(rows)), key=lambda i, tokens=tokens: len(tokens[i]))
            for number, start in enumerate(range(0, len(rows), self.config.batch_size)):
                chosen = order[start : start + self.config.batch_size]
                batches.append(Batch(task, number, tuple(rows[i] for i in chosen)))
        return batches

    @property
    def total(self) -> int:
        """Answers at all budgets."""
        return sum(len(rows) for _, rows, _ in self.tasks.values()) * len(self.points)

    def missing(self, batch: Batch) -> list[int]:
        """The numbers of the budgets at which ``batch`` has not been computed; of another shard's batch, none."""
        if self.shard and not self.shard.has(batch.number):
            return []
        ids = [row.id for row in batch.rows]
        return [point for point in range(len(self.points)) if self.journal.lacks((batch.task.name, point), ids)]

    def answer(
        self, answerer: Answerer, batch: Batch, inputs: "BatchFeature | None", point: int
    ) -> list[dict[str, Any]]:
        """The records of a batch at one budget, of failed rows too; ``inputs``: what it was collated to."""
        method = self.points[point].method
        records = answerer.answer(method, batch, inputs)
        if batch.number == 0:  # before hours are spent on the others
            check_reduced(method, records)
        return [*records, *map(failed_record, batch.failures)]

    def gather(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Task -> label of a budget -> its records in the order of the rows, from a full journal.

        More failed rows than `thinsight.tasks.rows.MOST_FAILURES` are a `UserError`.
        """
        records: dict[str, dict[str, list]] = {}
        for name, (_, rows, failures) in self.tasks.items():
            records[name] = {}
            for i, point in enumerate(self.points):
                found = [*(self.journal.records[name, i][row.id] for row in rows), *map(failed_record, failures)]
                check_failures(name, [record[FAILED] for record in found if FAILED in record], len(found))
                check_reduced(point.method, found)
                records[name][str(point.budget)] = found
        return records

    def finish(self, out: Path | None = None) -> dict[str, Any]:
        """The result of a run whose journal is full, written to the folder ``out``; the journal is deleted."""
        records = self.gather()
        halved = [r["together"] for key in self.journal.records.values() for r in key.values() if "together" in r]
        counted = self._counted(min([ROWS, self.config.batch_size, *halved]))
        scores = {name: self._scores(name, budgets, counted) for name, budgets in records.items()}
        named = {"model": self.config.model.name, "method": self.config.method.name}
        if halved:  # there was no memory for whole batches
            self.protocol["hardware"]["smallest_batch"] = min(halved)
        result = {**named, "scores": scores, "protocol": self.protocol}
        if out is not None:
            seconds, answers = time.perf_counter() - self.started, len(self.journal)
            timing = {"seconds": seconds, "answers": answers, "resumed": self.resumed}
            write_run(out, self.config, self.points, records, result, timing)
        self.journal.remove()
        return result

    def _counted(self, together: int) -> dict[str, dict[str, float]]:
        """Label of a budget -> FLOPs that its answers do not tell, counted on so many rows of the first task."""
        task, rows, _ = next(iter(self.tasks.values()))
        parts = self.model, self.processor, task, rows
        return {str(point.budget): flops_besides_decoder(*parts, point.method, together) for point in self.points}

    def _scores(
        self, name: str, budgets: Mapping[str, list[dict]], counted: Mapping[str, dict[str, float]]
    ) -> dict[str, dict[str, Any]]:
        """Label of a budget -> the scores and costs of the task ``name`` under it."""
        task, shape, size = self.tasks[name][0], decoder_shape(self.model), self.model.dtype.itemsize
        summary = task_function(task, "summary", metrics) if task.summary else None
        return {
            budget: score_records(records, shape, size, summary) | counted[budget]
            for budget, records in budgets.items()
        }


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
    Equal configs give equal results to the bit on one machine, interrupted or not, in shards or not.
    """
    if config.shard:
        raise UserError(f"shard {config.shard} of a run has no result: compute all, then evaluate without shard=.")
    out = output_folder(out)
    run = Run.open(config, journal)
    try:
        _fill(run, progress)
        return run.finish(out)
    except BaseException:
        run.journal.close()
        raise


def compute(config: DictConfig, journal: Path | str | None = None, *, progress: bool | None = None) -> tuple[int, int]:
    """Compute what the journals of ``config``, a run or a shard of one, lack, and leave them for `evaluate`.

    Returns how many answers at all budgets are there now and how many the whole run has; see `evaluate`.
    """
    run = Run.open(config, journal)
    try:
        _fill(run, progress)
        return len(run.journal), run.total
    finally:
        run.journal.close()


def _fill(run: Run, progress: bool | None) -> None:
    """Compute what the journal of ``run`` lacks."""
    left = sum(len(run.missing(batch)) * len(batch.rows) for batch in run.batches)
    bar = tqdm(
        total=run.resumed + left,
        initial=run.resumed,
        disable=None if progress is None else not progress,
        mininterval=0.1 if sys.stderr.isatty() else 5.0,  # a line now and then where a bar cannot be redrawn
        unit="answer",
    )
    missing = [batch for batch in run.batches if run.missing(batch)]
    with bar, shared_layers(run.model) as shared:
        answerer = Answerer(run.model, run.processor, shared)
        for whole, (batch, inputs) in zip(missing, answerer.batches(missing), strict=True):
            bar.set_description(batch.task.name, refresh=False)
            for point in run.missing(whole):
                records = run.answer(answerer, batch, inputs, point)
                run.journal.add((batch.task.name, point), records)
                bar.update(len(records))


def output_folder(out: Path | str | None) -> Path | None:
    """The output folder, made and written to before the work so that a wrong path is found at once."""
    if out is None:
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {out} cannot be made ({error.strerror}).") from error
    with writing(f"the output folder {out}"), TemporaryFile(dir=out):
        return Path(out)


def run_identity(config: DictConfig, protocol: Mapping[str, Any], tasks: Sequence[DictConfig]) -> str:
    """The run's identity: config, data, weights and versions (all on the card), code, and on a CPU the threads.

    Not the hardware, nor the shard: a run that a cluster moves to other nodes goes on.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    del plain["shard"]
    code = code_hash(plain, *(OmegaConf.to_container(task, resolve=True) for task in tasks))
    del plain["batch_size"]  # a run goes on with batches of another size
    named = [OmegaConf.to_container(task, resolve=True) for task in tasks]  # the config holds only the names of most
    return run_key(
        config=plain,
        tasks=named,
        protocol={part: card for part, card in protocol.items() if part != "hardware"},
        code=code,
        threads=torch.get_num_threads() if protocol["model"]["device"] == "cpu" else None,
    )


def _json(config: DictConfig) -> str:
    return json.dumps(OmegaConf.to_container(config, resolve=True), sort_keys=True, default=str)
