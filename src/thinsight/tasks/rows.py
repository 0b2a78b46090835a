"""Questions with their pictures as rows, and batches of model inputs."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from thinsight.config.compose import load_task
from thinsight.errors import UserError, nearest
from thinsight.tasks import benchmarks, metrics, mini, sources
from thinsight.tasks.functions import task_function
from thinsight.tasks.pictures import decode_picture, why_unread

if TYPE_CHECKING:
    from transformers import BatchFeature, ProcessorMixin


ALL = "all"
"""The kind of a question that has none."""


@dataclass(frozen=True)
class StoredImage:
    """A picture that is read and decoded each time it is asked for: a benchmark's pictures do not fit in memory.

    ``whose`` names its row in messages; ``read`` gives the encoded bytes, or nothing.
    """

    whose: str
    read: Callable[[], bytes | None]

    def encoded(self) -> bytes:
        """The bytes of the file."""
        try:
            data = self.read()
        except OSError as error:
            raise UserError(f"the image of {self.whose} cannot be read ({why_unread(error)}).") from error
        if not data:
            raise UserError(f"{self.whose} has no image.")
        return data

    def decoded(self) -> Image.Image:
        """The picture in RGB."""
        return decode_picture(self.whose, self.encoded())


@dataclass(frozen=True)
class Row:
    """One question.

    ``picture``: an RGB image or a stored one; ``kind``: the sub-kind that scores are broken down by; ``answers``: all
    references where a question has several, or the texts of its choices; ``group``: what is scored together with it,
    e.g. the picture's other question; ``group_size``: how many rows that is where none is lost, 0 if unknown;
    ``further``: the pictures behind the first, where a question has several.
    """

    id: str
    picture: Image.Image | StoredImage
    question: str
    answer: str
    kind: str
    answers: tuple[str, ...] = ()
    group: str = ""
    group_size: int = 0
    further: tuple[StoredImage, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The picture, the first if there are several, RGB."""
        return self.picture.decoded() if isinstance(self.picture, StoredImage) else self.picture

    @property
    def images(self) -> list[Image.Image]:
        """All pictures, RGB."""
        return [self.image, *(picture.decoded() for picture in self.further)]

    def unreadable(self) -> "Failure | None":
        """Why a picture cannot be read, if one cannot."""
        try:
            self.images  # noqa: B018
        except UserError as error:
            return Failure(self.id, self.kind, str(error), self.group)
        return None


@dataclass(frozen=True)
class Failure:
    """A row that cannot be asked, and why; ``kind`` and ``group`` as in `Row`, where they are known."""

    id: str
    kind: str
    reason: str
    group: str = ""


MOST_FAILURES = 0.01
"""The share of a task's rows that may fail; a score without more of them would be that of another benchmark."""


def check_failures(task: str, reasons: Sequence[str], rows: int) -> None:
    """Refuse more than `MOST_FAILURES` of the ``rows`` of a task, by the first of the ``reasons`` why some failed."""
    if len(reasons) > MOST_FAILURES * rows:
        more = f" ({len(reasons)} of {rows} rows of task {task} fail)" if len(reasons) > 1 else ""
        raise UserError(f"{reasons[0].rstrip('.')}{more}.")


def run_tasks(config: DictConfig) -> list[DictConfig]:
    """The tasks of a run: ``config.tasks`` with the fields of ``config.task`` that overrides set, or that task alone.

    The functions that they name are looked up, so that a wrong name is a `UserError` before anything is computed.
    """
    tasks = [load_task(name) for name in config.tasks] or [config.task]
    for task in tasks:
        if config.tasks:
            for field in config.overridden:
                task[field] = config.task[field]
        task_function(task, "kind", sources)
        task_function(task, "metric", metrics)
        for key, module in (("reader", benchmarks), ("summary", metrics)):
            if task[key]:
                task_function(task, key, module)
    return tasks


def load_rows(task: DictConfig, limit: int | None = None) -> list[Row]:
    """The rows of a task that can be asked (see `read_rows`)."""
    return read_rows(task, limit)[0]


