"""Printed numbers of papers, read from data/published and checked."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from thinsight.errors import UserError, nearest
from thinsight.paths import ROOT

COLUMNS = (
    "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "value", "unit", "protocol",
    "source", "trust",
)  # fmt: skip
MAY_BE_EMPTY = frozenset({"arxiv", "version", "model", "tokens"})
SOURCES = frozenset({"own paper", "own readme", "own issue", "other paper", "digest", "blog"})
PAPERS = frozenset({"own paper", "own readme", "other paper"})  # sources whose authors publish the number as theirs
TRUST = frozenset({"paper", "readme", "issue", "quoted", "other-paper", "unverified"})
BENCHMARKS = (
    "ScienceQA-IMG", "ScienceQA", "TextVQA", "POPE", "GQA", "MMBench", "MMBench-CN", "VQAv2", "VizWiz", "MME", "MME-P",
    "MME-C", "MM-Vet", "SEED", "MMMU", "MMStar", "LLaVA-W", "OKVQA", "Flickr30k", "COCO", "NoCaps", "DocVQA",
    "OCRBench", "M3DocRAG EM", "M3DocRAG F1", "ImageNet top-1", "TGIF", "MSVD", "MSRVTT", "ActivityNet", "SEED video",
    "VideoChatGPT", "NextQA", "EgoSchema", "Video-MME", "MMBench or ScienceQA-IMG", "score (benchmark not recorded)",
)  # fmt: skip
SUMMARIES = (
    "average", "relative average", "relative average gain over the best before",
    "relative average gain over the method it is put on", "ScienceQA-IMG standard error",
)  # fmt: skip
COSTS = (
    "TFLOPs", "TFLOPs ratio", "GFLOPs", "GMACs", "FLOPs ratio", "FLOPs saving", "KV MB", "memory GB",
    "memory difference", "GPU memory saving", "visual tokens", "visual tokens, layer mean", "tokens kept",
    "token reduction", "token reduction against earlier methods",
)  # fmt: skip
TIMES = (
    "images/s", "requests/s", "speed", "speed-up", "latency", "latency saving", "end-to-end time", "prefill time",
    "prefill speed-up", "decode time per token", "decode speed-up", "decode throughput gain", "time to first token",
    "time to first token saving", "training time saving", "wall time", "wall time ScienceQA-IMG", "wall time MMBench",
    "wall time MME",
)  # fmt: skip
OTHERS = ("attention to 576 visual tokens", "attention to 35 system tokens")
SPELLINGS = BENCHMARKS + SUMMARIES + COSTS + TIMES + OTHERS
POCKET = "pocket"  # the model in the box, whose scores no paper prints
FOLDER = ROOT / "data" / "published"
NUMBER = re.compile(r"[+-]?(?=\.?[0-9])([0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)?(\.[0-9]*)?(e[+-]?[0-9]+)?", re.IGNORECASE)
"""One number, maybe with commas between thousands, maybe without a digit before the point."""

NO_SINGLE_NUMBER = re.compile(
    r"[0-9]+m[0-9]{2}s|[0-9]+(:[0-9]{2}){1,2}"  # 12m01s; 8:08, 1:02:03
    r"|[0-9]+(\.[0-9]+)?[-–/][0-9]+(\.[0-9]+)?"  # 61-67, 1.10–1.17; 1.61/26.84
)
"""What a line may print instead: a time, a range, a pair."""

MALFORMED = "neither a number (1862, 1,862, 61.3) nor a time, a range or a pair; its unit has a column of its own"
CELL = ["paper", "version", "table", "model", "tokens", "row", "column"]  # what one printed number is found by


def load_published(name: str) -> pd.DataFrame:
    """All lines of ``data/published/<name>.csv`` as text, and ``number``: the value as a float, NaN if it is a time, a
    range or a pair.

    A file that breaks the rules of its columns (see the README beside it) is a `UserError` that names the line.
    """
    known = published_files()
    if name not in known:
        raise nearest("published table", name, known)
    lines, records = read_csv(FOLDER / f"{name}.csv")
    return check_table(pd.DataFrame(records, columns=list(COLUMNS), dtype=str), name, lines)


def read_csv(path: Path) -> tuple[list[int], list[list[str]]]:
    """The records of a file in UTF-8 with commas and a head of `COLUMNS`, and the line on which each begins."""
    name, content = path.name, path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}, line {line}: this is no UTF-8 text; save the file as UTF-8.") from error
    reader, lines, records, begins = csv.reader(io.StringIO(text, newline=""), strict=True), [], [], 1
    head = UserError(f"{name} must have the columns {', '.join(COLUMNS)}, with commas between them.")
    try:
        for record in reader:
            if record and not lines and tuple(record) != COLUMNS:
                raise head
            if record and len(record) != len(COLUMNS):
                raise csv.Error(f"{len(record)} fields in place of {len(COLUMNS)} (a comma inside one needs quotes)")
            if record:
                lines.append(begins)
                records.append(record)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}, line {begins}: {error}.") from error
    if not lines:
        raise head
    return lines[1:], records[1:]


def published_files() -> list[str]:
    """The files that there are, without their ending."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def load_all() -> pd.DataFrame:
    """The lines of all files, with a first column ``file`` that says which one; a cell stands in one file only."""
    tables = {name: load_published(name) for name in published_files()}
    table = pd.concat([table.assign(file=name) for name, table in tables.items()], ignore_index=True)
    twice = table[table.duplicated(CELL)]
    if len(twice):
        first = twice.iloc[0]
        raise UserError(f"{first.file}.csv repeats a cell of another file: {first.paper}, {first.row}, {first.column}.")
    return table[["file", *COLUMNS, "number"]]


