"""The ``mini`` part of a benchmark, ``task.selection=mini``: 500 rows, of all kinds, the same for everybody.
``preset=mini`` sets it for all tasks of a run.

Which rows they are depends on nothing but their ids, kinds and groups. A list in data/mini is what holds
(`thinsight.tasks.mini_lists` writes it); it is checked against its own hash and against the data. Where there is none
the rows are found anew, and the protocol card says so.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

from omegaconf import DictConfig

from thinsight.errors import UserError, nearest
from thinsight.paths import ROOT, save_whole
from thinsight.tasks.functions import function_name

MINI = "mini"
ROWS = 500
LISTS = ROOT / "data" / "mini"
HEAD = "# sha256 of the ids below: "

Line = tuple[str, str, str]
"""Id, kind and group of a row; a row that is scored alone is a group of its own."""


def selected(task: DictConfig, lines: Sequence[Line], limit: int | None = None) -> set[str]:
    """The ids of the rows of ``task.selection``, of all ``lines`` in the order of their hashes.

    ``limit``: so many of these rows, of all kinds in their shares again; they are among those of a larger limit, and
    one of `ROWS` or more leaves the selection whole.
    """
    check(task)
    path = list_file(task.name)
    chosen = read_list(path) if path.is_file() else set(stratified(lines))
    if lacking := chosen - {key for key, _, _ in lines}:
        raise UserError(
            f"{shown(path)} names {len(lacking)} rows that the data of task {task.name} does not have, {min(lacking)} "
            "the first of them: the data is another than that which it was made of."
        )
    if limit is not None and limit < ROWS:
        return set(stratified((line for line in lines if line[0] in chosen), limit))
    return chosen


def check(task: DictConfig) -> None:
    """Refuse a selection that there is not, or that the task cannot have."""
    if task.selection not in ("", MINI):
        raise nearest(f"selection of task {task.name}", task.selection, [MINI])
    if task.selection and function_name(task.kind) != "hub":
        raise UserError(f"task {task.name} has no selection {MINI}: it is no benchmark, take limit={ROWS}.")


def most(task: DictConfig) -> int:
    """How many rows a selection of the task has where its data are not here: as its list says, else `ROWS`."""
    path = list_file(task.name)
    return len(read_list(path)) if path.is_file() else ROWS


def stratified(lines: Iterable[Line], rows: int | None = None) -> list[str]:
    """The ids of so many ``rows`` (None: `ROWS`), all if there are fewer, and some more where the last group goes
    beyond.

    Of each kind the first groups, as many as its share of all rows, at least one. ``lines`` come in the order in which
    they are taken; a group's kind is that of its first row.
    """
    groups: dict[str, list[str]] = {}
    kinds: dict[str, dict[str, list[str]]] = {}
    for key, kind, group in lines:
        ids = groups.setdefault(group, [])
        if not ids:
            kinds.setdefault(kind, {})[group] = ids
        ids.append(key)
    placed = []
    for of_kind in kinds.values():
        before = [0, *accumulate(len(ids) for ids in of_kind.values())]
        placed += [(start / before[-1], group) for start, group in zip(before, of_kind, strict=False)]
    order = {group: number for number, group in enumerate(groups)}
    taken: list[str] = []
    rows = ROWS if rows is None else rows
    for _, group in sorted(placed, key=lambda at: (at[0], order[at[1]])):
        if len(taken) >= rows:
            break
        taken += groups[group]
    return taken


def list_file(name: str) -> Path:
    """Where the list of a task's rows lies, if it has one."""
    return LISTS / f"{name}.txt"


def read_list(path: Path) -> set[str]:
    """The ids in a list; one that does not fit its own hash is a `UserError`."""
    head, *ids = path.read_text(encoding="utf-8").splitlines()
    if head != HEAD + _digest(ids):
        raise UserError(f"{shown(path)} was changed: its ids do not fit the hash at its head.")
    return set(ids)


def described(task: DictConfig) -> dict[str, str]:
    """For the protocol card: the selection, and whether a list holds it; nothing without one."""
    if not task.selection:
        return {}
    path = list_file(task.name)
    return {"selection": f"{task.selection}, {shown(path) if path.is_file() else 'found anew, no list in data/mini'}"}


def write_list(path: Path, ids: Iterable[str]) -> None:
    """Write ``ids`` as a list."""
    ids = sorted(ids)
    save_whole(path, "\n".join([HEAD + _digest(ids), *ids]) + "\n")


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def shown(path: Path) -> str:
    """A path as it is told: below the project's root relative to it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