def read_rows(task: DictConfig, limit: int | None = None) -> tuple[list[Row], list[Failure]]:
    """The rows of a task, the first ``limit`` of an order that depends on nothing but their ids; those that fail apart.

    The order is that of the ids' hashes (of the groups', where rows have one), so that a limit is a random sample of
    every kind of question and a longer run begins with the rows of a shorter one; a limit never parts a group. Missing
    or unreadable data are `UserError`s, and so are more than `MOST_FAILURES` rows without picture, question or answer.
    """
    ordered = _chosen(task, task_function(task, "kind", sources)(task), limit)
    columns = [c for c in (*sources.COLUMNS, "answers", "group", "group_size", "further", FAILURE) if c in ordered]
    rows, failures = [], {}
    for line, *values in zip(ordered.index, *(ordered[c] for c in columns), strict=True):
        fields = dict(zip(columns, values, strict=True))
        try:
            rows.append(_row(task.name, **fields))
        except UserError as error:
            failures[line] = Failure(fields["id"], fields["kind"], str(error), fields.get("group", ""))
    check_failures(task.name, [failures[line].reason for line in sorted(failures)], len(ordered))
    return rows, list(failures.values())


def count_rows(task: DictConfig, table: pd.DataFrame, limit: int | None = None) -> int:
    """How many rows `read_rows` makes of ``table``, which may lack all but ids, kinds and groups, failed ones too."""
    return len(_chosen(task, table, limit))


def _chosen(task: DictConfig, table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """The rows of ``table`` that are asked, in their order, as text (see `_as_text`)."""
    table = _as_text(task, table)
    if table.empty:
        raise UserError(f"task {task.name} has no rows.")
    if table["id"].duplicated().any():
        raise UserError(f"task {task.name} has two rows with the id {table['id'][table['id'].duplicated()].iloc[0]}.")
    by_id = table["id"].map(_hash)
    by_group = table["group"].map(_hash) if "group" in table else by_id
    ordered = table.assign(_group=by_group, _id=by_id).sort_values(["_group", "_id"])
    if task.selection:
        lines = list(zip(ordered["id"], ordered["kind"], ordered["_group"], strict=True))
        return ordered[ordered["id"].isin(mini.selected(task, lines, limit))]
    if limit is not None:
        return ordered[ordered["_group"].isin(set(ordered["_group"].iloc[:limit]))]
    return ordered


FAILURE = "failure"
"""The column of a table with the reason why a row cannot be asked, where there is one."""


def _as_text(task: DictConfig, table: pd.DataFrame) -> pd.DataFrame:
    """The table with text in every column but the pictures, and numbers written out; why a row fails, as `FAILURE`.

    A question without a kind has the kind `ALL`, one without a group is a group of its own.
    """
    ids = [
        x if _is_text(x) else _text(f"row {row} (the first is 1) of task {task.name}", "id", x)
        for row, x in enumerate(table["id"], 1)
    ]
    texts, failures = {"id": ids}, list(table.get(FAILURE, [""] * len(table)))
    failures = ["" if _is_missing(reason) else reason for reason in failures]
    for column in [name for name in ("question", "answer", "kind", "group") if name in table]:
        rows = list(zip(ids, table[column], strict=True))
        if column in ("kind", "group"):
            rows = [
                (row, x if _is_text(x) or not _is_missing(x) else ALL if column == "kind" else row) for row, x in rows
            ]
        texts[column] = [cell if _is_text(cell) else "" for _, cell in rows]
        for number, (row, cell) in enumerate(rows):
            if not _is_text(cell) and not failures[number]:
                try:
                    texts[column][number] = _text(f"row {row} of task {task.name}", column, cell)
                except UserError as error:
                    failures[number] = str(error)
    if any(failures):
        texts[FAILURE] = failures
    return table.assign(**{column: pd.Series(cells, table.index, dtype=object) for column, cells in texts.items()})


def _text(whose: str, what: str, cell: Any) -> str:
    """The text in a cell.

    A whole number has no point, since a column that lacks some numbers holds all of them as floats. Truth values are
    no answers: nobody knows whether True is to be yes.
    """
    if _is_missing(cell):
        raise UserError(f"{whose} has no {what}.")
    truth = isinstance(cell, bool | np.bool_)
    if isinstance(cell, str) or (truth and what not in ("question", "answer")):
        return str(cell)
    if isinstance(cell, Real | Decimal) and not truth:
        return str(int(cell)) if cell == cell // 1 else str(cell)
    raise UserError(f"the {what} of {whose} is a {type(cell).__name__}, {str(cell)[:40]!r}: write it as a text.")


def _is_text(cell: Any) -> bool:
    """Whether a cell is a text that is not blank, as nearly all are."""
    return type(cell) is str and bool(cell) and not cell.isspace()


def _is_missing(cell: Any) -> bool:
    """Whether a cell is null, not a number, or blank."""
    return not cell.strip() if isinstance(cell, str) else bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def rows_digest(rows: Sequence[Row]) -> str:
    """SHA-256 of everything in ``rows``, pictures included (pixels, or the file of a stored one), in their order; of a
    picture that cannot be read nothing."""
    digest = hashlib.sha256()
    for row in rows:
        stored = isinstance(row.picture, StoredImage)
        more = (*row.answers, row.group) if row.answers or row.group else ()
        fields = (row.id, row.question, row.answer, row.kind, *more, "" if stored else str(row.image.size))
        digest.update("\0".join(fields).encode())
        with suppress(UserError):
            digest.update(row.picture.encoded() if stored else row.image.tobytes())
            for picture in row.further:
                digest.update(picture.encoded())
    return digest.hexdigest()


def prompt_text(processor: "ProcessorMixin", row: Row, task: DictConfig) -> str:
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
    prompt_text(processor, rows[0], task)
    return chat_inputs(processor, [_conversation(row, task) for row in rows])


def chat_inputs(processor: "ProcessorMixin", conversations: Sequence[list[dict]]) -> "BatchFeature":
    """Model inputs for a batch of conversations, as `collate` gives them; without pictures no ``pixel_values``."""
    return processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"padding": True, "return_tensors": "pt"},
    )


