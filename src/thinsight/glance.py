"""The ledger at a glance: how many printed numbers met which verdict, counted from ``data/pages/*/ledger.csv``."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from thinsight.errors import UserError
from thinsight.verdict import BADGES, RANGE

LABELS = {RANGE: "within range"}
CELL = ("file", "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "printed", "unit")


@dataclass(frozen=True)
class Part:
    """A share of a bar: how many numbers have a verdict, what it is called, and the name of its colour and anchor."""

    kind: str
    label: str
    count: int


@dataclass(frozen=True)
class Counts:
    """The verdicts of one page, or of one document on it; ``arxiv`` may be empty."""

    page: str
    name: str
    arxiv: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """How many printed numbers."""
        return sum(part.count for part in self.parts)


@dataclass(frozen=True)
class Glance:
    """All pages together (each printed number once), each page, and each page's documents."""

    whole: Counts
    pages: tuple[Counts, ...]
    documents: tuple[Counts, ...]


def glance(folder: Path, order: Iterable[str] = ()) -> Glance | None:
    """The counts of every ledger in ``folder``, pages as in ``order``; None if no page has saved one."""
    ledgers = {file.parent.name: _lines(file) for file in sorted(folder.glob("*/ledger.csv"))}
    if not any(ledgers.values()):
        return None
    first = [name for name in order if name in ledgers]
    ledgers = {name: ledgers[name] for name in dict.fromkeys([*first, *ledgers])}
    once = {tuple(line.get(key) for key in CELL): line for lines in ledgers.values() for line in lines}
    documents = [
        _counts(page, paper, [line for line in lines if line["paper"] == paper])
        for page, lines in ledgers.items()
        for paper in dict.fromkeys(line["paper"] for line in lines)
    ]
    pages = tuple(_counts(page, page, lines) for page, lines in ledgers.items())
    return Glance(_counts("", "all pages", once.values()), pages, tuple(documents))


def _lines(file: Path) -> list[Mapping[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def _counts(page: str, name: str, lines: Iterable[Mapping[str, str]]) -> Counts:
    lines = list(lines)
    found = Counter(line["verdict"] for line in lines)
    parts = [Part(kind, LABELS.get(verdict, verdict), found.pop(verdict, 0)) for verdict, kind in BADGES.items()]
    if found:
        raise UserError(f"the ledger of {page} has a verdict that thinsight.verdict does not know: {min(found)}")
    numbers = {line.get("arxiv", "") for line in lines}
    return Counts(page, name, numbers.pop() if len(numbers) == 1 else "", tuple(parts))
