"""By whose rules a printed score was made, as far as it is known, and whether a run went by the same.

``data/published/protocols/NAME.yaml`` says it for a document, an entry for some of its lines, with the source of each
statement; ``data/published/README.md`` has the fields. A document or line without an entry is not known.

A measured score gets a verdict only beside print that is known to be made under the same protocol (`same`). Beside
print of an unknown protocol it is shown without one: most tables do not name theirs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from yaml import YAMLError

from thinsight.config.yaml_files import read_yaml
from thinsight.errors import UserError, nearest
from thinsight.ledger.published import FOLDER
from thinsight.paths import CONF

NOT_KNOWN = "not known"
NAMES = ("llava", "lmms_eval", "official")
"""The protocols that conf/task knows (docs/protocols.md)."""


@dataclass(frozen=True)
class PrintedProtocol:
    """What is known of some lines of a document (``table``, ``model``, ``column``, ``origin``: regular expressions, the
    last one of the column ``source``; empty: any).

    protocol  one of `NAMES`; None: not known
    source    the sentence that says so, or what else is known
    tasks     column -> the task of conf/task that asks in this way, where several are called by its name
    rows      column -> rows of the data, where they are another version than that in conf/task
    """

    table: str = ""
    model: str = ""
    column: str = ""
    origin: str = ""
    protocol: str | None = None
    source: str = ""
    tasks: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.protocol and self.protocol not in NAMES:
            raise nearest("protocol", self.protocol, NAMES)

    def fits(self, table: str, model: str, column: str, origin: str) -> bool:
        """Whether a line is one of those that it is about."""
        patterns = (self.table, self.model, self.column, self.origin)
        return all(re.search(*pair) for pair in zip(patterns, (table, model, column, origin), strict=True))

    @property
    def name(self) -> str:
        """The protocol, or that it is not known."""
        return self.protocol or NOT_KNOWN


@dataclass(frozen=True)
class RunProtocol:
    """How a run was asked and scored: the ``task`` of conf/task, the ``protocol`` of its card (empty: none is named
    there), and how many ``rows`` it asked."""

    task: str
    protocol: str
    rows: int


@cache
def printed_protocols() -> Mapping[str, Sequence[PrintedProtocol]]:
    """Document -> what is known of its lines; the first entry that fits a line counts."""
    known = {}
    for path in sorted((FOLDER / "protocols").glob("*.yaml")):
        try:
            file = read_yaml(path)
            known[file["paper"]] = tuple(PrintedProtocol(**entry) for entry in file["protocols"])
        except (KeyError, TypeError, UnicodeDecodeError, YAMLError) as error:
            raise UserError(f"{path.name} does not say by which protocols a paper was scored: {error}") from error
    return known


def printed_protocol(paper: str, table: str, model: str, column: str, origin: str) -> PrintedProtocol:
    """What is known of a line of ``paper``; ``origin``: its ``source``."""
    entries = printed_protocols().get(paper, ())
    return next((entry for entry in entries if entry.fits(table, model, column, origin)), PrintedProtocol())


@cache
def task_protocols(task: str) -> Sequence[str]:
    """The protocols of a task of conf/task; none of a task that is not there."""
    path = CONF / "task" / f"{task}.yaml"
    return tuple(read_yaml(path).get("protocols") or ()) if path.is_file() else ()


@cache
def task_rows(task: str) -> int | None:
    """How many rows the data of a task of conf/task have, if its file says."""
    path = CONF / "task" / f"{task}.yaml"
    return read_yaml(path).get("rows") if path.is_file() else None


def difference(printed: PrintedProtocol, column: str, run: RunProtocol) -> str:
    """In what a run is known to differ from how a number of ``column`` was made, as a clause; empty: in nothing."""
    asked = printed.tasks.get(column, run.task)
    if asked != run.task:
        return f"printed as task {asked} asks, {run.task} was run"
    if task_protocols(run.task) and run.protocol not in task_protocols(run.task):
        return f"{run.task} was scored by a metric that is none of its protocols"
    if printed.protocol and run.protocol and printed.protocol != run.protocol:
        return f"printed under {printed.protocol}, run under {run.protocol}"
    rows = printed.rows.get(column)
    if rows and rows not in (run.rows, task_rows(run.task)):
        return f"printed on {rows} rows, {run.task} has {max(run.rows, task_rows(run.task) or 0)}: another version"
    return ""


def same(printed: PrintedProtocol, run: RunProtocol) -> bool:
    """Whether print and a run that does not differ from it are known to be made under one protocol."""
    return bool(run.protocol) and printed.protocol == run.protocol


def both(printed: PrintedProtocol, run: RunProtocol) -> str:
    """Under what print and a run that does not differ from it stand, as a clause."""
    if printed.protocol and run.protocol:
        return f"both under {run.protocol}"
    return f"run under {run.protocol or 'no named protocol'}, print under one that is {printed.name}"
