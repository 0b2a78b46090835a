"""Score a model under a method: all budgets and tasks of one run, batched, and resumable after a kill.

    python -m thinsight.evaluate model=pocket method=vtw task=easyvqa limit=100 [--config FILE] [--out FOLDER]

prints one JSON object. The journal of an unfinished run lies under ``.thinsight/journal`` in the project's root; the
same command goes on from it, and only the batch that was in flight is computed again.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from thinsight.answer import answer, check_reduced
from thinsight.budgets import Budget, budgets
from thinsight.config import ROOT, load_config, load_task
from thinsight.errors import UserError, command
from thinsight.journal import Journal, code_hash, run_key
from thinsight.meta import decoder_shape
from thinsight.models import load_model
from thinsight.outputs import write
from thinsight.protocol import card, weights_hash
from thinsight.scores import score_of
from thinsight.tasks import Row, collate, load_task_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Tasks = dict[str, tuple[DictConfig, list[Row]]]


def evaluate(
    config: DictConfig,
    out: Path | str | None = None,
    journal: Path | str | None = None,
    *,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run ``config`` and return its result, ``{"model", "method", "scores": {task: {budget: ...}}, "protocol"}``.

    ``out``: a folder for the result's files (see `thinsight.outputs`), written when all is computed. ``journal``: where
    the journal of the unfinished run is kept. ``progress``: a bar on stderr; None shows one on a terminal.
    Equal configs give equal results to the bit on one machine, interrupted or not.
    """
    torch.manual_seed(config.seed)
    tasks = _tasks(config)
    points = budgets(config)
    out = _folder(out)
    weights = weights_hash(config.model)
    model, processor = load_model(config)
    protocol = card(model, processor, config, tasks, weights)
    plain = OmegaConf.to_container(config, resolve=True)
    key = run_key(config=plain, protocol=protocol, code=code_hash(plain), threads=torch.get_num_threads())
    kept = Journal(Path(journal) if journal else ROOT / ".thinsight" / "journal" / f"{key}.jsonl", key)
    resumed, started = len(kept.batches), time.perf_counter()
    try:
        _fill(kept, _Run(model, processor, config, tasks, points), progress)
        records = {
            name: {p.name: _gather(kept, name, i, len(rows), config.batch_size) for i, p in enumerate(points)}
            for name, (_, rows) in tasks.items()
        }
        for found in records.values():
            for point in points:
                check_reduced(point.method, found[point.name])
        shape, size = decoder_shape(model), model.dtype.itemsize
        result = {
            "model": config.model.name,
            "method": config.method.name,
            "scores": {
                name: {label: score_of(rows, shape, size) for label, rows in found.items()}
                for name, found in records.items()
            },
            "protocol": protocol,
        }
        if out is not None:
            timing = {"seconds": time.perf_counter() - started, "batches": len(kept.batches), "resumed": resumed}
            write(out, config.run, points, records, result, timing)
    except BaseException:
        kept.close()
        raise
    kept.remove()
    return result


@dataclass(frozen=True)
class _Run:
    """What stays the same from batch to batch."""

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    config: DictConfig
    tasks: Tasks
    points: list[Budget]

    def batches(self) -> Iterator[tuple[str, int, DictConfig, list[Row]]]:
        """Task, number and rows of every batch."""
        for name, (task, rows) in self.tasks.items():
            size = self.config.batch_size
            for number, start in enumerate(range(0, len(rows), size)):
                yield name, number, task, rows[start : start + size]

    def answer(self, point: Budget, inputs: Any, rows: list[Row], task: DictConfig) -> list[dict]:
        """The records of one batch under one budget."""
        try:
            records = answer(self.model, self.processor, point.method, inputs, rows, task)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"out of GPU memory with batch_size={self.config.batch_size}: choose less.") from error
        return records


def _fill(journal: Journal, run: _Run, progress: bool | None) -> None:
    """Compute every batch that the journal lacks; all budgets of a batch share its preprocessed inputs."""
    todo = list(run.batches())
    every = None if progress is None else not progress
    calm = 0.1 if sys.stderr.isatty() else 5.0  # a line now and then where a bar cannot be redrawn
    total = len(todo) * len(run.points)
    with tqdm(total=total, initial=len(journal.batches), disable=every, mininterval=calm, unit="batch") as bar:
        for name, number, task, rows in todo:
            missing = [i for i in range(len(run.points)) if (name, i, number) not in journal.batches]
            if not missing:
                continue
            bar.set_description(name, refresh=False)
            inputs = collate(run.processor, rows, task).to(run.model.device, run.model.dtype)
            for i in missing:
                records = run.answer(run.points[i], inputs, rows, task)
                if number == 0:  # before hours are spent on it
                    check_reduced(run.points[i].method, records)
                journal.add((name, i, number), records)
                bar.update()


def _gather(journal: Journal, task: str, point: int, rows: int, batch_size: int) -> list[dict]:
    """The records of one task under one budget, in the order of the rows."""
    numbers = range(-(-rows // batch_size))
    return [record for number in numbers for record in journal.batches[task, point, number]]


def _tasks(config: DictConfig) -> Tasks:
    """The tasks of a run with their rows."""
    chosen = [load_task(name) for name in config.tasks] or [config.task]
    return {task.name: (task, load_task_rows(task, config.limit)) for task in chosen}


def _folder(out: Path | str | None) -> Path | None:
    """The output folder, made before the work so that a wrong path is found at once."""
    if out is None:
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder {out} cannot be made ({error.strerror}).") from error
    return Path(out)


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What the command line prints: the result, and where there is one score only, that score's numbers on top."""
    cells = [cell for found in result["scores"].values() for cell in found.values()]
    if len(cells) != 1:
        return result
    (cell,) = cells
    top = {"score": cell["accuracy"], "interval": cell["interval"], "tokens": cell["visual_tokens"]}
    head = {key: result[key] for key in ("model", "method")}
    return head | top | {"flops": cell["prefill_flops"], "kv_bytes": cell["kv_bytes"]} | result


def main(arguments: list[str]) -> None:
    """``override... [--config FILE] [--out FOLDER]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.evaluate")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides: method=vtw limit=100")
    parser.add_argument("--config", help="a resolved config instead of the files in conf/")
    parser.add_argument("--out", help="a folder for metrics.json, predictions.parquet, ...")
    parser.add_argument("--journal", help="where to keep the journal of the unfinished run")
    given = parser.parse_args(arguments)
    result = evaluate(load_config(given.overrides, given.config), given.out, given.journal, progress=True)
    print(json.dumps(summary(result), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    command(main)
