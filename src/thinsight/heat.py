"""Tables whose cells are coloured by what they say, as HTML: methods by tasks and budgets, or by kinds of question."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_hex

from thinsight.catalogue import render
from thinsight.comparisons import LEVEL
from thinsight.standing import MEAN

WORST, BEST = -0.8, 0.25  # what the two ends of the colours stand for: a change against the whole model
COLOURS = LinearSegmentedColormap.from_list("loss", ["#9c3a0c", "#e0833f", "#f7d9b8", "#fbf9f4", "#a9cfe8", "#4a94c4"])
MIDDLE = 0.6  # where on them no change stands
BETTER, WORSE = "▴", "▾"
BLOCKS = {False: "methods", True: "controls"}


def budget_heat(table: pd.DataFrame, heads: Sequence[str]) -> str:
    """Relative scores of a `thinsight.scoreboard.labelled` frame of `thinsight.comparisons.comparisons`.

    heads  what the budgets are called, in the order of the table
    """
    tasks = [task for task in dict.fromkeys(table["task"]) if task != MEAN]
    groups = [
        {"head": head, "columns": tasks, "keys": [(keep, task) for task in tasks]}
        for keep, head in zip(dict.fromkeys(table["keep"]), heads, strict=True)
    ]
    return _heat(table, groups, ["keep", "task"], _share)


def kind_heat(table: pd.DataFrame, keep: float) -> str:
    """Changes in points at one budget of a `thinsight.scoreboard.labelled` frame of `thinsight.kinds.kinds`."""
    part = table[table["keep"] == keep]
    counts = part.drop_duplicates(["task", "kind"])
    groups = [
        {
            "head": task,
            "columns": [f"{kind} ({n})" for kind, n in zip(of["kind"], of["n"], strict=True)],
            "keys": [(task, kind) for kind in of["kind"]],
        }
        for task, of in counts.groupby("task", sort=False)
    ]
    return _heat(part, groups, ["task", "kind"], _change)


def shade(change: float) -> tuple[str, str]:
    """The colour of a cell and of its text; ``change`` is a share of the whole model's score, or a difference to it."""
    part = MIDDLE - MIDDLE * min(1.0, change / WORST) if change < 0 else MIDDLE + (1 - MIDDLE) * min(1.0, change / BEST)
    red, green, blue, _ = COLOURS(part)
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
    return to_hex((red, green, blue)), "#ffffff" if dark else "#1c1e21"


def signed(value: float, digits: int = 0) -> str:
    """With its sign, which nothing has none of: ``+3``, ``−12``, ``0``."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def _heat(table: pd.DataFrame, groups: list[dict], keys: list[str], cell: Callable[[pd.Series], dict]) -> str:
    """Rows are methods, then controls, in the order of their means; columns are ``groups`` of values of ``keys``."""
    value = "relative" if "relative" in table else "change"
    means = table.groupby("run")[value].mean().sort_values(ascending=False, kind="stable")
    rows = {tuple(row[key] for key in ("run", *keys)): row for row in table.to_dict("records")}
    said = table.drop_duplicates("run").set_index("run")
    blocks = []
    for control, head in BLOCKS.items():
        runs = [run for run in means.index if said.loc[run, "control"] == control]
        lines = []
        for run in runs:
            cells: list[dict[str, Any]] = []
            for group in groups:
                for number, key in enumerate(group["keys"]):
                    row = rows.get((run, *key))
                    cells.append((cell(row) if row else _absent()) | {"first": number == 0})
            lines.append({"title": said.loc[run, "title"], "cells": cells})
        if lines:
            blocks.append({"head": head, "lines": lines})
    width = 1 + sum(len(group["keys"]) for group in groups)
    return render("heat.html.j2", groups=groups, blocks=blocks, width=width)


def _share(row: dict) -> dict[str, Any]:
    """A relative score: bold where the loss is sure, marked where it surely differs from random."""
    back, ink = shade(row["relative"] - 1)
    against = {name: row[f"{name}_holm"] < LEVEL for name in ("random", "whole")}
    title = (
        f"{row['title']}, {row['task']}: {row['accuracy']:.1%} on {row['n']} questions, {row['relative']:.1%} of the "
        f"whole model ({row['low']:.1%} to {row['high']:.1%}; p {row['whole_holm']:.2g} after Holm)"
    )
    if pd.notna(row["random"]):
        title += f"; {signed(100 * row['random'], 1)} points to random (p {row['random_holm']:.2g})"
    mark = (BETTER if row["random"] > 0 else WORSE) if against["random"] else ""
    sure = against["whole"] and row["whole"] < 0
    return {
        "text": f"{100 * row['relative']:.0f}",
        "sure": sure,
        "mark": mark,
        "title": title,
        "shade": back,
        "ink": ink,
    }


def _change(row: dict) -> dict[str, Any]:
    """A change in points: bold where its interval excludes zero."""
    back, ink = shade(row["change"])
    points = [signed(100 * row[name], 1) for name in ("change", "low", "high")]
    title = (
        f"{row['title']}, {row['task']}, {row['kind']}: {row['whole']:.1%} to {row['accuracy']:.1%} on {row['n']} "
        f"questions, {points[0]} points ({points[1]} to {points[2]})"
    )
    text = signed(100 * row["change"])
    sure = row["low"] > 0 or row["high"] < 0
    return {"text": text, "sure": sure, "mark": "", "title": title, "shade": back, "ink": ink}


def _absent() -> dict[str, Any]:
    return {"text": "–", "sure": False, "mark": "", "title": "not run", "shade": "transparent", "ink": "inherit"}
