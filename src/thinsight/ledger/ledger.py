"""The ledger: printed, computed and measured side by side, with verdicts counted."""

import re
from dataclasses import asdict, replace

import pandas as pd

from thinsight.ledger.counting import COSTS, UNITS, Counting, computed, uniform_tokens
from thinsight.ledger.lines import VANILLA, PrintedNumber, PrintedTable, averages_in_row
from thinsight.ledger.published import CELL, load_all
from thinsight.ledger.scores import RunScores, ScoreComparison
from thinsight.ledger.verdicts import NOT_RUN, RANGE, REPRODUCED, VERDICTS, Verdict, efficiency

COLUMNS = (
    "file", "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "printed", "unit",
    "computed", "how", "measured", "measure", "run", "verdict", "why",
)  # fmt: skip


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

    results, answers  as `thinsight.analysis.results` reads them; runs with a hyphen in their name are left out
    base              the run of the whole model
    every             all printed numbers, for the range that papers print for a cell; None: all of data/published
    """
    every = load_all() if every is None else every
    prints = PrintedTable(_filed(published, every), every)
    scored = ScoreComparison(prints, RunScores(results, answers, base))
    out = []
    for line in prints.lines:
        found = _cost(line, prints) if line.column in COSTS else scored.finding(line) or _nothing(line)
        if mean := averages_in_row(line, prints):
            found = replace(found, computed=mean.value, how=mean.how)
        out.append({key: getattr(line, key, "") for key in COLUMNS} | {"printed": line.value} | asdict(found))
    return pd.DataFrame(out, columns=list(COLUMNS))


def summary(frame: pd.DataFrame, by: str = "paper") -> pd.DataFrame:
    """How many lines of a `ledger` have each verdict: a row per value of ``by``, a column per verdict, their sums."""
    counts = pd.crosstab(frame[by], frame["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts = counts.loc[list(dict.fromkeys(frame[by]))]
    counts.loc["all"] = counts.sum()
    return counts.assign(numbers=counts.sum(axis=1)).rename_axis(index=by, columns=None)


def _filed(published: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """``published`` with the column ``file``, from ``every`` if it has none."""
    if "file" in published or "file" not in every:
        return published
    files = every.set_index(CELL)["file"]
    return published.assign(file=files.reindex(pd.MultiIndex.from_frame(published[CELL])).fillna("").to_numpy())


def _cost(line: PrintedNumber, prints: PrintedTable) -> Verdict:
    """The verdict on a cost that a formula gives."""
    if line.number != line.number:
        return Verdict(NOT_RUN, "no single number is printed")
    if line.unit not in UNITS:
        return Verdict(NOT_RUN, f"no one model and setting to compute it for ({line.unit})")
    way = line.way
    name = "" if line.method == VANILLA else line.name or line.method
    found = computed(line.column, line.meant, name, line.count, line.row, line.number, way)
    if found.value is None:
        return Verdict(NOT_RUN, found.how + _would(line, way))
    span = prints.span(line)
    said = efficiency(line.value, found.value, span, known=found.known)
    why = f"{found.value:.4g} computed; {span.text}{_would(line, way)}"
    if said == REPRODUCED:
        why = way.source
    elif said == RANGE and not found.known:
        why = f"met by a way of counting that was only looked for: {way.source}"
    return Verdict(said, why, computed=found.value, how=found.how)


def _would(line: PrintedNumber, way: Counting) -> str:
    """Which count of tokens would have met a printed cost."""
    if line.method == VANILLA:
        return ""
    tokens = uniform_tokens(line.column, line.meant, line.number, way)
    return "" if tokens in (None, line.count) else f"; about {tokens} visual tokens in every layer would give it"


def _nothing(line: PrintedNumber) -> Verdict:
    """Nothing computes or runs the number: why."""
    for pattern, why in NOTHING.items():
        if re.search(pattern, f"{line.column} {line.unit}", re.IGNORECASE):
            return Verdict(NOT_RUN, why)
    return Verdict(NOT_RUN, f"nothing here gives {line.column}")


MOST = 16  # papers by name; those with the fewest numbers stand together


ALIKE = {  # reasons that differ only in what they name, as one
    r"has no kin among pocket's tasks": "a benchmark that has no kin among pocket's tasks",
    r"has no file in conf/method": "a method that has no file in conf/method",
    r"^a variant of": "a variant of a method, not the method as it is",
    r"was not run at": "a method that was not run at that budget",
    r"^pocket decides too little": "pocket decides too little: its intervals hold zero, or print is within a point",
    r"^the setting's tokens": "the setting's tokens are not stated, or not those of a picture of this model",
    r"^nothing here gives": "a quantity that nothing here gives",
}


def count_verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """One line per paper of `thinsight.ledger.ledger.ledger`: paper, a column per verdict, ``total``; most numbers first."""
    counts = pd.crosstab(ledger["paper"], ledger["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts["total"] = counts.sum(axis=1)
    counts = counts.sort_values("total", ascending=False, kind="stable").reset_index()
    return counts.rename_axis(columns=None)


def merge_small(counts: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """The same with at most ``most`` lines: the last one stands for all papers with fewer numbers."""
    if len(counts) <= most:
        return counts
    rest = counts.iloc[most - 1 :]
    line = {"paper": f"{len(rest)} other papers"} | rest.drop(columns="paper").sum().to_dict()
    return pd.concat([counts.iloc[: most - 1], pd.DataFrame([line])], ignore_index=True)


def reasons(ledger: pd.DataFrame) -> pd.DataFrame:
    """Why numbers were not run: why (`ALIKE` together), numbers, papers; the most frequent first."""
    part = ledger[ledger["verdict"] == NOT_RUN]
    part = part.assign(why=part["why"].map(_alike))
    found = part.groupby("why", as_index=False).agg(numbers=("verdict", "size"), papers=("paper", "nunique"))
    return found.sort_values("numbers", ascending=False, kind="stable", ignore_index=True)


def _alike(why: str) -> str:
    return next((said for pattern, said in ALIKE.items() if re.search(pattern, why)), why)
