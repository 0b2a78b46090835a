"""Where a checkpoint lies: in a folder, or in a repository of the hub."""

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


def first_line(error: BaseException) -> str:
    """The first line of an error of transformers, safetensors or the hub, and the second where that ends in a colon."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return (f"{first} {more[0].strip()}" if more and first.endswith(":") else first).rstrip(".")
