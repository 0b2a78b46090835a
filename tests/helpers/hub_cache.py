"""Repositories in the hub's cache as it lies on disk, so that they are loaded without a network."""

import shutil
from pathlib import Path

import huggingface_hub


def put(name: str, commit: str, folder: Path, kind: str = "model") -> Path:
    """Copy ``folder`` into the cache as the snapshot ``commit`` of the repository ``name``, its newest one."""
    place = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    return place / "snapshots" / commit
