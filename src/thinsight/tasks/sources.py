"""Tables of questions: from a parquet file, the package easy-vqa, or a data set of the hub.

``task.kind`` names one of the functions `parquet`, `easyvqa` and `hub`, or any other (see `tasks.functions`) that takes
the task's config and returns its questions under `COLUMNS`. Pictures are encoded bytes, paths, or functions that read
their bytes. A table may add ``answers``, ``group`` and ``further`` pictures (see `tasks.rows.Row`).

The sorts of ``task.columns``: text, texts, number, floats, image, sized (an image whose size the reader asks for),
images (a list of them), and any, which is not checked.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from thinsight.errors import UserError, nearest
from thinsight.paths import ROOT
from thinsight.tasks import benchmarks
from thinsight.tasks.functions import task_function
from thinsight.tasks.hub import files, hub_place, open_subset
from thinsight.tasks.pictures import picture_cell, picture_size

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("id", "image", "question", "answer", "kind")
"""What every table holds for each question."""

PICTURES = frozenset({"image", "sized", "images"})
SIZE = "size"
"""Where a reader finds the function that says how wide and high, in pixels, the line's picture is."""

REBUILD = "rebuild it with `make pocket-data`"


def parquet(task: DictConfig) -> pd.DataFrame:
    """The questions in the parquet file ``task.path``.

    Pictures are encoded bytes, or paths of files relative to it or to the project's root, or a structure of ``bytes``
    and ``path``. Other columns are not read.
    """
    path = parquet_file(task)
    hint = _hint(path)
    where = f"the data of task {task.name} at {task.path}"
    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        for column in COLUMNS:
            if columns.count(column) != 1:
                what = "lacks the column" if column not in columns else "has more than one column"
                raise UserError(f"{where} {what} {column}{hint} (its columns: {', '.join(columns) or 'none'}).")
        table = file.read(columns=list(COLUMNS))
        cells = {column: _cells(table[column]) for column in COLUMNS}
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"{where} is not readable parquet ({reason}){hint}.") from error
    cells["image"] = [picture_cell(cell, path.parent, ROOT) for cell in cells["image"]]
    return pd.DataFrame({column: pd.Series(values, dtype=object) for column, values in cells.items()})


def parquet_file(task: DictConfig) -> Path:
    """The file that ``task.path`` names."""
    if not task.path:
        raise UserError(f"task {task.name} names no file: set task.path.")
    path = ROOT / task.path
    if path.is_dir():
        raise UserError(f"task {task.name} reads one parquet file, and {task.path} is a folder.")
    if not path.is_file():
        raise UserError(f"task {task.name} has no data at {task.path}{_hint(path)}.")
    return path


def _hint(path: Path) -> str:
    return f": {REBUILD}" if path.is_relative_to(ROOT / "data" / "pocket") else ""


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """The column's values; a float of 16 or 32 bits is 0.1 where it is written so, not what it is as a double."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        short = kind.to_pandas_dtype()
        return [None if cell is None else float(str(short(cell))) for cell in column.to_pylist()]
    return column.to_pylist()


def easyvqa(task: DictConfig) -> pd.DataFrame:
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
    read_questions, paths = readers[task.split]
    texts, answers, images = read_questions()
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


def hub(task: DictConfig) -> pd.DataFrame:
    """The questions of a data set of the hub, as ``task.reader`` makes them of its columns (see `tasks.benchmarks`).

    A reader makes one question of a line, or none, or several. ``pictures`` names the columns of its pictures in their
    order where it is not the only one that holds any; a column of lists stands for the first of each.
    """
    reader = task_function(task, "reader", benchmarks)
    table = open_subset(task, task.subset)
    if task.first:
        table = table.select(range(min(task.first, len(table))))
    _check_columns(task, table.features, task.columns)
    shown = [name for name, sort in task.columns.items() if sort in PICTURES]
    records = table.select_columns([name for name in task.columns if name not in shown]).to_list()
    if task.pictures:
        apart = open_subset(task, task.pictures)
        _check_columns(task, apart.features, {"id": "any", "image": "image"})
        by_id = dict(zip(map(str, apart["id"]), _pictures(task, apart, "image"), strict=True))
        columns = {"image": [by_id.get(str(record["imageId"]), _no_picture) for record in records]}
    else:
        columns = {name: _pictures(task, table, name) for name in shown}
    sized = next((columns[name] for name in shown if task.columns[name] == "sized"), None)
    questions = []
    for number, record in enumerate(records):
        if sized:
            record[SIZE] = partial(_size, task, number, sized[number])
        for fields in _read(reader, number, record, task):
            first, *further = (columns[name][number] for name in fields.pop("pictures", columns))
            questions.append(fields | {"image": first, "further": further})
    return _with_ids(task, questions)


def hub_questions(task: DictConfig, folder: Path) -> pd.DataFrame:
    """Ids, kinds and groups of the questions of `hub`, read off the files in ``folder`` without their pictures: what a
    plan counts. A few seconds for the largest benchmark."""
    import datasets

    reader = task_function(task, "reader", benchmarks)
    paths = files(task, folder, task.subset)
    if task.pictures:
        files(task, folder, task.pictures)
    features = datasets.Features.from_arrow_schema(pq.read_schema(paths[0]))
    _check_columns(task, features, task.columns)
    read = [name for name, sort in task.columns.items() if sort not in PICTURES]
    batches = (batch for path in paths for batch in pq.ParquetFile(path).iter_batches(columns=read))
    records = (record | {SIZE: _unit_size} for batch in batches for record in batch.to_pylist())
    kept = ("id", "question", "kind", "group")
    questions = [
        {key: fields[key] for key in kept if key in fields}
        for number, record in enumerate(islice(records, task.first))
        for fields in _read(reader, number, record, task)
    ]
    return _with_ids(task, questions)


def _with_ids(task: DictConfig, questions: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The questions as a table, those under one id numbered."""
    table = pd.DataFrame(questions, dtype=object)
    if table.empty:
        return table
    if (twice := table.duplicated(["id", "question"])).any():
        raise UserError(f"the data of task {task.name} asks {table['id'][twice].iloc[0]} twice, word for word.")
    again = table.groupby("id").cumcount()  # MME asks twice about a picture under one id
    return table.assign(id=table["id"].where(again == 0, table["id"] + "#" + (again + 1).astype(str)))


