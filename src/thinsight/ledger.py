"""The ledger: each printed number beside what its formulae give and what was measured here, with a verdict by rule."""

import re
from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd

from thinsight import verdict as rule
from thinsight.averages import averaged
from thinsight.catalogue import render
from thinsight.counting import COSTS, UNITS, computed, uniform_tokens
from thinsight.kin import Runs
from thinsight.lines import VANILLA, Line, Prints
from thinsight.papers import Counting
from thinsight.published import CELL, load_all
from thinsight.scored import Scored
from thinsight.verdict import BADGES, NOT_RUN, RANGE, REPRODUCED, VERDICTS, Finding

COLUMNS = (
    "file", "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "printed", "unit",
    "computed", "how", "measured", "measure", "run", "verdict", "why",
)  # fmt: skip
SHORT, LONG = 12, 100  # lines of a table, and of the ledger, up to which a table is shown without a click
NOTHING = {  # what a column or unit says -> why nothing here gives it
    r"\btime\b|latency|speed|/s\b|throughput": "a time on a GPU; nothing was timed on one here",
    r"memory|\bGB\b": "memory of a GPU; nothing was run on one here",
    r"attention": "a share of attention inside a model that was not run here",
    r"standard error": "the standard error of a score that was not run here",
    r"against earlier": "a comparison with methods that are not named; what others need on pocket is on the page",
    r"\btokens?\b": "the setting of its row, not a result",
}


def ledger(
    published: pd.DataFrame,
    results: pd.DataFrame,
    answers: pd.DataFrame,
    base: str = "plain",
    every: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One line per printed number of ``published``, in `COLUMNS`.

    results, answers  as `thinsight.results` reads them; runs with a hyphen in their name are left out
    base              the run of the whole model
    every             all printed numbers, for the range that papers print for a cell; None: all of data/published
    """
    every = load_all() if every is None else every
    prints = Prints(_filed(published, every), every)
    scored = Scored(prints, Runs(results, answers, base))
    out = []
    for line in prints.lines:
        found = _cost(line, prints) if line.column in COSTS else scored.finding(line) or _nothing(line)
        if mean := averaged(line, prints):
            found = replace(found, computed=mean.value, how=mean.how)
        out.append({key: getattr(line, key, "") for key in COLUMNS} | {"printed": line.value} | asdict(found))
    return pd.DataFrame(out, columns=list(COLUMNS))


def summary(frame: pd.DataFrame, by: str = "paper") -> pd.DataFrame:
    """How many lines of a `ledger` have each verdict: a row per value of ``by``, a column per verdict, their sums."""
    counts = pd.crosstab(frame[by], frame["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts = counts.loc[list(dict.fromkeys(frame[by]))]
    counts.loc["all"] = counts.sum()
    return counts.assign(numbers=counts.sum(axis=1)).rename_axis(index=by, columns=None)


def ledger_html(frame: pd.DataFrame) -> str:
    """A `ledger` as HTML: a table per printed table and model, long ones behind a click, a badge per verdict."""
    where = ["paper", "arxiv", "version", "table", "model"]
    groups = []
    for key, part in frame.groupby(where, sort=False):
        said = dict(zip(where, key, strict=True))
        short = len(part) <= SHORT and len(frame) <= LONG
        groups.append(said | {"lines": list(part.itertuples()), "counts": _counts(part["verdict"]), "short": short})
    return render("ledger.html.j2", groups=groups, rules=rule.rules(), badges=BADGES)


def _filed(published: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """``published`` with the column ``file``, from ``every`` if it has none."""
    if "file" in published or "file" not in every:
        return published
    files = every.set_index(CELL)["file"]
    return published.assign(file=files.reindex(pd.MultiIndex.from_frame(published[CELL])).fillna("").to_numpy())


def _cost(line: Line, prints: Prints) -> Finding:
    """The verdict on a cost that a formula gives."""
    if line.number != line.number:
        return Finding(NOT_RUN, "no single number is printed")
    if line.unit not in UNITS:
        return Finding(NOT_RUN, f"no one model and setting to compute it for ({line.unit})")
    way = line.way
    name = "" if line.method == VANILLA else line.name or line.method
    found = computed(line.column, line.meant, name, line.count, line.row, line.number, way)
    if found.value is None:
        return Finding(NOT_RUN, found.how + _would(line, way))
    span = prints.span(line)
    said = rule.efficiency(line.value, found.value, span, known=found.known)
    why = f"{found.value:.4g} computed; {span.text}{_would(line, way)}"
    if said == REPRODUCED:
        why = way.source
    elif said == RANGE and not found.known:
        why = f"met by a way of counting that was only looked for: {way.source}"
    return Finding(said, why, computed=found.value, how=found.how)


def _would(line: Line, way: Counting) -> str:
    """Which count of tokens would have met a printed cost."""
    if line.method == VANILLA:
        return ""
    tokens = uniform_tokens(line.column, line.meant, line.number, way)
    return "" if tokens in (None, line.count) else f"; about {tokens} visual tokens in every layer would give it"


def _nothing(line: Line) -> Finding:
    """Nothing computes or runs the number: why."""
    for pattern, why in NOTHING.items():
        if re.search(pattern, f"{line.column} {line.unit}", re.IGNORECASE):
            return Finding(NOT_RUN, why)
    return Finding(NOT_RUN, f"nothing here gives {line.column}")


def _counts(verdicts: Sequence[str]) -> list[tuple[str, str, int]]:
    """(badge, verdict, how many) of those that occur, in the order of `VERDICTS`."""
    found = pd.Series(verdicts).value_counts()
    return [(BADGES[name], name, int(found[name])) for name in VERDICTS if name in found]
