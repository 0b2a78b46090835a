"""Where a task's rows come from: parquet, easy-VQA, a data set on the hub.

`datasets` writes a data set to the hub as ``data/<split>-*.parquet``, and each further configuration in a folder of its
own name. Only the files of the split that a task asks for are fetched: TextVQA's training pictures are seven gigabytes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig

from thinsight.errors import UserError, nearest
from thinsight.paths import ROOT
from thinsight.tasks.benchmarks import reader_of

if TYPE_CHECKING:
    from datasets import Dataset


def hub_rows(task: DictConfig) -> pd.DataFrame:
    """All questions of a task of kind "hub", as its reader gives them; pictures are functions that read their bytes."""
    reader = reader_of(task)
    table, apart = _open(task, task.subset), _open(task, task.pictures) if task.pictures else None
    _check(task, table, reader.columns)
    texts = table.select_columns([name for name, sort in reader.columns.items() if sort != "image"]).to_list()
    fields = [reader.fields(number, record, task) for number, record in enumerate(texts)]
    if apart is None:
        pictures = _pictures(table)
    else:
        _check(task, apart, {"id": "any", "image": "image"})
        named = dict(zip(map(str, apart["id"]), _pictures(apart), strict=True))
        pictures = [named.get(str(record["imageId"]), _nothing) for record in texts]
    found = pd.DataFrame(fields).assign(image=pictures)
    again = found.groupby("id").cumcount()  # MME asks twice about a picture under one id
    return found.assign(id=found["id"].where(again == 0, found["id"] + "#" + (again + 1).astype(str)))


def hub_place(task: DictConfig) -> Path:
    """The folder with the task's data: its ``path``, or a snapshot of its hub repository, fetched if need be."""
    from huggingface_hub import snapshot_download

    if task.path:
        return local_files(task)
    if not task.hub:
        raise UserError(f"task {task.name} names neither a data set of the hub (task.hub) nor a folder (task.path).")
    try:
        return Path(
            snapshot_download(
                task.hub, repo_type="dataset", revision=task.revision, allow_patterns=patterns(task), etag_timeout=5
            )
        )
    except Exception as error:  # the hub's, the network's and the disk's errors share no base class
        raise UserError(
            f"task {task.name} cannot be fetched from the hub as {task.hub}, and no copy of it is in the local cache: "
            f"set task.path to a folder with its {', '.join(patterns(task))}."
        ) from error


def local_files(task: DictConfig) -> Path:
    """The folder that ``task.path`` names."""
    folder = ROOT / task.path
    if not folder.is_dir():
        raise UserError(f"task {task.name} has no data at {task.path}: it is to be a folder with a copy of {task.hub}.")
    return folder


def patterns(task: DictConfig) -> list[str]:
    """The files that the task needs, relative to the data set's folder."""
    return [_pattern(task, subset) for subset in (task.subset, task.pictures) if subset]


def files(task: DictConfig, folder: Path, subset: str) -> list[Path]:
    """The parquet files of the task's split of ``subset`` in ``folder``."""
    found = sorted(folder.glob(_pattern(task, subset)))
    if not found:
        raise UserError(f"task {task.name} finds no {_pattern(task, subset)} in {folder}.")
    return found


def provenance(task: DictConfig) -> dict[str, Any]:
    """For the protocol card: which data set, which files of it, and its commit where that is known."""
    folder = hub_place(task)
    commit = folder.name if folder.parent.name == "snapshots" else task.revision  # how the hub's cache is laid out
    return {"hub": task.hub, "revision": commit, "files": patterns(task), "ocr": task.ocr}


def _pattern(task: DictConfig, subset: str) -> str:
    return f"{'data' if subset == 'default' else subset}/{task.split}-*.parquet"


def _open(task: DictConfig, subset: str) -> "Dataset":
    """One subset, mapped from disk."""
    import datasets

    folder = hub_place(task)
    names = [str(path) for path in files(task, folder, subset)]
    shown, _ = datasets.is_progress_bar_enabled(), datasets.disable_progress_bars()
    try:
        return datasets.load_dataset("parquet", data_files=names, split="train")
    except Exception as error:  # datasets wraps whatever pyarrow raises
        raise UserError(f"the data of task {task.name} in {folder} is not readable parquet.") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _check(task: DictConfig, table: "Dataset", columns: Mapping[str, str]) -> None:
    """Refuse data whose columns are not those of the benchmark that the task reads them as."""
    for name, sort in columns.items():
        if name not in table.features:
            known = ", ".join(table.column_names)
            raise UserError(
                f"the data of task {task.name} has no column {name}, so it is not {task.hub} as it is read here "
                f"(its columns: {known})."
            )
        kind = table.features[name]
        if sort != _sort(kind) and sort != "any":
            raise UserError(f"column {name} of the data of task {task.name} holds {kind}, not {sort} as in {task.hub}.")


def _sort(feature: object) -> str:
    """What a column holds: text, texts, number, image or something else."""
    from datasets import Image, List, Value

    if isinstance(feature, Value):
        return "text" if "string" in feature.dtype else "number" if "int" in feature.dtype else feature.dtype
    if isinstance(feature, List):
        return "texts" if _sort(feature.feature) == "text" else "list"
    struct = isinstance(feature, Mapping) and "bytes" in feature
    return "image" if struct or isinstance(feature, Image) else "something else"


def _pictures(table: "Dataset") -> list[Callable[[], bytes | None]]:
    """A reader of the encoded bytes of each row's picture."""
    from datasets import Image

    images = table.select_columns(["image"]).cast_column("image", Image(decode=False))
    return [partial(_bytes, images, number) for number in range(len(images))]


def _bytes(images: "Dataset", number: int) -> bytes | None:
    found = images[number]["image"]
    return found and found["bytes"]


def _nothing() -> None:
    """The picture of a question whose picture is not there."""


COLUMNS = ("id", "image", "question", "answer", "kind")
"""What every source gives for each question; one may add ``answers`` and ``group`` (see `thinsight.tasks.rows.Row`)."""


REBUILD = "rebuild it with `make pocket-data`"


def task_table(task: DictConfig) -> pd.DataFrame:
    """All questions of ``task`` under `COLUMNS`; pictures are encoded bytes, paths, or still to be read."""
    if task.kind == "parquet":
        return _parquet(task)
    if task.kind == "easyvqa":
        return _easyvqa(task)
    if task.kind == "hub":
        return hub_rows(task)
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
