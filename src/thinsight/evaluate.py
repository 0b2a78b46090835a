"""Score a model under a method: all budgets and tasks of one run, batched, and resumable after a kill.

    python -m thinsight.evaluate model=pocket method=vtw task=easyvqa limit=100 [--config FILE] [--out FOLDER]

prints one JSON object; ``--dry-run`` prints the plan of the run instead (see `thinsight.dry_run`). The journal of an
unfinished run lies under ``.thinsight/journal`` in the project's root; the same command goes on from it, and only the
batch that was in flight is computed again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from thinsight.batches import Tasks, Work
from thinsight.budgets import budgets
from thinsight.config import ROOT, load_config, load_task
from thinsight.dry_run import TFLOPS, dry_run
from thinsight.errors import UserError, command
from thinsight.journal import Journal, code_hash, run_key
from thinsight.meta import decoder_shape
from thinsight.models import load_model
from thinsight.outputs import write
from thinsight.protocol import card, folder_hash, weights_hash
from thinsight.scores import score_of
from thinsight.tasks import load_task_rows


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
    points, tasks, out = budgets(config), _tasks(config), _folder(out)
    model, processor = load_model(config)
    protocol = card(model, processor, config, tasks, weights_hash(config.model))
    key = _key(config, protocol)
    kept = Journal(Path(journal) if journal else ROOT / ".thinsight" / "journal" / f"{key}.jsonl", key)
    resumed, started = len(kept.batches), time.perf_counter()
    try:
        work = Work(model, processor, tasks, points, config.batch_size)
        work.fill(kept, progress)
        records = work.gather(kept)
        shape, size = decoder_shape(model), model.dtype.itemsize
        scores = {
            task: {budget: score_of(rows, shape, size, tasks[task][0].metric) for budget, rows in found.items()}
            for task, found in records.items()
        }
        result = {"model": config.model.name, "method": config.method.name, "scores": scores, "protocol": protocol}
        if out is not None:
            timing = {"seconds": time.perf_counter() - started, "batches": len(kept.batches), "resumed": resumed}
            write(out, config, points, records, result, timing)
    except BaseException:
        kept.close()
        raise
    kept.remove()
    return result


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What the command line prints: the result, and where there is one score only, that score's numbers on top."""
    cells = [cell for found in result["scores"].values() for cell in found.values()]
    if len(cells) != 1:
        return result
    (cell,) = cells
    head = {key: result[key] for key in ("model", "method")}
    top = {"score": cell["accuracy"], "interval": cell["interval"], "tokens": cell["visual_tokens"]}
    return head | top | {"flops": cell["prefill_flops"], "kv_bytes": cell["kv_bytes"]} | result


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


def _key(config: DictConfig, protocol: dict[str, Any]) -> str:
    """The run's identity: config, data, weights and versions (all on the card), code, and what decides rounding."""
    plain = OmegaConf.to_container(config, resolve=True)
    tower = ROOT / (config.model.text_tower or "")
    text = folder_hash(tower) if config.model.text_tower and tower.is_dir() else None  # on the hub: its name, in config
    return run_key(
        config=plain, text_tower=text, protocol=protocol, code=code_hash(plain), threads=torch.get_num_threads()
    )


def main(arguments: list[str]) -> None:
    """``override... [--config FILE] [--out FOLDER] [--journal FILE] [--dry-run [--tflops N]]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.evaluate")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides: method=vtw limit=100")
    parser.add_argument("--config", help="a resolved config instead of the files in conf/")
    parser.add_argument("--out", help="a folder for metrics.json, predictions.parquet, ...")
    parser.add_argument("--journal", help="where to keep the journal of the unfinished run")
    parser.add_argument("--dry-run", action="store_true", help="only print what it will load, need and take")
    parser.add_argument("--tflops", type=float, default=TFLOPS, help="for the plan: what the device sustains")
    given = parser.parse_args(arguments)
    config = load_config(given.overrides, given.config)
    if given.dry_run:
        print(json.dumps(dry_run(config, given.tflops), indent=1, ensure_ascii=False))
        return
    result = evaluate(config, given.out, given.journal, progress=True)
    print(json.dumps(summary(result), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    command(main)
