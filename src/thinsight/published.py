"""The papers' numbers, as printed, with where each one stands: ``data/published/*.csv``."""

import pandas as pd

from thinsight.config import ROOT
from thinsight.errors import UserError, nearest

FOLDER = ROOT / "data" / "published"
COLUMNS = (
    "paper", "arxiv", "version", "table", "model", "method", "row", "column", "value", "unit", "protocol", "source",
    "trust",
)  # fmt: skip
MAY_BE_EMPTY = frozenset({"arxiv", "version", "model"})
SOURCES = frozenset({"own paper", "own readme", "own issue", "other paper", "digest", "blog"})
TRUST = frozenset({"paper", "readme", "issue", "quoted", "other-paper", "unverified"})


def load_published(name: str) -> pd.DataFrame:
    """All lines of ``data/published/<name>.csv`` as text, and ``number``: the value as a float, NaN if it is not one.

    A file that breaks the rules of its columns (see the README beside it) is a `UserError` that names the line.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.csv"))
    if name not in known:
        raise nearest("published table", name, known)
    return check(pd.read_csv(FOLDER / f"{name}.csv", dtype=str, keep_default_na=False), name)


def check(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """``table`` with its ``number``s, or the first thing that is wrong with it."""
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{name}.csv must have the columns {', '.join(COLUMNS)}.")
    for column in COLUMNS:
        text = table[column]
        _refuse(name, text[text != text.str.strip()], f"{column} begins or ends with a space")
        if column not in MAY_BE_EMPTY:
            _refuse(name, text[text == ""], f"{column} is empty")
    _refuse(name, table[~table.source.isin(SOURCES)], f"source is none of {', '.join(sorted(SOURCES))}")
    _refuse(name, table[~table.trust.isin(TRUST)], f"trust is none of {', '.join(sorted(TRUST))}")
    _refuse(name, table[~table.arxiv.str.fullmatch(r"(\d{4}\.\d{5})?")], "arxiv is not a number like 2405.05803")
    _refuse(name, table[~table.value.str.contains(r"\d")], "value has no digit")
    where = ["paper", "version", "table", "model", "row", "column"]
    _refuse(name, table[table.duplicated(where)], "the same cell of the same table is there twice")
    return table.assign(number=pd.to_numeric(table.value, errors="coerce"))


def _refuse(name: str, wrong: pd.DataFrame | pd.Series, what: str) -> None:
    if len(wrong):
        raise UserError(f"{name}.csv, line {wrong.index[0] + 2}: {what}.")
