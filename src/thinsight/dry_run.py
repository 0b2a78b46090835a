"""A run before it starts: what it will load, need and take, and what of that is missing; nothing is loaded for it."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from thinsight.budgets import budgets
from thinsight.config import load_task
from thinsight.errors import UserError
from thinsight.estimate import Estimate, assumptions
from thinsight.presence import model_presence, task_presence, tower_presence

if TYPE_CHECKING:
    from torch import nn

TFLOPS = 50.0
"""Sustained teraFLOP per second that hours are told for, unless another number is given."""
COPIES = 2
"""A data set lies on disk as it was fetched and as it is mapped into memory."""


def dry_run(config: DictConfig, tflops: float = TFLOPS) -> dict[str, Any]:
    """The plan of ``config`` as plain data: ``load``, ``need``, ``take``, ``assumptions``, ``missing`` (sentences).

    ``tflops``: what the device is taken to sustain. A config that could not run is a `UserError`, as in a real run;
    data or weights that are not here are not: they are named. ``need`` and ``take`` are None if the model's shape
    stands only in files that are not here.
    """
    if tflops <= 0:
        raise UserError(f"--tflops is the speed of a device, so more than 0, not {tflops:g}.")
    points = budgets(config)
    chosen = [load_task(name) for name in config.tasks] or [config.task]
    with_tower = any("text_tower" in point.method.needs for point in points)
    with ThreadPoolExecutor() as pool:  # a hub that cannot be reached takes its time to say so
        of_model = pool.submit(model_presence, config.model)
        of_tower = pool.submit(tower_presence, config.model) if with_tower else None
        tasks = dict(zip([task.name for task in chosen], pool.map(task_presence, chosen), strict=True))
    model, tower = of_model.result(), of_tower.result() if of_tower else None
    rows = {name: _limited(task.rows, config.limit) for name, task in tasks.items()}
    need, take = None, None
    if (shape := _shape(config)) is not None:
        estimate = Estimate.of(config, shape, points, [(task, rows[task.name] or 0) for task in chosen])
        need, take = estimate.need(), estimate.take(tflops)
        fetched = sum(task.gigabytes or 0 for task in chosen if not tasks[task.name].here)
        need["disk_gb"] = round(COPIES * fetched + (0 if model.here else need["weights_gb"]), 2)
    return {
        "run": config.run,
        "load": {
            "model": {**_named(config.model, "name", "checkpoint", "revision"), **model.json},
            "text_tower": {"checkpoint": config.model.text_tower, **tower.json} if tower else None,
            "tasks": {task.name: _task(task, rows[task.name]) | tasks[task.name].json for task in chosen},
            "method": {"name": config.method.name, "budgets": [point.name for point in points]},
        },
        "need": need,
        "take": take,
        "assumptions": assumptions(config, tflops),
        "missing": [one.missing for one in (model, tower, *tasks.values()) if one and one.missing],
    }


def _task(task: DictConfig, rows: int | None) -> dict[str, Any]:
    return {"source": task.path or task.hub or task.source, **_named(task, "revision", "split"), "rows": rows}


def _named(node: DictConfig, *keys: str) -> dict[str, Any]:
    return {key: node[key] for key in keys}


def _limited(rows: int | None, limit: int | None) -> int | None:
    return rows if limit is None or rows is None else min(rows, limit)


def _shape(config: DictConfig) -> "nn.Module | None":
    """The model on the meta device; None if its shape stands only in files that are not here."""
    from thinsight.models import meta_model

    try:
        return meta_model(config.model)
    except UserError:
        return None
