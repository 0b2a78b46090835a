"""Files of answers for those who score them: the servers of VQAv2's test-dev and VizWiz's test, whose references are
not public, and the judges of MM-Vet and LLaVA-W.

    thinsight evaluate task=vqav2 task.split=test task.metric=unscored ... --out data/runs/mine
    python -m thinsight.tasks.submission data/runs/mine vqav2 sent

A benchmark has such a file if the module of its scorers has a function ``submission(answers, asked)``: id -> prediction
and an `Asked` -> the text of the file, whose name ends in the module's ``SUBMISSION``, json if it has none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import getmodule
from pathlib import Path

import pandas as pd

from thinsight.config.compose import load_config, load_task
from thinsight.config.schema import names
from thinsight.errors import UserError, about, command, nearest, writing
from thinsight.tasks import metrics
from thinsight.tasks.functions import function_target, task_function
from thinsight.tasks.rows import load_rows

ANSWERS = "predictions.parquet"


@dataclass(frozen=True)
class Asked:
    """What a file may say besides the answers: the ``task``, with the ``overrides`` that say where its data are, and
    the ``model`` with its method."""

    task: str
    model: str
    overrides: tuple[str, ...] = ()

    @cached_property
    def questions(self) -> Mapping[str, str]:
        """Id -> question, of all rows of the task, read from its data."""
        return {row.id: row.question for row in load_rows(load_config([f"task={self.task}", *self.overrides]).task)}


def submission_files(run: Path, task: str, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Name of a file, TASK-BUDGET.json -> its text: the answers that a finished run gave to the task at a budget.

    A row that could not be asked has an empty answer. ``overrides``: of the task, for files that hold its questions.
    """
    write = _writer(task)
    if not (run / ANSWERS).is_file():
        raise UserError(f"{run} holds no finished run: it has no {ANSWERS}.")
    table = pd.read_parquet(run / ANSWERS, columns=["task", "budget", "id", "prediction"])
    answered = table[table["task"] == task].fillna({"prediction": ""})
    if answered.empty:
        raise nearest(f"task of the run {run}", task, table["task"].unique())
    scores = run / "metrics.json"
    said = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else {}
    asked = Asked(task, "-".join(filter(None, (said.get("model"), said.get("method")))), tuple(overrides))
    ending = getattr(getmodule(write), "SUBMISSION", "json")
    return {
        f"{task}-{_label(budget)}.{ending}": write(dict(zip(of["id"], of["prediction"], strict=True)), asked)
        for budget, of in answered.groupby("budget", sort=False)
    }


def _writer(task: str) -> Callable[[Mapping[str, str], Asked], str]:
    """The function in the module of the task's scorers that writes the file."""
    if task not in names("task"):
        raise nearest("task", task, names("task"))
    config = load_task(task)
    config.metric = f"{function_target(config.metric).rpartition('.')[0]}.submission".lstrip(".")
    try:
        return task_function(config, "metric", metrics).func
    except UserError as error:
        raise UserError(f"task {task} has no server or judge whose file is known here.") from error


def _label(budget: str) -> str:
    """A budget, fields and values as JSON, as part of a file's name."""
    return "-".join(f"{field}={value}" for field, value in json.loads(budget).items()) or "fixed"


def main(arguments: list[str]) -> None:
    """RUN TASK FOLDER [override...]: write the answers that a run gave to a task, a file a budget, as who scores them
    takes them; overrides say where the task's questions are, if a file holds them."""
    plain = [argument for argument in arguments if "=" not in argument]
    if len(plain) != 3:
        print(f"usage: python -m thinsight.tasks.submission RUN TASK FOLDER [override...]: {about(main.__doc__)}")
        return
    run, task, folder = plain
    overrides = [argument for argument in arguments if "=" in argument]
    for name, text in submission_files(Path(run), task, overrides).items():
        path = Path(folder) / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    command(main)
