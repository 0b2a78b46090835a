"""The lines of ``data/published`` as the ledger asks them: same cell, same block, the whole model of the same table."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from thinsight.counting import DECODERS, fields_of, shape_of, total
from thinsight.kin import Setting, methods
from thinsight.papers import Counting, counting
from thinsight.printed import PAPERS
from thinsight.verdict import Span

VANILLA = "vanilla"
SCORES = ("%", "fraction", "points", "CIDEr", "% of vanilla", "F1")
"""Units in which papers print scores."""
FULL = {"MME": 2800.0, "MME-P": 2000.0}
"""What all points of a sum make."""
SAME = ("full", "class token")
"""What tables write behind a method that is as it is."""


@dataclass(frozen=True)
class Line:
    """One printed number: the text of its columns, and ``number``, NaN if it is no single one."""

    file: str
    paper: str
    arxiv: str
    version: str
    table: str
    model: str
    method: str
    tokens: str
    row: str
    column: str
    value: str
    unit: str
    source: str
    number: float

    @property
    def name(self) -> str:
        """The method's in ``conf/method``; empty if it has no file there, or is the whole model."""
        return methods().get(self.method, "")

    @property
    def way(self) -> Counting:
        """How its document counts."""
        return counting(self.paper, self.table, self.model, self.row)

    @property
    def meant(self) -> str:
        """The model, or the one that the document's entry in ``conf/paper`` says where the line names none."""
        return self.model or (self.way.stands_for or ("", 0))[0]

    @property
    def count(self) -> int | None:
        """Visual tokens of the setting, if the line or the document's entry says."""
        if self.tokens:
            return int(self.tokens)
        return self.way.stands_for[1] if self.way.stands_for and not self.model else None

    @property
    def label(self) -> str:
        """What a row says behind a comma: a variant of its method, which is then not the method as it is."""
        words = self.row.partition(", ")[2]
        return "" if words in SAME else words

    @property
    def hundred(self) -> float:
        """The number on a scale to 100."""
        if self.unit == "fraction" or (self.unit == "CIDEr" and self.number < 3):
            return 100 * self.number
        return 100 * self.number / FULL[self.column] if self.unit == "points" and self.column in FULL else self.number

    @property
    def is_score(self) -> bool:
        """Whether it is a score of a benchmark, or an average of such."""
        words = ("standard error", "token", "gain", "saving", "ratio", "difference", "attention")
        return self.unit.removesuffix(" (about)") in SCORES and not any(word in self.column for word in words)

    @property
    def place(self) -> tuple[str, ...]:
        """The column of a table for one model: what is compared in it was printed side by side."""
        return self.paper, self.version, self.table, self.model, self.column

    @property
    def setting(self) -> Setting:
        """What the row sets its method to."""
        whole = total(self.meant)
        if whole is None:
            return Setting()
        if self.count is not None:
            return Setting(keep=self.count / whole)
        fields = fields_of(self.name, self.row) or self.way.fields.get(self.name, {})
        if "keep" in fields:
            return Setting(keep=fields["keep"])
        return Setting(layer=fields["layer"] / shape_of(DECODERS[self.meant][0]).layers) if fields else Setting()


class Prints:
    """The ``lines`` to be judged, among ``every`` line that is there."""

    def __init__(self, published: pd.DataFrame, every: pd.DataFrame) -> None:
        self.lines = list(_lines(published))
        self._cells: dict[tuple, list[Line]] = defaultdict(list)
        for line in _lines(every):
            if line.number == line.number and line.source in PAPERS:
                self._cells[_cell(line)].append(line)
        self._places: dict[tuple, list[Line]] = defaultdict(list)
        self._rows: dict[tuple, list[Line]] = defaultdict(list)
        for line in self.lines:
            self._places[line.place].append(line)
            self._rows[*line.place[:-1], line.method, line.tokens, line.row].append(line)

    def span(self, line: Line, *, hundred: bool = False) -> Span:
        """The range that papers print for the line's cell, itself among them, on its own scale or on one to 100.

        Readers' reports, blogs and summaries are no papers.
        """
        found = [line, *(other for other in self._cells[_cell(line)] if other != line)]
        numbers = [other.hundred if hundred else other.number for other in found]
        return Span(min(numbers), max(numbers), len({other.paper for other in found}))

    def whole(self, line: Line) -> float | None:
        """What the same table prints for the whole model, on a scale to 100."""
        if line.unit.startswith("% of vanilla"):
            return 100.0
        found = [other.hundred for other in self._places[line.place] if other.method == VANILLA and not other.label]
        return found[0] if found else None

    def row(self, line: Line) -> Sequence[Line]:
        """All numbers of the line's row."""
        return self._rows[*line.place[:-1], line.method, line.tokens, line.row]

    def block(self, line: Line) -> Sequence[Line]:
        """The other methods of the same table, model, column and budget."""
        same = [other for other in self._places[line.place] if other.tokens == line.tokens]
        return [other for other in same if other.method not in (line.method, VANILLA)]


def _lines(table: pd.DataFrame) -> Iterator[Line]:
    names = list(Line.__dataclass_fields__)
    for row in table.reindex(columns=names, fill_value="").itertuples(index=False):
        yield Line(*row)


def _cell(line: Line) -> tuple:
    """What makes two papers' numbers the same cell: a row's label where a setting has no token count."""
    fields = fields_of(line.name, line.row)
    label = str(sorted(fields.items())) if fields else line.label
    if not fields and not line.tokens and line.method != VANILLA:
        label = line.row
    return line.model, line.method, line.tokens, label, line.column, line.unit
