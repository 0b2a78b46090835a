"""The links of a page: from a notebook's to a page's, and from the name of a run to its files."""

import os
import re
from pathlib import Path

from thinsight.config import ROOT


def link(target: Path, start: Path) -> str:
    """The way from the folder ``start`` to ``target``."""
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()


def relink(text: str, start: Path, pages: Path) -> str:
    """A notebook's links are relative to ``notebooks/``; make them lead from ``start``, and to pages, not notebooks."""

    def move(match: re.Match[str]) -> str:
        path, hash_, anchor = match[1].partition("#")
        target = ROOT / "notebooks" / path
        beside = target.parent == ROOT / "notebooks" and target.suffix == ".ipynb"
        target = pages / f"{target.stem}.html" if beside else target
        return f'href="{link(target, start)}{hash_}{anchor}"'

    return re.sub(r'href="(?![a-z]+:|#)([^"]+)"', move, text)


def to_runs(text: str, folder: Path, start: Path) -> str:
    """What names a finished run (``run <code>vtw</code>``, ``<th data-run="vtw">``) leads to its metrics and config."""

    def lead(match: re.Match[str]) -> str:
        before, name, shown = match[1], match[2], match[match.lastindex or 0]
        metrics, config = (folder / name / file for file in ("metrics.json", "config.yaml"))
        if not metrics.is_file():
            return match[0]
        of = f'<a href="{link(metrics, start)}" title="metrics of the run {name}">{shown}</a>'
        return (
            f'{before}{of} <a class="config" href="{link(config, start)}" title="config of the run {name}">config</a>'
        )

    text = re.sub(r"(\brun )(?=<code>([\w-]+)</code>)(<code>[\w-]+</code>)", lead, text)
    return re.sub(r'(<t[dh][^>]* data-run="([\w-]+)"[^>]*>)([^<]+)', lead, text)


def pathless(value: str) -> str:
    """A checkpoint's name without the folders of the machine it was on."""
    return value.rstrip("/").rpartition("/")[2] if value.startswith(("/", "~")) else value