def _conversation(row: Row, task: DictConfig) -> list[dict]:
    content = [{"type": "image", "image": image} for image in row.images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": row.question + task.suffix}]}]


def _row(
    task: str,
    id: str,
    image: bytes | Path | Callable[[], bytes | None] | None,
    question: str,
    answer: str,
    kind: str,
    answers: Sequence[str] = (),
    group: str = "",
    group_size: int = 0,
    further: Sequence[Callable[[], bytes | None]] = (),
    failure: str = "",
) -> Row:
    if failure:
        raise UserError(failure)
    whose = f"row {id} of task {task}"
    picture = StoredImage(whose, image) if callable(image) else decode_picture(whose, image)
    more = tuple(StoredImage(whose, read) for read in further)
    return Row(id, picture, question, answer, kind, tuple(answers), group, group_size, more)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def training_task(name: str) -> DictConfig:
    """The task ``name`` with the questions that a setting is fit on in place of its test questions: those that
    ``calibration`` in its file names, else its training questions."""
    task = load_task(name)
    if task.calibration:
        for field, value in task.calibration.items():
            if field not in task:
                raise nearest(f"field in the calibration of task {name}", field, task)
            task[field] = value
        return task
    if task.split == "train":
        return task
    if not task.path and task.kind != "easyvqa":
        raise UserError(f"task {name} names no questions that a setting may be fit on: write calibration in its file")
    task.split = "train"
    if task.path:
        if not task.path.endswith(".parquet"):
            raise UserError(f"task {name} has no training questions beside {task.path}.")
        task.path = task.path.removesuffix(".parquet") + ".train.parquet"
    return task


def training_rows(names: Sequence[str], limit: int) -> dict[str, list[Row]]:
    """``limit`` training questions of each task."""
    return {name: load_rows(training_task(name), limit) for name in names}
