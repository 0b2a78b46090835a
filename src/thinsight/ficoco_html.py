"""FiCoCo's ablations and costs as tables in HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from thinsight.catalogue import render
from thinsight.ficoco_fields import AS_IT_IS, PAIRS, POINTS
from thinsight.ficoco_flops import PAPERS


def ablation_html(tables: Mapping[str, pd.DataFrame], tasks: Sequence[str]) -> str:
    """The `ablation`s of several methods as one table: for each a block, and one of what only we ran."""
    columns = ["mean", "difference", "direction", "same answers", *tasks]
    groups = [("printed", list(PAIRS)), ("measured here", columns)]
    blocks = []
    for title, table in tables.items():
        known = table["row"].isin(POINTS[title])
        further = ~known & ~table["row"].str.fullmatch(r"\w+=[\d.]+") | table["row"].str.startswith("most=")
        for head, part in ((title, table[known]), (f"{title}, not in the paper", table[further])):
            if len(part):
                blocks.append({"head": head, "lines": [_line(row, table.iloc[0], tasks) for _, row in part.iterrows()]})
    return render("numbers.html.j2", groups=groups, blocks=blocks)


def flops_html(printed: pd.DataFrame, cached: pd.DataFrame, cost: pd.DataFrame, least: Mapping[int, float]) -> str:
    """`labels`, `caches`, `costs` and `floor` as one table: what is printed, then what runs."""
    columns = ["printed", "visual tokens", "uniform count", "tokens that fit"]
    groups = [
        ("in every layer alike", columns),
        ("as it runs", ["layer mean", "formula", "counted", "KV MB", "tower"]),
    ]
    runs = [
        _cells("", f"{row['kept']:.0f}", row["uniform"], "", f"{row['mean']:.0f}", row["formula"], row["counted"],
               f"{row['cache']:.0f}", row["tower"])
        for _, row in cost.iterrows()
    ]  # fmt: skip
    runs = [{"title": title, "cells": cells} for title, cells in zip(cost["label"], runs, strict=True)]
    ends = {f"no visual token after {k} layers": value for k, value in least.items()}
    runs += [{"title": title, "cells": _cells(*[""] * 5, value, *[""] * 3)} for title, value in ends.items()]
    blocks = []
    for model, part in printed.groupby("model", sort=False):
        lines = [_label(row) for _, row in part.iterrows()]
        lines += [_cached(row) for _, row in cached[cached["model"] == model].iterrows()]
        with_text = f"{model} with {part['text'].iloc[0]} text tokens"
        blocks.append({"head": f"{with_text}: what the tables print", "lines": lines})
        if model == PAPERS[0].title:
            blocks.append({"head": f"{with_text}: what runs", "lines": runs})
    return render("numbers.html.j2", groups=groups, blocks=blocks)


def _label(row: pd.Series) -> dict[str, Any]:
    """A printed TFLOPs label."""
    stated = "" if row["stated"] != row["stated"] else f"{row['stated']:.0f}"
    uniform, counted = ("" if row[name] != row[name] else row[name] for name in ("uniform", "counted"))
    title = "whole model" if row["whole"] else "reduced"
    cells = _cells(f"{row['printed']:g} T", stated, uniform, f"{row['implied']}", "", "", counted, "", "")
    return {"title": title, "note": row["where"], "cells": cells}


def _cached(row: pd.Series) -> dict[str, Any]:
    """A printed key-value cache."""
    cells = _cells(f"{row['printed']:g} MB", "", "", f"{row['fits']:.1f}", *[""] * 5)
    return {"title": f"KV cache, {row['row']}", "cells": cells}


def _cells(*values: Any) -> list[dict[str, str]]:
    """Texts as they are, numbers in T."""
    return [{"text": f"{v:.2f} T" if isinstance(v, float) else v} for v in values]


def _line(row: pd.Series, base: pd.Series, tasks: Sequence[str]) -> dict[str, object]:
    """One line of the table; small below a printed number: its difference to the method as it is."""
    cells = []
    for name in PAIRS:
        there = row[name] == row[name]
        small = f"{row[name] - base[name]:+.2f}" if there and row["row"] != "full" and base[name] == base[name] else ""
        cells.append({"text": f"{row[name]:.2f}" if there else "–", "small": small})
    if row["point"] is None or row["point"] != row["point"]:
        cells += [{"text": "not run" if at == 0 else "–"} for at in range(len(tasks) + 4)]
        return {"title": row["row"], "note": "", "cells": cells}
    is_base = row["point"] == AS_IT_IS
    words = {True: "same", False: "opposite"}
    said = "" if is_base or row["row"] == row["point"] else words.get(row["agrees"], "undecided")
    cells += [
        {"text": f"{row['mean']:.1f}"},
        {"text": "", "small": ""}
        if is_base
        else {"text": f"{row['difference']:+.1f}", "small": f"{row['low']:+.0f} to {row['high']:+.0f}"},
        {"text": "identical" if said and row["same"] == 1 else said},
        {"text": "" if is_base else f"{row['same']:.0%}"},
    ]
    cells += [{"text": f"{row[task]:.1f}" if task in row and row[task] == row[task] else "–"} for task in tasks]
    title = row["row"].replace("=True", "").replace(",", ", ")
    note = "" if row["row"] == row["point"] or is_base else row["point"].replace("=True", "")
    return {"title": title, "note": note, "cells": cells}