def check_table(table: pd.DataFrame, name: str, lines: Sequence[int] | None = None) -> pd.DataFrame:
    """``table`` with its ``number``s, or the first thing that is wrong with it.

    lines  where its rows begin in the file; None: one after the other below the head
    """
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{name}.csv must have the columns {', '.join(COLUMNS)}.")
    wrong = [(c, "begins or ends with a space", table[c] != table[c].str.strip()) for c in COLUMNS]
    wrong += [(c, "is empty", table[c] == "") for c in COLUMNS if c not in MAY_BE_EMPTY]
    wrong += [
        ("source", f"is none of {', '.join(sorted(SOURCES))}", ~table.source.isin(SOURCES)),
        ("trust", f"is none of {', '.join(sorted(TRUST))}", ~table.trust.isin(TRUST)),
        ("arxiv", "is not a number like 2405.05803", ~table.arxiv.str.fullmatch(r"([0-9]{4}\.[0-9]{5})?")),
        ("tokens", "is not an integer", ~table.tokens.str.fullmatch(r"[0-9]*")),
        ("value", "has no digit", ~table.value.str.contains(r"[0-9]")),
        ("value", f"is {MALFORMED}", ~table.value.map(_is_readable).astype(bool)),
    ]
    lines = range(2, 2 + len(table)) if lines is None else lines
    for column, what, rows in wrong:
        if rows.any():
            row = rows.to_numpy().argmax()
            raise UserError(f"{name}.csv, line {lines[row]}: {column} {what}: '{table[column].iloc[row]}'.")
    if (twice := table.duplicated(CELL).to_numpy()).any():
        raise UserError(f"{name}.csv, line {lines[twice.argmax()]}: the same cell of the same table is there twice.")
    for line, column in zip(lines, table.column, strict=True):
        if column not in SPELLINGS:
            raise UserError(f"{name}.csv, line {line}: {nearest(f'column in {name}.csv', column, SPELLINGS)}")
    return table.assign(number=pd.to_numeric(table.value.str.replace(",", ""), errors="coerce"))


def _is_readable(value: str) -> bool:
    return bool(NUMBER.fullmatch(value) or NO_SINGLE_NUMBER.fullmatch(value))
