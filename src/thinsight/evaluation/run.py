"""A whole evaluation: every task, batch and budget of one config, resumable.

python -m thinsight.evaluate model=pocket method=vtw task=easyvqa limit=100 [--config FILE] [--out FOLDER]

prints one JSON object; ``--dry-run`` prints the plan of the run instead (see `thinsight.evaluation.dry_run`). The journal of an
unfinished run lies under ``.thinsight/journal`` in the project's root; the same command goes on from it, and only the
batch that was in flight is computed again.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from thinsight.code_hash import code_hash
from thinsight.config.compose import load_task
from thinsight.costs.flops import decoder_shape
from thinsight.errors import UserError
from thinsight.evaluation.answer import answer, cache_tower, check_reduced, shareable
from thinsight.evaluation.journal import Journal, run_key
from thinsight.evaluation.outputs import score_records, write_run
from thinsight.evaluation.protocol import folder_hash, protocol_card, weights_hash
from thinsight.evaluation.sweep import SweepPoint, sweep_points
from thinsight.models.architecture import find_parts
from thinsight.models.loading import load_model
from thinsight.paths import ROOT
from thinsight.tasks.rows import Row, collate, load_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


Tasks = Mapping[str, tuple[DictConfig, Sequence[Row]]]
"""Name of a task -> its config and its rows."""


@dataclass(frozen=True)
class RunLoop:
    """Every row of every task under every budget, ``batch_size`` rows at a time."""

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    tasks: Tasks
    budgets: Sequence[SweepPoint]
    batch_size: int

    def fill(self, journal: Journal, progress: bool | None = None) -> None:
        """Compute what ``journal`` lacks. ``progress``: a bar on stderr; None shows one on a terminal."""
        batches = list(self._batches())
        calm = 0.1 if sys.stderr.isatty() else 5.0  # a line now and then where a bar cannot be redrawn
        bar = tqdm(
            total=len(batches) * len(self.budgets),
            initial=len(journal.batches),
            disable=None if progress is None else not progress,
            mininterval=calm,
            unit="batch",
        )
        with bar, ExitStack() as stack:
            if (tower := find_parts(self.model).vision) is not None and shareable([b.method for b in self.budgets]):
                stack.enter_context(cache_tower(tower))
            for name, number, task, rows in batches:
                missing = [i for i in range(len(self.budgets)) if (name, i, number) not in journal.batches]
                if not missing:
                    continue
                bar.set_description(name, refresh=False)
                inputs = collate(self.processor, rows, task).to(self.model.device, self.model.dtype)
                for i in missing:
                    records = self._answer(self.budgets[i], inputs, rows, task)
                    if number == 0:  # before hours are spent on it
                        check_reduced(self.budgets[i].method, records)
                    journal.add((name, i, number), records)
                    bar.update()

    def gather(self, journal: Journal) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Task -> budget -> the records in the order of the rows, from a full ``journal``."""
        found: dict[str, dict[str, list]] = {name: {budget.name: [] for budget in self.budgets} for name in self.tasks}
        for name, number, _, _ in self._batches():
            for i, budget in enumerate(self.budgets):
                found[name][budget.name] += journal.batches[name, i, number]
        for budget in self.budgets:
            for rows in found.values():
                check_reduced(budget.method, rows[budget.name])
        return found

    def _batches(self) -> Iterator[tuple[str, int, DictConfig, Sequence[Row]]]:
        """Task, number and rows of every batch."""
        for name, (task, rows) in self.tasks.items():
            for number, start in enumerate(range(0, len(rows), self.batch_size)):
                yield name, number, task, rows[start : start + self.batch_size]

    def _answer(self, budget: SweepPoint, inputs: Any, rows: Sequence[Row], task: DictConfig) -> list[dict[str, Any]]:
        try:
            return answer(self.model, self.processor, budget.method, inputs, rows, task)
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

    ``out``: a folder for the result's files (see `thinsight.evaluation.outputs`), written when all is computed. ``journal``: where
    the journal of the unfinished run is kept. ``progress``: a bar on stderr; None shows one on a terminal.
    Equal configs give equal results to the bit on one machine, interrupted or not.
    """
    torch.manual_seed(config.seed)
    points, tasks, out = sweep_points(config), _tasks(config), _folder(out)
    model, processor = load_model(config)
    protocol = protocol_card(model, processor, config, tasks, weights_hash(config.model))
    key = _key(config, protocol)
    kept = Journal(Path(journal) if journal else ROOT / ".thinsight" / "journal" / f"{key}.jsonl", key)
    resumed, started = len(kept.batches), time.perf_counter()
    try:
        work = RunLoop(model, processor, tasks, points, config.batch_size)
        work.fill(kept, progress)
        records = work.gather(kept)
        shape, size = decoder_shape(model), model.dtype.itemsize
        scores = {
            task: {budget: score_records(rows, shape, size, tasks[task][0].metric) for budget, rows in found.items()}
            for task, found in records.items()
        }
        result = {"model": config.model.name, "method": config.method.name, "scores": scores, "protocol": protocol}
        if out is not None:
            timing = {"seconds": time.perf_counter() - started, "batches": len(kept.batches), "resumed": resumed}
            write_run(out, config, points, records, result, timing)
    except BaseException:
        kept.close()
        raise
    kept.remove()
    return result


def _tasks(config: DictConfig) -> Tasks:
    """The tasks of a run with their rows."""
    chosen = [load_task(name) for name in config.tasks] or [config.task]
    return {task.name: (task, load_rows(task, config.limit)) for task in chosen}


def _folder(out: Path | str | None) -> Path | None:
    """The output folder, made before the work so that a wrong path is found at once."""
    if out is None:
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {out} cannot be made ({error.strerror}).") from error
    return Path(out)


def _key(config: DictConfig, protocol: dict[str, Any]) -> str:
    """The run's identity: config, data, weights and versions (all on the card), code, and what decides rounding."""
    plain = OmegaConf.to_container(config, resolve=True)
    tower = ROOT / (config.model.text_tower or "")
    text = folder_hash(tower) if config.model.text_tower and tower.is_dir() else None  # on the hub: its name, in config
    return run_key(
        config=plain, text_tower=text, protocol=protocol, code=code_hash(plain), threads=torch.get_num_threads()
    )
