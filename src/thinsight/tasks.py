"""Questions about pictures: read from a task's data, and put to a model in its own chat format."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from thinsight.config import ROOT
from thinsight.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import BatchFeature, ProcessorMixin

COLUMNS = ("id", "image", "question", "answer", "kind")
REBUILD = "rebuild it with `make pocket-data`"


@dataclass(frozen=True)
class Row:
    """One question: ``image`` is RGB; ``kind`` the sub-kind that scores are broken down by."""

    id: str
    image: Image.Image
    question: str
    answer: str
    kind: str


def load_task_rows(task: DictConfig, limit: int | None = None) -> list[Row]:
    """The rows of a task, the first ``limit`` of an order that depends on nothing but their ids.

    The order is that of the ids' hashes, so that a limit is a random sample of every kind of question and a longer run
    begins with the rows of a shorter one. Missing or unreadable data, and a row without picture, question or answer,
    are `UserError`s.
    """
    if task.kind == "parquet":
        table = _parquet(task)
    elif task.kind == "easyvqa":
        table = _easyvqa(task)
    else:
        raise nearest("kind of task", str(task.kind), ["parquet", "easyvqa"])
    if table.empty:
        raise UserError(f"task {task.name} has no rows.")
    if table["id"].duplicated().any():
        raise UserError(f"task {task.name} has two rows with the id {table['id'][table['id'].duplicated()].iloc[0]}.")
    order = table["id"].map(lambda key: hashlib.sha256(key.encode()).hexdigest()).sort_values().index
    table = table.loc[order[:limit]]
    return [_row(task.name, *values) for values in zip(*(table[c] for c in COLUMNS), strict=True)]


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 of everything in ``rows``, pixels included, in their order."""
    found = hashlib.sha256()
    for row in rows:
        fields = (row.id, row.question, row.answer, row.kind, str(row.image.size))
        found.update("\0".join(fields).encode() + row.image.tobytes())
    return found.hexdigest()


def prompt(processor: "ProcessorMixin", row: Row, task: DictConfig) -> str:
    """The exact text that ``row`` becomes, the placeholder not yet widened to the visual tokens."""
    text = processor.apply_chat_template(_conversation(row, task), add_generation_prompt=True, tokenize=False)
    if processor.image_token not in text:
        raise UserError(f"the prompt of row {row.id} has no image placeholder {processor.image_token}: {text!r}.")
    return text


def collate(processor: "ProcessorMixin", rows: Sequence[Row], task: DictConfig) -> "BatchFeature":
    """Model inputs for a batch of rows: chat template, left padding, pictures preprocessed.

    Returns ``input_ids`` and ``attention_mask`` (batch, sequence) and ``pixel_values``, on the CPU in float32.
    """
    for row in rows:
        if processor.image_token in row.question:
            raise UserError(f"the question of row {row.id} holds the placeholder {processor.image_token} itself.")
    prompt(processor, rows[0], task)
    return processor.apply_chat_template(
        [_conversation(row, task) for row in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"padding": True, "return_tensors": "pt"},
    )


def _conversation(row: Row, task: DictConfig) -> list[dict]:
    content = [{"type": "image", "image": row.image}, {"type": "text", "text": row.question + task.suffix}]
    return [{"role": "user", "content": content}]


def _row(task: str, key: str, image: bytes | Path, question: str, answer: str, kind: str) -> Row:
    for what, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"row {key} of task {task} has no {what}.")
    if image is None or (isinstance(image, bytes) and not image):
        raise UserError(f"row {key} of task {task} has no image.")
    try:
        picture = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image).convert("RGB")
    except (OSError, TypeError, SyntaxError) as error:  # PIL raises SyntaxError on a damaged PNG
        raise UserError(f"the image of row {key} of task {task} cannot be read ({error}).") from error
    return Row(key, picture, question, answer, str(kind))


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
    return table.assign(id=table["id"].astype(str))


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
    questions, paths = readers[task.split]
    texts, answers, images = questions()
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
