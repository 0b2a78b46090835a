"""Whether what a run reads is here, can be fetched, or is missing: models and data sets, without loading them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from thinsight.config import ROOT
from thinsight.errors import UserError
from thinsight.hub import files, local, patterns
from thinsight.models import checkpoint
from thinsight.sources import table_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SECONDS = 5
"""How long the hub is waited for."""


@dataclass(frozen=True)
class Presence:
    """``where``: local, cached (of the hub), hub or missing; ``missing``: why, in one sentence; ``rows`` if known."""

    where: Literal["local", "cached", "hub", "missing"]
    missing: str | None = None
    rows: int | None = None

    @property
    def here(self) -> bool:
        """Whether nothing has to be fetched."""
        return self.where in ("local", "cached")

    @property
    def json(self) -> dict[str, Any]:
        """What a plan says of it."""
        return {"where": self.where, "here": self.here}


def model_presence(model: DictConfig) -> Presence:
    """Of a model's weights and its processor."""
    try:
        source = checkpoint(model)
    except UserError as error:
        return Presence("missing", str(error))
    if isinstance(source, Path):
        weights = [*source.glob("*.safetensors")]
        return Presence("local") if weights else Presence("missing", f"model {model.name} has no weights in {source}.")
    return _on_hub(f"model {model.name}", source, "model", model.revision, ["config.json", "*.safetensors"])


def tower_presence(model: DictConfig) -> Presence:
    """Of the text tower that methods in CLIP's space read, where a model names one."""
    if model.text_tower and (ROOT / model.text_tower / "config.json").is_file():
        return Presence("local")
    if not model.text_tower:
        return Presence("missing", f"model {model.name} names no aligned text tower, which this method needs.")
    return _on_hub(f"the text tower of model {model.name}", model.text_tower, "model", None, ["config.json"])


def task_presence(task: DictConfig) -> Presence:
    """Of a task's data; ``rows`` is read off the files where they are here, else it is what the task's file says."""
    try:
        if task.kind != "hub":
            return Presence("local", rows=_parquet_rows([ROOT / task.path]) if task.path else len(table_of(task)))
        if task.path:
            return Presence("local", rows=_split_rows(task, local(task)))
    except (UserError, OSError) as error:
        text = str(error) if isinstance(error, UserError) else f"task {task.name} has no data at {task.path}."
        return Presence("missing", text, task.rows)
    if folder := _cached(task.hub, "dataset", task.revision, patterns(task)):
        return Presence("cached", rows=_split_rows(task, folder))
    found = _on_hub(f"task {task.name}", task.hub, "dataset", task.revision, patterns(task))
    return Presence(found.where, found.missing, task.rows)


def _split_rows(task: DictConfig, folder: Path) -> int:
    if task.pictures:
        files(task, folder, task.pictures)
    return _parquet_rows(files(task, folder, task.subset))


def _parquet_rows(paths: list[Path]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in paths)


def _on_hub(whose: str, name: str, kind: str, revision: str | None, needed: list[str]) -> Presence:
    if _cached(name, kind, revision, needed):
        return Presence("cached")
    try:
        _api().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except Exception as error:  # the network's and the hub's errors share no base class
        reason = "does not have it" if "NotFound" in type(error).__name__ else "cannot be reached"
        return Presence("missing", f"{whose} is not in the local cache, and the hub {reason} as {name}.")
    return Presence("hub")


def _cached(name: str, kind: str, revision: str | None, needed: list[str]) -> Path | None:
    """The snapshot in the hub's cache, if it has a file of each pattern."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except Exception:  # whatever is wrong with it, it cannot be used
        return None
    return folder if all(any(folder.glob(pattern)) for pattern in needed) else None


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi()
