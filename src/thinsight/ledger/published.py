"""Printed numbers of papers, read from data/published and checked."""

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
CELL = ["paper", "version", "table", "model", "tokens", "row", "column"]  # what one printed number is found by


def load_published(name: str) -> pd.DataFrame:
    """All lines of ``data/published/<name>.csv`` as text, and ``number``: the value as a float, NaN if it is not one.

    A file that breaks the rules of its columns (see the README beside it) is a `UserError` that names the line.
    """
    known = published_files()
    if name not in known:
        raise nearest("published table", name, known)
    return check_table(pd.read_csv(FOLDER / f"{name}.csv", dtype=str, keep_default_na=False), name)


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


def check_table(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """``table`` with its ``number``s, or the first thing that is wrong with it."""
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{name}.csv must have the columns {', '.join(COLUMNS)}.")
    wrong = {f"{column} begins or ends with a space": table[column] != table[column].str.strip() for column in COLUMNS}
    wrong |= {f"{column} is empty": table[column] == "" for column in COLUMNS if column not in MAY_BE_EMPTY}
    wrong |= {
        f"source is none of {', '.join(sorted(SOURCES))}": ~table.source.isin(SOURCES),
        f"trust is none of {', '.join(sorted(TRUST))}": ~table.trust.isin(TRUST),
        "arxiv is not a number like 2405.05803": ~table.arxiv.str.fullmatch(r"(\d{4}\.\d{5})?"),
        "tokens is not an integer": ~table.tokens.str.fullmatch(r"\d*"),
        "value has no digit": ~table.value.str.contains(r"\d"),
        "the same cell of the same table is there twice": table.duplicated(CELL),
    }
    for what, lines in wrong.items():
        if lines.any():
            raise UserError(f"{name}.csv, line {lines.idxmax() + 2}: {what}.")
    for column in table.column[~table.column.isin(SPELLINGS)]:
        raise nearest(f"column in {name}.csv", column, SPELLINGS)
    return table.assign(number=pd.to_numeric(table.value, errors="coerce"))
