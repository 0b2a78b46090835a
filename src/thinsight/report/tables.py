"""HTML tables of a page.

`board` is the one way from a data frame to a table of the report: pandas' Styler writes it, and what Styler has no word
for (blocks of rows, small print, links to runs) is added to its elements.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup, Tag
from matplotlib.colors import Colormap, TwoSlopeNorm
from pandas.io.formats.style import Styler

from thinsight.analysis.comparisons import MEAN
from thinsight.ledger.ledger import count_all, headline
from thinsight.ledger.verdicts import AVERAGE, BADGES, COST, SCORE, rules
from thinsight.report.render import render

BETTER, WORSE = "▴", "▾"
BLOCKS = {False: "methods", True: "controls"}  # whether a line is a control -> the heading of its block
SHORT, LONG = 12, 100  # lines of a table, and of the ledger, up to which a table is shown without a click


@dataclass(frozen=True)
class Heat:
    """Colours behind numbers: ``low`` and ``high`` are what the two ends of ``cmap`` stand for, ``centre`` its middle.

    columns  labels of the coloured columns; None for all
    """

    cmap: str | Colormap
    low: float
    high: float
    centre: float | None = None
    columns: Sequence[Any] | None = None


def board(
    frame: pd.DataFrame,
    *,
    caption: str | None = None,
    formats: str | Callable[[Any], str] | Mapping[Any, Any] | None = None,
    heat: Heat | None = None,
    bold: pd.DataFrame | None = None,
    small: pd.DataFrame | None = None,
    tooltips: pd.DataFrame | None = None,
    notes: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    controls: Sequence[bool] | None = None,
    text: Sequence[Any] = (),
    html: bool = False,
    classes: str = "board",
) -> str:
    """The frame as an HTML table of the report.

    frame     two levels of columns give heads that span theirs, two levels of rows give blocks under the outer one (an
              empty outer label: no heading). The (inner) index's name stands above the rows' titles. A line break in a
              label is one in its heading. Missing values read "–"
    formats   as `Styler.format` takes them: a format string, a function, or one of these for each column
    bold, small, tooltips
              frames with (some of) the labels of ``frame``: which cells are bold; small print below a cell; what a
              pointer on it reads. Empty or missing: nothing
    notes, runs, controls
              one for each row: small print below its title; the run that its title leads to; whether it is a control,
              which is drawn softer. Empty: nothing
    text      columns of words, which begin at the left
    html      labels, cells and small print are HTML already and are not escaped
    classes   of the table: ``board``; with ``filter`` for a box that filters its rows whatever its length, with
              ``upright`` for narrow columns under turned heads
    """
    escaped = None if html else "html"
    titles = frame.index.get_level_values(-1)
    blocks = frame.index.get_level_values(0) if frame.index.nlevels == 2 else [""] * len(frame)
    numbered = pd.MultiIndex.from_arrays([titles, range(len(frame))], names=[None, None])  # titles may be equal
    columns = frame.columns.set_names([None] * frame.columns.nlevels)
    style = Styler(frame.set_axis(numbered).set_axis(columns, axis=1), uuid="board", caption=caption)
    style.hide(axis="index", level=1).format(formats, na_rep="–", escape=escaped)
    for axis in ("index", "columns"):
        style.format_index(lambda label: str(label).replace("\n", "<br>"), axis=axis, escape=escaped)
    if heat is not None:
        _shade(style, heat)
    if bold is not None:
        marks = bold.set_axis(numbered).reindex(columns=frame.columns).eq(True)
        style.apply(lambda _: np.where(marks, "font-weight: 650", ""), axis=None)
    if tooltips is not None:
        style.set_tooltips(tooltips.set_axis(numbered), as_title_attribute=True)
    soup = BeautifulSoup(style.to_html(table_attributes=f'class="{classes}"', sparse_index=False), "html.parser")
    _drop_pandas_names(soup)
    *spans, heads = soup.thead.find_all("tr")
    for row in spans:
        row.th.string = ""
    corner, *heads = heads.find_all("th")
    corner.string = str(frame.index.names[-1] or "")
    for head in heads:
        words = soup.new_tag("span")  # which can be turned
        words.extend(list(head.contents))
        head.append(words)
    outer = frame.columns.get_level_values(0)
    begins = ~outer.duplicated() if frame.columns.nlevels > 1 else [False] * len(outer)
    marks = [
        ["text"] * (name in text) + ["first"] * bool(first) for name, first in zip(frame.columns, begins, strict=True)
    ]
    prints = None if small is None else small.reindex(columns=frame.columns).fillna("").to_numpy()
    rows = soup.tbody.find_all("tr")
    for number, row in enumerate(rows):
        title, *cells = row.find_all(["th", "td"])
        if notes is not None:
            _add_small(title, notes[number], html)
        if runs is not None and runs[number]:
            title["data-run"] = runs[number]
        if controls is not None and controls[number]:
            row["class"] = "control"
        for column, cell in enumerate(cells) if prints is not None else ():
            _add_small(cell, prints[number][column], html)
    for cells in [heads, *(row.find_all("td") for row in rows)]:
        for cell, classes in zip(cells, marks, strict=True):
            if classes:
                cell["class"] = classes
    _group_rows(soup, blocks, frame.shape[1] + 1)
    text = str(soup).strip()
    return text.replace("T_board", f"T_{hashlib.sha256(text.encode()).hexdigest()[:10]}")  # equal tables, equal bytes


def cell_board(cells: pd.DataFrame, rows: pd.DataFrame, columns: pd.Index, **options: Any) -> str:
    """`board` of tidy cells; ``options``: of `board`.

    cells    a line per cell: text, small, bold, tooltip, and where it stands: the levels of ``columns`` and of the
             index of ``rows``
    rows     a line per row of the table, with its title and its block
    columns  the columns of the table, in their order
    """
    text, small, bold, tooltips = (
        cells.pivot(index=rows.index.names, columns=columns.names, values=name).reindex(rows.index, columns=columns)
        for name in ("text", "small", "bold", "tooltip")
    )
    text = text.set_axis(pd.MultiIndex.from_frame(rows[["block", "title"]], names=[None, "method"]))
    return board(text, small=small, bold=bold, tooltips=tooltips.fillna(""), **options)


def _shade(style: Styler, heat: Heat) -> None:
    columns = [name for name in style.columns if heat.columns is None or name in heat.columns]
    centre = (heat.low + heat.high) / 2 if heat.centre is None else heat.centre
    shares = TwoSlopeNorm(centre, heat.low, heat.high)(style.data[columns].to_numpy(float).clip(heat.low, heat.high))
    dark = 0.18  # the luminance where black and white text stand out alike
    style.background_gradient(
        heat.cmap, axis=None, subset=columns, gmap=shares, vmin=0, vmax=1, text_color_threshold=dark
    )
    style.highlight_null(subset=columns, props="background-color: transparent; color: inherit")


def _drop_pandas_names(soup: BeautifulSoup) -> None:
    """Without the classes of pandas, and with the ids of those cells alone that its styles are about."""
    named = set(re.findall(r"#(\w+)", soup.style.string or "")) if soup.style else set()
    for node in [soup.table, *soup.table.find_all(True)]:
        if node is not soup.table:
            node.attrs.pop("class", None)
        if node.get("id") not in named:
            node.attrs.pop("id", None)
    if soup.style and not named:
        soup.style.decompose()


def _add_small(cell: Tag, words: str, html: bool) -> None:
    if words:
        small = f"<small>{words if html else escape(words)}</small>"
        cell.append(BeautifulSoup(small, "html.parser").small)


def _group_rows(soup: BeautifulSoup, blocks: Sequence[str], width: int) -> None:
    """Rows of one block in a body of their own, under its heading."""
    rows = [row.extract() for row in soup.tbody.find_all("tr")]
    soup.tbody.decompose()
    for number, row in enumerate(rows):
        if number == 0 or blocks[number] != blocks[number - 1]:
            soup.table.append(body := soup.new_tag("tbody"))
            if blocks[number]:
                head = soup.new_tag("th", colspan=width, string=str(blocks[number]))
                body.append(line := soup.new_tag("tr", attrs={"class": "block"}))
                line.append(head)
        body.append(row)


def ledger_html(frame: pd.DataFrame) -> str:
    """A `ledger` as HTML: a table per printed table and model, long ones behind a click, a badge per verdict."""
    asked = frame[SCORE] != ""
    frame = frame.assign(question=asked.map({True: SCORE, False: COST}), verdict=frame[SCORE].where(asked, frame[COST]))
    where = ["paper", "arxiv", "version", "table", "model"]
    groups = []
    for key, part in frame.groupby(where, sort=False):
        short = len(part) <= SHORT and len(frame) <= LONG
        badges = [
            (kind, verdict, count)
            for question, kinds in BADGES.items()
            for verdict, kind in kinds.items()
            if (count := int(part[question].eq(verdict).sum()))
        ]
        lines = {"lines": list(part.itertuples()), "counts": badges, "short": short}
        groups.append(dict(zip(where, key, strict=True)) | lines)
    words = {"headline": headline(count_all(frame)), "rules": rules(), "badges": BADGES, "average": AVERAGE}
    return render("ledger.html.j2", groups=groups, **words)


def comparison_table(table: pd.DataFrame, base: str) -> pd.DataFrame:
    """`comparisons.compare` as text for `board`: a column per task and one for their mean in %, and costs as shares of
    the line ``base``.

    A dagger marks a score whose paired interval of the difference to ``base`` excludes zero.
    """
    order = [list(dict.fromkeys(table[column])) for column in ("line", "task")]
    sure = (table["low"] > 0) | (table["high"] < 0)
    text = (100 * table["accuracy"]).map("{:.1f}".format) + sure.map({True: "†", False: ""})
    out = table.assign(text=text).pivot(index="line", columns="task", values="text").loc[*order]
    costs = table[table["task"] == MEAN].set_index("line")
    titles = {"fastv": "FLOPs, formula", "profiler": "FLOPs, profiler", "kv_bytes": "KV bytes"}
    for name, title in titles.items():
        out[title] = (costs[name] / costs.loc[base, name]).map("{:.0%}".format)
    return out.rename_axis(index=None, columns=None)
