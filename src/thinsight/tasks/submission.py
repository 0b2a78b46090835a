"""Files for the servers that score VQAv2's test-dev and VizWiz's test, whose answers are not public.

    thinsight evaluate task=vqav2 task.split=test task.metric=unscored ... --out data/runs/mine
    python -m thinsight.tasks.submission data/runs/mine vqav2 sent

A benchmark has such a file if the module of its scorers has a function ``submission_line(id, prediction)``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.config.compose import load_task
from thinsight.config.schema import names
from thinsight.errors import UserError, about, command, nearest, writing
from thinsight.tasks import metrics
from thinsight.tasks.functions import function_target, task_function

ANSWERS = "predictions.parquet"


def submission_files(run: Path, task: str) -> dict[str, list[dict[str, Any]]]:
    """Name of a file, TASK-BUDGET.json -> its lines: the answers that a finished run gave to the task at a budget."""
    line = _line(task)
    if not (run / ANSWERS).is_file():
        raise UserError(f"{run} holds no finished run: it has no {ANSWERS}.")
    table = pd.read_parquet(run / ANSWERS, columns=["task", "budget", "id", "prediction"])
    asked = table[table["task"] == task]
    if asked.empty:
        raise nearest(f"task of the run {run}", task, table["task"].unique())
    return {
        f"{task}-{_label(budget)}.json": [line(*answer) for answer in zip(of["id"], of["prediction"], strict=True)]
        for budget, of in asked.groupby("budget", sort=False)
    }


def _line(task: str) -> Callable[[str, str], dict[str, Any]]:
    """What makes a line of the server's file of an answer."""
    if task not in names("task"):
        raise nearest("task", task, names("task"))
    config = load_task(task)
    config.metric = f"{function_target(config.metric).rpartition('.')[0]}.submission_line".lstrip(".")
    try:
        return task_function(config, "metric", metrics)
    except UserError as error:
        raise UserError(f"task {task} has no server whose file is known here.") from error


def _label(budget: str) -> str:
    """A budget, fields and values as JSON, as part of a file's name."""
    return "-".join(f"{field}={value}" for field, value in json.loads(budget).items()) or "fixed"


def main(arguments: list[str]) -> None:
    """RUN TASK FOLDER: write the answers that a run gave to a task, a file a budget, as its server takes them."""
    if len(arguments) != 3:
        print(f"usage: python -m thinsight.tasks.submission RUN TASK FOLDER: {about(main.__doc__)}")
        return
    run, task, folder = arguments
    for name, lines in submission_files(Path(run), task).items():
        path = Path(folder) / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(lines, ensure_ascii=False), encoding="utf-8")
        print(f"{path}: {len(lines)} answers")


if __name__ == "__main__":
    command(main)
