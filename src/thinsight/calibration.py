"""Training questions, for whatever is chosen before the test: layers, thresholds, figures of attention."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from omegaconf import DictConfig

from thinsight.config import load_task
from thinsight.divergence import NoLayerError, Selection, select_layer
from thinsight.errors import UserError
from thinsight.tasks import Row, collate, load_task_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def training_task(name: str) -> DictConfig:
    """The task ``name`` with its training questions in place of its test questions."""
    task = load_task(name)
    if task.split == "train":
        return task
    task.split = "train"
    if task.path:
        if not task.path.endswith(".parquet"):
            raise UserError(f"task {name} has no training questions beside {task.path}.")
        task.path = task.path.removesuffix(".parquet") + ".train.parquet"
    return task


def training_rows(names: Sequence[str], limit: int) -> dict[str, list[Row]]:
    """``limit`` training questions of each task."""
    return {name: load_task_rows(training_task(name), limit) for name in names}


def choose_layer(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    rows: Mapping[str, Sequence[Row]],
    thresholds: Sequence[float],
    direction: str = "withdrawn_to_full",
) -> tuple[Selection | None, pd.DataFrame]:
    """VTW's criterion over the questions of all tasks together, and for each task alone.

    Returns the joint `Selection` (None where no layer meets any threshold) and a table: task ("all" for the joint
    one), layer, divergence (mean over samples, nats).
    """
    together, lines = None, []
    groups = {"all": list(rows), **{name: [name] for name in rows}}
    for label, names in groups.items():
        batches = [collate(processor, list(rows[name]), training_task(name)) for name in names]
        try:
            found = select_layer(model, batches, threshold=thresholds, direction=direction)
            curve = found.divergence
        except NoLayerError as error:
            found, curve = None, error.divergence
        if label == "all":
            together = found
        lines += [{"task": label, "layer": layer, "divergence": value} for layer, value in curve.items()]
    return together, pd.DataFrame(lines)


def first_below(curve: pd.DataFrame, threshold: float) -> dict[str, int | None]:
    """For each task of `choose_layer`, the smallest layer at or below ``threshold``; None where there is none."""
    met = curve[curve["divergence"] <= threshold].groupby("task")["layer"].min()
    return {task: int(met[task]) if task in met else None for task in curve["task"].unique()}
