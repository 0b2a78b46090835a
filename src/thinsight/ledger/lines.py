"""Printed numbers as lines of the ledger: their task, method, setting, and the averages they are part of."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import pandas as pd

from thinsight.config import catalogue
from thinsight.config.catalogue import printed_models
from thinsight.config.yaml_files import read_yaml
from thinsight.ledger.counting import Counting, counting, fields_of, picture_tokens, shape_of
from thinsight.ledger.protocols import PrintedProtocol, printed_protocol
from thinsight.ledger.published import PAPERS
from thinsight.ledger.verdicts import PrintedRange
from thinsight.paths import CONF

VANILLA = "vanilla"  # what tables of printed numbers call the whole model
CONTROLS = {"Random": "random", "Spatial pooling": "pool"}  # what tables call the controls -> the file in conf/method
AVERAGES = ("average", "relative average")
SCORE_UNITS = ("%", "fraction", "points", "CIDEr", "% of vanilla", "F1")
FULL_POINTS = {"MME": 2800.0, "MME-P": 2000.0}  # what all points of a sum make
AS_IT_IS = ("full", "class token")  # what tables write behind a method that is as it is
LEAST_SCORES = 3  # that a row must have for its mean to say something


@dataclass(frozen=True)
class SettingKey:
    """What a printed row sets a method to, as shares: ``keep`` of the visual tokens, ``layer`` of the decoder's depth.

    Both None: the row does not say.
    """

    keep: float | None = None
    layer: float | None = None


@cache
def benchmark_tasks() -> Mapping[str, Sequence[str]]:
    """Published benchmark -> the tasks of ``conf/task`` that are after it."""
    tasks: dict[str, list[str]] = {}
    for path in sorted((CONF / "task").glob("*.yaml")):
        for benchmark in read_yaml(path).get("after") or ():
            tasks.setdefault(benchmark, []).append(path.stem)
    return tasks


@cache
def task_benchmarks() -> Mapping[str, str]:
    """Published benchmark -> the task of ``conf/task`` that is it: its title."""
    titles = {str(read_yaml(path).get("title")): path.stem for path in sorted((CONF / "task").glob("*.yaml"))}
    modelled_after = {name for names in benchmark_tasks().values() for name in names}
    return {title: name for title, name in titles.items() if name not in modelled_after}


@cache
def judges() -> Mapping[str, str]:
    """Published benchmark -> the judge that scores its task of ``conf/task``, where none of its rules does."""
    found = {name: read_yaml(CONF / "task" / f"{task}.yaml").get("judge") for name, task in task_benchmarks().items()}
    return {name: judge for name, judge in found.items() if judge}


@cache
def method_titles() -> Mapping[str, str]:
    """Title of a method, without what stands in brackets -> its name in ``conf/method``."""
    return {title: name for name, title in catalogue.method_titles().items()} | CONTROLS


@dataclass(frozen=True)
class PrintedNumber:
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
        return method_titles().get(self.method, "")

    @property
    def way(self) -> Counting:
        """How its document counts."""
        return counting(self.paper, self.table, self.model, self.row)

    @property
    def meant(self) -> str:
        """The model; where the line names none, the one that the document's `Counting` stands for."""
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
        return "" if words in AS_IT_IS else words

    @property
    def hundred(self) -> float:
        """The number on a scale to 100."""
        if self.unit == "fraction" or (self.unit == "CIDEr" and self.number < 3):
            return 100 * self.number
        points = FULL_POINTS.get(self.column) if self.unit == "points" else None
        return 100 * self.number / points if points else self.number

    @property
    def rounding(self) -> float:
        """By how much its digits may be off on the same scale."""
        unit = 10.0 ** -len(self.value.partition(".")[2])
        return unit / 2 * (self.hundred / self.number if self.number else 1.0)

    @property
    def is_number(self) -> bool:
        """Whether a single number is printed."""
        return not math.isnan(self.number)

    @property
    def is_score(self) -> bool:
        """Whether it is a score of a benchmark, or an average of such."""
        words = ("standard error", "token", "gain", "saving", "ratio", "difference", "attention")
        return self.unit.removesuffix(" (about)") in SCORE_UNITS and not any(word in self.column for word in words)

    @property
    def asks_the_model(self) -> bool:
        """Whether only a run of its model gives it: a score, or a share of attention inside the model."""
        return self.is_score or any(word in self.column for word in ("attention", "standard error", "gain over"))

    @property
    def made_under(self) -> PrintedProtocol:
        """What is known of the protocol that a score was made under."""
        return printed_protocol(self.paper, self.table, self.model, self.column, self.source)

    @property
    def protocol(self) -> str:
        """Its name, or that it is not known; empty for what is no score."""
        return self.made_under.name if self.is_score else ""

    @property
    def place(self) -> tuple[str, ...]:
        """The column of a table for one model: what is compared in it was printed side by side."""
        return self.paper, self.version, self.table, self.model, self.column

    @property
    def whole_row(self) -> tuple[str, ...]:
        """What the numbers of one row of a table have in common."""
        return *self.place[:-1], self.method, self.tokens, self.row

    @property
    def setting(self) -> SettingKey:
        """What the row sets its method to."""
        whole = picture_tokens(self.meant)
        if whole is None:
            return SettingKey()
        if self.count is not None:
            return SettingKey(keep=self.count / whole)
        fields = fields_of(self.name, self.row) or self.way.fields.get(self.name, {})
        if "keep" in fields or not fields:
            return SettingKey(keep=fields.get("keep"))
        return SettingKey(layer=fields["layer"] / shape_of(printed_models()[self.meant][0]).layers)


