"""Where a task's questions come from when they are not a data set of the hub: a parquet file, or a package."""

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from thinsight.config import ROOT
from thinsight.errors import UserError, nearest
from thinsight.hub import questions

COLUMNS = ("id", "image", "question", "answer", "kind")
"""What every source gives for each question; one may add ``answers`` and ``group`` (see `thinsight.tasks.Row`)."""
REBUILD = "rebuild it with `make pocket-data`"


def table_of(task: DictConfig) -> pd.DataFrame:
    """All questions of ``task`` under `COLUMNS`; pictures are encoded bytes, paths, or still to be read."""
    if task.kind == "parquet":
        return _parquet(task)
    if task.kind == "easyvqa":
        return _easyvqa(task)
    if task.kind == "hub":
        return questions(task)
    raise nearest("kind of task", str(task.kind), ["parquet", "easyvqa", "hub"])


def _parquet(task: DictConfig) -> pd.DataFrame:
    if not task.path:
        raise UserError(f"task {task.name} names no file: set task.path.")
    path = ROOT / task.path
    hint = f": {REBUILD}" if path.is_relative_to(ROOT / "data" / "pocket") else ""
    if not path.is_file():
        raise UserError(f"task {task.name} has no data at {task.path}{hint}.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"the data of task {task.name} at {task.path} is not readable parquet{hint}.") from error
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"the data of task {task.name} at {task.path} lacks the column {missing[0]}{hint}.")
    return table.assign(id=table["id"].astype(str))[list(COLUMNS)]


def _easyvqa(task: DictConfig) -> pd.DataFrame:
    """The questions of the `easy-vqa` package; images stay paths until a limit has been applied."""
    try:
        import easy_vqa
    except ImportError as error:
        raise UserError("task easyvqa needs the package easy-vqa: pip install easy-vqa.") from error
    readers = {
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
    }
    if task.split not in readers:
        raise nearest(f"split of task {task.name}", task.split, readers)
    asked, paths = readers[task.split]
    texts, answers, images = asked()
    where = paths()
    return pd.DataFrame(
        {
            "id": [f"{task.split}-{i:05d}" for i in range(len(texts))],
            "image": [Path(where[i]) if i in where else None for i in images],
            "question": texts,
            "answer": answers,
            "kind": [_easyvqa_kind(answer) for answer in answers],
        }
    )


def _easyvqa_kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"
