"""HTML tables of a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas.io.formats.style import Styler

from thinsight.analysis.results import FLOPS
from thinsight.ledger.verdicts import BADGES, VERDICTS, rules

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A file of ``templates/``, filled."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["literal"] = _literal
    return environment.get_template(template).render(**values)


def _literal(value: Any) -> str:
    """A field's value as its file has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


BETTER, WORSE = "▴", "▾"


BLOCKS = {False: "methods", True: "controls"}


def signed(value: float, digits: int = 0) -> str:
    """With its sign, which nothing has none of: ``+3``, ``−12``, ``0``."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


SHORT, LONG = 12, 100  # lines of a table, and of the ledger, up to which a table is shown without a click


def ledger_html(frame: pd.DataFrame) -> str:
    """A `ledger` as HTML: a table per printed table and model, long ones behind a click, a badge per verdict."""
    where = ["paper", "arxiv", "version", "table", "model"]
    groups = []
    for key, part in frame.groupby(where, sort=False):
        said = dict(zip(where, key, strict=True))
        short = len(part) <= SHORT and len(frame) <= LONG
        groups.append(said | {"lines": list(part.itertuples()), "counts": _counts(part["verdict"]), "short": short})
    return render("ledger.html.j2", groups=groups, rules=rules(), badges=BADGES)


def _counts(verdicts: Sequence[str]) -> list[tuple[str, str, int]]:
    """(badge, verdict, how many) of those that occur, in the order of `VERDICTS`."""
    found = pd.Series(verdicts).value_counts()
    return [(BADGES[name], name, int(found[name])) for name in VERDICTS if name in found]


def comparison(table: pd.DataFrame, base: str) -> Styler:
    """`comparisons.compare` with a column per task in %, the mean over tasks, and costs as shares of the line ``base``.

    A dagger marks a score whose paired interval of the difference to ``base`` excludes zero.
    """
    order, tasks = list(dict.fromkeys(table["line"])), list(dict.fromkeys(table["task"]))
    out = table.pivot(index="line", columns="task", values="accuracy").loc[order, tasks]
    out["mean"] = out.mean(axis=1)
    sure = (table["low"] > 0) | (table["high"] < 0)
    marks = table.assign(mark=sure.map({True: "†", False: ""})).pivot(index="line", columns="task", values="mark")
    text = (100 * out).map("{:.1f}".format)
    text[tasks] = text[tasks] + marks.loc[order, tasks]
    costs = table.groupby("line")[[*FLOPS, "kv_bytes"]].mean().loc[order]
    titles = ("FLOPs, formula", "FLOPs, profiler", "KV bytes")
    for name, title in zip((*FLOPS, "kv_bytes"), titles, strict=True):
        text[title] = (costs[name] / costs.loc[base, name]).map("{:.0%}".format)
    return text.rename_axis(index=None, columns=None).style
