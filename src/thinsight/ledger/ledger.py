"""The ledger: printed, computed and measured side by side, with verdicts counted."""

import re
from dataclasses import asdict, replace

import pandas as pd

from thinsight.ledger.counting import COST_UNITS, COSTS, Counting, compute_cost, uniform_tokens
from thinsight.ledger.lines import VANILLA, PrintedNumber, PrintedTable, averages_in_row
from thinsight.ledger.published import CELL, load_all
from thinsight.ledger.scores import RunScores, ScoreComparison
from thinsight.ledger.verdicts import NOT_RUN, RANGE, REPRODUCED, VERDICTS, Verdict, cost_verdict

COLUMNS = (
    "file", "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "printed", "unit",
    "protocol", "computed", "how", "measured", "measure", "run", "verdict", "why",
)  # fmt: skip
MOST = 16  # papers by name; those with the fewest numbers stand together
NOTHING = {  # what a column or unit says -> why nothing here gives it
    r"\btime\b|latency|speed|/s\b|throughput": "a time on a GPU; nothing was timed on one here",
    r"memory|\bGB\b": "memory of a GPU; nothing was run on one here",
    r"attention": "a share of attention inside a model that was not run here",
    r"standard error": "the standard error of a score that was not run here",
    r"against earlier": "a comparison with methods that are not named; what others need on pocket is on the page",
    r"\btokens?\b": "the setting of its row, not a result",
}
ALIKE = {  # reasons that differ only in what they name, as one
    r"has no counterpart among pocket's tasks": "a benchmark that has no counterpart among pocket's tasks",
    r"has no file in conf/method": "a method that has no file in conf/method",
    r"^a variant of": "a variant of a method, not the method as it is",
    r"was not run at": "a method that was not run at that budget",
    r"^other protocol": "run under another protocol, or on other data, than it was printed under: not compared",
    r"is scored by a judge": "a score that a judge gives; only answers are written for it",
    r"^pocket decides too little": "pocket decides too little: its intervals hold zero, or print is within a point",
    r"^the setting's tokens": "the setting's tokens are not stated, or not those of a picture of this model",
    r"^nothing here gives": "a quantity that nothing here gives",
}


def ledger(
    published: pd.DataFrame, results: pd.DataFrame, answers: pd.DataFrame, every: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One line per printed number of ``published``, in `COLUMNS`.

    results, answers  as `thinsight.analysis.results` reads them; only runs of the group main count
    every             all printed numbers, for the range that papers print for a cell; None: all of data/published
    """
    every = load_all() if every is None else every
    table = PrintedTable(_with_file(published, every), every)
    scores = ScoreComparison(table, RunScores(results, answers))
    out = []
    for line in table.lines:
        verdict = _cost(line, table) if line.column in COSTS else scores.verdict(line) or _nothing(line)
        if mean := averages_in_row(line, table):
            verdict = replace(verdict, computed=mean.value, how=mean.how)
        out.append({key: getattr(line, key, "") for key in COLUMNS} | {"printed": line.value} | asdict(verdict))
    return pd.DataFrame(out, columns=list(COLUMNS))


def _with_file(published: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """``published`` with the column ``file``, from ``every`` if it has none."""
    if "file" in published or "file" not in every:
        return published
    files = every.set_index(CELL)["file"]
    return published.assign(file=files.reindex(pd.MultiIndex.from_frame(published[CELL])).fillna("").to_numpy())


def _cost(line: PrintedNumber, table: PrintedTable) -> Verdict:
    """The verdict on a cost that a formula gives."""
    if not line.is_number:
        return Verdict(NOT_RUN, "no single number is printed")
    if line.unit not in COST_UNITS:
        return Verdict(NOT_RUN, f"no one model and setting to compute it for ({line.unit})")
    way = line.way
    name = "" if line.method == VANILLA else line.name or line.method
    result = compute_cost(line.column, line.meant, name, line.count, line.row, line.number, way)
    if result.value is None:
        return Verdict(NOT_RUN, result.how + _matching_tokens(line, way))
    span = table.span(line)
    verdict = cost_verdict(line.value, result.value, span, known=result.known)
    why = f"{result.value:.4g} computed; {span.text}{_matching_tokens(line, way)}"
    if verdict == REPRODUCED:
        why = way.source
    elif verdict == RANGE and not result.known:
        why = f"met by a way of counting that was only looked for: {way.source}"
    return Verdict(verdict, why, computed=result.value, how=result.how)


def _matching_tokens(line: PrintedNumber, way: Counting) -> str:
    """Which count of tokens would have met a printed cost."""
    if line.method == VANILLA:
        return ""
    tokens = uniform_tokens(line.column, line.meant, line.number, way)
    return "" if tokens in (None, line.count) else f"; about {tokens} visual tokens in every layer would give it"


def _nothing(line: PrintedNumber) -> Verdict:
    """Nothing computes or runs the number: why."""
    what = f"{line.column} {line.unit}"
    whys = (why for pattern, why in NOTHING.items() if re.search(pattern, what, re.IGNORECASE))
    return Verdict(NOT_RUN, next(whys, f"nothing here gives {line.column}"))


def count_verdicts(ledger: pd.DataFrame) -> pd.DataFrame:
    """One line per paper of a `ledger`: paper, a column per verdict, ``total``; most numbers first."""
    counts = pd.crosstab(ledger["paper"], ledger["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts = counts.assign(total=counts.sum(axis=1)).sort_values("total", ascending=False, kind="stable")
    return counts.reset_index().rename_axis(columns=None)


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
    why = part["why"].map(lambda why: next((name for pattern, name in ALIKE.items() if re.search(pattern, why)), why))
    counts = part.groupby(why).agg(numbers=("verdict", "size"), papers=("paper", "nunique")).reset_index()
    return counts.sort_values("numbers", ascending=False, kind="stable", ignore_index=True)