def _read(reader: Callable[..., Any], number: int, record: Mapping[str, Any], task: DictConfig) -> list[dict[str, Any]]:
    """What ``reader`` makes of a line, as a list; of one that it refuses, the reason (see `tasks.rows.FAILURE`)."""
    try:
        read = reader(number, record, task)
    except UserError as error:
        return [{"id": f"line-{number + 1}", "question": "", "answer": "", "kind": "all", "failure": str(error)}]
    return [dict(read)] if isinstance(read, Mapping) else [dict(fields) for fields in read or ()]


def _check_columns(task: DictConfig, features: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """Refuse data whose columns are not those of the benchmark that the task reads them as."""
    for name, sort in columns.items():
        if name not in features:
            known = ", ".join(features)
            raise UserError(
                f"the data of task {task.name} has no column {name}, so it is not {task.hub} as it is read here "
                f"(its columns: {known})."
            )
        kind = features[name]
        if _sort(kind) != ("image" if sort == "sized" else sort) and sort != "any":
            raise UserError(f"column {name} of the data of task {task.name} holds {kind}, not {sort} as in {task.hub}.")


def _sort(feature: object) -> str:
    """What a column holds: text, texts, number (whole), float, floats, image, images or something else."""
    from datasets import Image, List, Value

    if isinstance(feature, Value):
        kinds = {"string": "text", "int": "number", "float": "float", "binary": "image"}
        return next((sort for part, sort in kinds.items() if part in feature.dtype), feature.dtype)
    if isinstance(feature, List):
        each = _sort(feature.feature)
        return f"{each}s" if each in ("text", "float", "image") else "list"
    struct = isinstance(feature, Mapping) and "bytes" in feature
    return "image" if struct or isinstance(feature, Image) else "something else"


def _pictures(task: DictConfig, table: "Dataset", column: str) -> list[Callable[[], bytes | None]]:
    """A reader of the encoded bytes of each row's picture."""
    images = table.select_columns([column]).with_format("arrow")  # as they are stored, nothing decoded
    folder = hub_place(task)
    return [partial(_bytes, images, folder, column, number) for number in range(len(images))]


def _bytes(images: "Dataset", folder: Path, column: str, number: int) -> bytes | None:
    cell = images[number][column][0].as_py()
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    cell = picture_cell(cell, folder)
    return cell.read_bytes() if isinstance(cell, Path) else cell


def _size(task: DictConfig, number: int, read: Callable[[], bytes | None]) -> tuple[int, int]:
    """Width and height of a line's picture in pixels."""
    return picture_size(f"line {number + 1} (the first is 1) of task {task.name}", read())


def _unit_size() -> tuple[int, int]:
    """The size of a picture that is not looked at."""
    return 1, 1


def _no_picture() -> None:
    """The picture of a question whose picture is not there."""
