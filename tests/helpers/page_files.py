"""For the tests of the pages: what an executed page saved, and the files that its numbers come from, read as they are.

Nothing here goes through the readers of the package: tables are read with csv, runs with json and parquet.
"""

import csv
import json
import math
from functools import cache

import pyarrow.parquet as pq
import pytest

from thinsight.paths import ROOT

PAGES, RUNS, PUBLISHED = ROOT / "data" / "pages", ROOT / "data" / "runs", ROOT / "data" / "published"
WHERE = ("paper", "version", "table", "model", "row", "column")  # what says which cell of a paper is meant


def saved(page: str, table: str) -> list[dict[str, str]]:
    """The lines of ``data/pages/PAGE/TABLE.csv``; a page that was not executed here skips the test."""
    file = PAGES / page / f"{table}.csv"
    if not file.is_file():
        pytest.skip(f"the page {page} was not executed here: `dvc repro` makes {file.relative_to(PAGES.parent.parent)}")
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def facts(page: str) -> dict:
    """``data/pages/PAGE/facts.json``; a page that was not executed here skips the test."""
    file = PAGES / page / "facts.json"
    if not file.is_file():
        pytest.skip(f"the page {page} was not executed here")
    return json.loads(file.read_text(encoding="utf-8"))


def metrics(run: str) -> dict:
    """``metrics.json`` of a run: ``["scores"][task][budget]`` is a cell."""
    return json.loads((RUNS / run / "metrics.json").read_text(encoding="utf-8"))


def budgets(run: str, label: str) -> list[str]:
    """The budgets of ``run`` that a page calls ``label``; parts that only tell draws apart are left out."""
    names = next(iter(metrics(run)["scores"].values()))
    return [name for name in names if (_undrawn(name) or "fixed") == label]


@cache
def _right(run: str) -> dict[str, dict[tuple[str, str], float]]:
    file = RUNS / run / "predictions.parquet"
    if not file.is_file():
        pytest.skip(f"{file} is not here: `dvc checkout` brings it back")
    out: dict[str, dict[tuple[str, str], float]] = {}
    for line in pq.read_table(file, columns=["budget", "task", "id", "correct"]).to_pylist():
        fields = json.loads(line["budget"])
        name = ",".join(f"{key}={value}" for key, value in fields.items()) or "fixed"
        out.setdefault(name, {})[line["task"], line["id"]] = float(line["correct"])
    return out


def right(run: str, budget: str) -> dict[tuple[str, str], float]:
    """(task, id) -> how right the answer was, of a run at a budget, from ``predictions.parquet``."""
    return _right(run)[budget]


def printed(file: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """The lines of ``data/published/FILE.csv`` by `WHERE`."""
    out: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with (PUBLISHED / f"{file}.csv").open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            out.setdefault(tuple(line[key] for key in WHERE), []).append(line)
    return out


def same(text: str, number: float, digits: int = 6) -> bool:
    """Whether a saved cell is ``number``, as far as it was written; an empty cell is NaN."""
    if text == "" or math.isnan(number):
        return text == "" and math.isnan(number)
    return math.isclose(float(text), number, rel_tol=6 * 10.0**-digits, abs_tol=1e-9)


def check_printed(page: str, table: str = "ledger") -> None:
    """Every line of a page's ledger is a cell of ``data/published``, with the value that stands there."""
    lines = saved(page, table)
    assert lines, f"the ledger of {page} is empty"
    files = {file: printed(file) for file in {line["file"] for line in lines}}
    for line in lines:
        cells = files[line["file"]].get(tuple(line[key] for key in WHERE), [])
        assert line["printed"] in [cell["value"] for cell in cells], line


def check_complete(lines: list[dict[str, str]], files: list[str]) -> None:
    """The lines of a ledger are the printed numbers of ``files``, none missing and none twice."""
    listed = [(line["file"], *(line[key] for key in WHERE)) for line in lines]
    wanted = [(file, *key) for file in files for key, cells in printed(file).items() for _ in cells]
    assert sorted(listed) == sorted(wanted)


def check_scores(lines: list[dict[str, str]]) -> None:
    """``accuracy`` of lines with run, task and budget is that of metrics.json, several draws averaged."""
    for line in lines:
        names = budgets(line["run"], line["budget"])
        cells = metrics(line["run"])["scores"][line["task"]]
        assert same(line["accuracy"], sum(cells[name]["accuracy"] for name in names) / len(names)), line


def _undrawn(name: str) -> str:
    return ",".join(part for part in name.split(",") if not part.startswith(("seed=", "phase=")))
