"""Where a checkpoint lies: in a folder, or in a repository of the hub."""

import hashlib
from pathlib import Path

from thinsight.paths import ROOT


def checkpoint_source(name: str) -> Path | str | None:
    """The folder ``name`` (relative to the project's root) if a model lies there, ``name`` itself if it is the id
    ``owner/name`` of a hub repository, else None."""
    folder = ROOT / name  # an absolute name stays as it is
    if (folder / "config.json").is_file():
        return folder
    hub = not folder.exists() and name.count("/") == 1 and not name.startswith((".", "/", "data/"))
    return name if hub else None


def folder_hash(folder: Path) -> str:
    """SHA-256 over the files of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.jinja")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def resolve_commit(source: Path | str, revision: str | None) -> str | None:
    """The commit of the hub repository ``source`` that ``revision`` (None: its main branch) stands for now; None for a
    folder. Its config.json is fetched if it is not in the hub's cache. Errors are those of transformers."""
    from transformers.utils import cached_file

    if isinstance(source, Path):
        return None
    file = Path(cached_file(source, "config.json", revision=revision))
    return file.parent.name if file.parent.parent.name == "snapshots" else None  # how the hub's cache is laid out


def first_line(error: BaseException) -> str:
    """The first line of an error of transformers, safetensors or the hub, and the second where that ends in a colon."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{first} {more[0].strip()}" if more and first.endswith(":") else first).rstrip(".")
