"""A whole evaluation: every task, batch and budget of one config, resumable.

The journal of an unfinished run lies under ``.thinsight/journal`` in the project's root; the same run goes on from it,
and only the batch that was in flight is computed again. `thinsight.evaluation.campaign` computes many runs together.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from thinsight.evaluation.answer import answer, check_reduced
from thinsight.evaluation.journal import Journal, Key, run_key
from thinsight.evaluation.outputs import score_records, write_run
from thinsight.evaluation.protocol import folder_hash, protocol_card, weights_hash
from thinsight.evaluation.sharing import SharedLayers, shared_layers
from thinsight.evaluation.sweep import SweepPoint, sweep_points
from thinsight.models.loading import load_model
from thinsight.paths import ROOT
from thinsight.tasks import metrics
from thinsight.tasks.functions import task_function
from thinsight.tasks.rows import Row, collate, load_rows, run_tasks

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

Tasks = Mapping[str, tuple[DictConfig, Sequence[Row]]]
"""Name of a task -> its config and its rows."""

Loaded = tuple["PreTrainedModel", "ProcessorMixin", str | None]
"""A model, its processor and the hash of its weights (None for a model of the hub)."""

JOURNALS = ROOT / ".thinsight" / "journal"


@dataclass(frozen=True)
class Batch:
    """The ``number``-th batch of a task: some of its rows."""

    task: DictConfig
    number: int
    rows: tuple[Row, ...]


@dataclass
class Loader:
    """Models and rows that several runs may share, each loaded once."""

    models: dict[str, Loaded] = field(default_factory=dict)
    tasks: dict[str, list[DictConfig]] = field(default_factory=dict)
    rows: dict[str, Sequence[Row]] = field(default_factory=dict)

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

    def load_rows(self, task: DictConfig, limit: int | None) -> Sequence[Row]:
        """The rows of a task (see `thinsight.tasks.rows.load_rows`)."""
        key = f"{limit} {_json(task)}"
        if key not in self.rows:
            self.rows[key] = load_rows(task, limit)
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

    def __post_init__(self) -> None:
        self.resumed, self.started = len(self.journal.batches), time.perf_counter()

    @classmethod
    def open(cls, config: DictConfig, journal: Path | str | None = None, loader: Loader | None = None) -> "Run":
        """Load what ``config`` names. ``journal``: a file in place of the run's own; ``loader``: of several runs."""
        loader = loader or Loader()
        torch.manual_seed(config.seed)
        points = sweep_points(config)
        tasks = {task.name: (task, loader.load_rows(task, config.limit)) for task in loader.run_tasks(config)}
        model, processor, weights = loader.load_model(config)
        protocol = protocol_card(model, processor, config, tasks, weights)
        key = run_identity(config, protocol, [task for task, _ in tasks.values()])
        kept = Journal(Path(journal) if journal else JOURNALS / f"{key}.jsonl", key)
        return cls(config, model, processor, tasks, points, protocol, kept)

    @cached_property
    def batches(self) -> list[Batch]:
        """All rows, ``batch_size`` at a time, those with questions of a like length together."""
        batches = []
        for task, rows in self.tasks.values():
            tokens = self.processor.tokenizer([row.question for row in rows], add_special_tokens=False)["input_ids"]
            order = sorted(range(len(rows)), key=lambda i, tokens=tokens: len(tokens[i]))
            for number, start in enumerate(range(0, len(rows), self.config.batch_size)):
                chosen = order[start : start + self.config.batch_size]
                batches.append(Batch(task, number, tuple(rows[i] for i in chosen)))
        return batches

    @property
    def total(self) -> int:
        """Batches of all budgets."""
        return len(self.batches) * len(self.points)

    def missing(self, batch: Batch) -> list[int]:
        """The numbers of the budgets at which ``batch`` has not been computed."""
        return [point for point in range(len(self.points)) if self.key(batch, point) not in self.journal.batches]

    @staticmethod
    def key(batch: Batch, point: int) -> Key:
        """What the journal calls a batch at one budget."""
        return batch.task.name, point, batch.number

    def answer(self, inputs: "BatchFeature", batch: Batch, point: int) -> list[dict[str, Any]]:
        """The records of a batch at one budget; ``inputs``: what it was collated to."""
        method = self.points[point].method
        try:
            records = answer(self.model, self.processor, method, inputs, batch.rows, batch.task)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"out of GPU memory with batch_size={self.config.batch_size}: choose less.") from error
        if batch.number == 0:  # before hours are spent on it
            check_reduced(method, records)
        return records

    def gather(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Task -> label of a budget -> its records in the order of the rows, from a full journal."""
        records: dict[str, dict[str, list]] = {}
        for name, (_, rows) in self.tasks.items():
            numbers = [batch.number for batch in self.batches if batch.task.name == name]
            records[name] = {}
            for i, point in enumerate(self.points):
                found = {record["id"]: record for n in numbers for record in self.journal.batches[name, i, n]}
                records[name][str(point.budget)] = [found[row.id] for row in rows]
                check_reduced(point.method, records[name][str(point.budget)])
        return records

    def finish(self, out: Path | None = None) -> dict[str, Any]:
        """The result of a run whose journal is full, written to the folder ``out``; the journal is deleted."""
        records = self.gather()
        scores = {name: self._scores(name, budgets) for name, budgets in records.items()}
        named = {"model": self.config.model.name, "method": self.config.method.name}
        result = {**named, "scores": scores, "protocol": self.protocol}
        if out is not None:
            seconds, batches = time.perf_counter() - self.started, len(self.journal.batches)
            timing = {"seconds": seconds, "batches": batches, "resumed": self.resumed}
            write_run(out, self.config, self.points, records, result, timing)
        self.journal.remove()
        return result

    def _scores(self, name: str, budgets: Mapping[str, list[dict]]) -> dict[str, dict[str, Any]]:
        """Label of a budget -> the scores of the task ``name`` under it."""
        task, shape, size = self.tasks[name][0], decoder_shape(self.model), self.model.dtype.itemsize
        summary = task_function(task, "summary", metrics) if task.summary else None
        return {budget: score_records(records, shape, size, summary) for budget, records in budgets.items()}


def collated(
    processor: "ProcessorMixin", model: "PreTrainedModel", batches: Sequence[Batch], shared: SharedLayers
) -> Iterator[tuple[Batch, "BatchFeature"]]:
    """Each batch with its inputs on the model's device; the next one's pictures are read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(collate, processor, batch.rows, batch.task) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            inputs = coming.pop().result().to(model.device, model.dtype)
            coming += [pool.submit(collate, processor, b.rows, b.task) for b in batches[number + 1 : number + 2]]
            shared.begin(inputs)
            yield batch, inputs


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
    out = output_folder(out)
    run = Run.open(config, journal)
    try:
        _fill(run, progress)
        return run.finish(out)
    except BaseException:
        run.journal.close()
        raise


def _fill(run: Run, progress: bool | None) -> None:
    """Compute what the journal of ``run`` lacks."""
    bar = tqdm(
        total=run.total,
        initial=run.resumed,
        disable=None if progress is None else not progress,
        mininterval=0.1 if sys.stderr.isatty() else 5.0,  # a line now and then where a bar cannot be redrawn
        unit="batch",
    )
    batches = [batch for batch in run.batches if run.missing(batch)]
    with bar, shared_layers(run.model) as shared:
        for batch, inputs in collated(run.processor, run.model, batches, shared):
            bar.set_description(batch.task.name, refresh=False)
            for point in run.missing(batch):
                run.journal.add(run.key(batch, point), run.answer(inputs, batch, point))
                bar.update()


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


def _json(config: DictConfig) -> str:
    return json.dumps(OmegaConf.to_container(config, resolve=True), sort_keys=True, default=str)