class PrintedTable:
    """The ``lines`` to be judged, among ``every`` line that is there."""

    def __init__(self, published: pd.DataFrame, every: pd.DataFrame) -> None:
        self.lines = list(_lines(published))
        self._cells: dict[tuple, list[PrintedNumber]] = defaultdict(list)
        for line in _lines(every):
            if line.is_number and line.source in PAPERS:
                self._cells[_cell(line)].append(line)
        self._places: dict[tuple, list[PrintedNumber]] = defaultdict(list)
        self._rows: dict[tuple, list[PrintedNumber]] = defaultdict(list)
        for line in self.lines:
            self._places[line.place].append(line)
            self._rows[line.whole_row].append(line)

    def span(self, line: PrintedNumber, like: Callable[[PrintedNumber], bool]) -> PrintedRange:
        """The range that papers print for the line's cell, itself among them, on a scale to 100.

        Readers' reports, blogs and summaries are no papers. ``like``: which other numbers count.
        """
        lines = [line, *(other for other in self._cells[_cell(line)] if other != line and like(other))]
        numbers = [other.hundred for other in lines]
        return PrintedRange(min(numbers), max(numbers), len({other.paper for other in lines}))

    def whole(self, line: PrintedNumber) -> tuple[float, float] | None:
        """What the same table prints for the whole model, on a scale to 100, and by how much its digits may be off."""
        if line.unit.startswith("% of vanilla"):
            return 100.0, 0.0
        others = (other for other in self._places[line.place] if other.is_number and not other.label)
        return next(((other.hundred, other.rounding) for other in others if other.method == VANILLA), None)

    def row(self, line: PrintedNumber) -> Sequence[PrintedNumber]:
        """All numbers of the line's row."""
        return self._rows[line.whole_row]


def _lines(table: pd.DataFrame) -> Iterator[PrintedNumber]:
    names = list(PrintedNumber.__dataclass_fields__)
    for row in table.reindex(columns=names, fill_value="").itertuples(index=False):
        yield PrintedNumber(*row)


def _cell(line: PrintedNumber) -> tuple:
    """What makes two papers' numbers the same cell: a row's label where a setting has no token count."""
    label = line.label if line.tokens or line.method == VANILLA else line.row
    if fields := fields_of(line.name, line.row):
        label = str(sorted(fields.items()))
    return line.model, line.method, line.tokens, label, line.column, line.unit


@dataclass(frozen=True)
class RowMean:
    """``value`` on the printed scale, the ``low`` and ``high`` that the rounding of the cells leaves open, ``how``."""

    value: float
    low: float
    high: float
    how: str


def mean_of_row(line: PrintedNumber, table: PrintedTable) -> RowMean | None:
    """The mean of the row's scores, or of their shares of the whole model's; None if the line is no such average.

    A relative average is sometimes the mean of the ratios and sometimes the ratio of the means: the nearer one is
    taken. It shows whether a table agrees with itself and no more.
    """
    if line.column not in AVERAGES or not line.is_number:
        return None
    scores = [score for score in table.row(line) if score.column not in AVERAGES and score.is_score and score.is_number]
    if len(scores) < LEAST_SCORES:
        return None
    text = f"the row's {len(scores)} scores"
    if line.column == "average":
        off = fmean(score.rounding for score in scores)
        mean = fmean(score.number for score in scores)
        even = all(score.unit == "%" for score in scores)
        return RowMean(mean, mean - off, mean + off, f"mean of {text}") if even else None
    wholes = [whole for score in scores if (whole := table.whole(score)) and whole[0]]
    if len(wholes) < len(scores) or line.method == VANILLA:  # the whole model has all of its own scores
        return None
    pairs = [(score.hundred, score.rounding, *whole) for score, whole in zip(scores, wholes, strict=True)]
    ends = [[(n + sign * off, whole - sign * loose) for n, off, whole, loose in pairs] for sign in (0, -1, 1)]
    shares = [100 * fmean(n / whole for n, whole in end) for end in ends]
    totals = [100 * fmean(n for n, _ in end) / fmean(whole for _, whole in end) for end in ends]
    ways = {
        f"mean of {text}, each as a share of the whole model's": shares,
        f"mean of {text} as a share of the whole model's mean": totals,
    }
    how = min(ways, key=lambda name: abs(ways[name][0] - line.number))
    return RowMean(*ways[how], how)


def slug(model: str) -> str:
    """A printed model's name as a file of ``conf/model`` would be called."""
    return model.lower().replace("-", "_").replace(".", "_")
