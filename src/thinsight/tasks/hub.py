"""Files of a data set on the hub: which ones a task needs, where they lie, what is said of them on the protocol card.

`datasets` writes a data set to the hub as ``data/<split>-*.parquet``, and each further configuration in a folder of its
own name. Only the files of the split that a task asks for are fetched: TextVQA's training pictures are seven gigabytes.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from thinsight.errors import UserError
from thinsight.models.load_errors import why_not_loaded
from thinsight.paths import ROOT
from thinsight.tasks.functions import arguments
from thinsight.tasks.mini import described

if TYPE_CHECKING:
    from datasets import Dataset


def hub_place(task: DictConfig) -> Path:
    """The folder with the task's data: its ``path``, or a snapshot of its hub repository, fetched if need be.

    Where it cannot be fetched, a copy in the local cache serves, also one under the id that it had ``formerly``.
    """
    from huggingface_hub import snapshot_download

    if task.path:
        return local_files(task)
    if not task.hub:
        raise UserError(f"task {task.name} names neither a data set of the hub (task.hub) nor a folder (task.path).")
    wanted = {"repo_type": "dataset", "revision": task.revision, "allow_patterns": patterns(task), "etag_timeout": 5}
    try:
        return Path(snapshot_download(task.hub, **wanted))
    except Exception as error:  # the hub's, the network's and the disk's errors share no base class
        if task.formerly:
            with suppress(Exception):
                folder = Path(snapshot_download(task.formerly, **wanted, local_files_only=True))
                if all(any(folder.glob(pattern)) for pattern in patterns(task)):
                    return folder
        raise UserError(
            f"{why_not_loaded(f'task {task.name}', task.hub, error)}: set task.path to a folder with its "
            f"{', '.join(patterns(task))}."
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
    paths = sorted(folder.glob(_pattern(task, subset)))
    if not paths:
        raise UserError(f"task {task.name} finds no {_pattern(task, subset)} in {folder}.")
    return paths


def provenance(task: DictConfig) -> dict[str, Any]:
    """For the protocol card: the data set, its files, its commit where that is known, the arguments of its reader."""
    folder = hub_place(task)
    name, commit = task.hub, task.revision if not task.path else None
    if folder.parent.name == "snapshots":  # how the hub's cache is laid out: datasets--OWNER--NAME/snapshots/COMMIT
        name, commit = folder.parent.parent.name.removeprefix("datasets--").replace("--", "/"), folder.name
    return {"hub": name, "revision": commit, "files": patterns(task), **arguments(task.reader), **described(task)}


def _pattern(task: DictConfig, subset: str) -> str:
    if task.data_files:
        return task.data_files
    return f"{'data' if subset == 'default' else subset}/{task.split}-*.parquet"


def open_subset(task: DictConfig, subset: str) -> "Dataset":
    """The split of one ``subset`` of the task's data set, mapped from disk."""
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
