"""The ledger: printed, computed and obtained side by side, with verdicts counted."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace

import pandas as pd

from thinsight.errors import UserError
from thinsight.ledger.counting import COST_UNITS, COSTS, Counting, compute_cost, uniform_tokens
from thinsight.ledger.lines import VANILLA, PrintedNumber, PrintedTable, mean_of_row
from thinsight.ledger.published import CELL, load_all
from thinsight.ledger.scores import RunScores, ScoreComparison
from thinsight.ledger.verdicts import (
    ADDS,
    AVERAGE,
    COST,
    DIFFERS,
    INFERRED,
    NEEDS,
    NOT_RUN,
    OBTAINED,
    RANGE,
    RECOMPUTED,
    SCORE,
    VERDICTS,
    Verdict,
    average_verdict,
    cost_verdict,
)

COLUMNS = (
    "file", "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "printed", "unit",
    "protocol", SCORE, COST, AVERAGE, "computed", "how", "computation", "mark", "measured", "measure", "run", "why",
)  # fmt: skip
"""A line has a verdict in one of the columns score and cost, and maybe one in average."""
WHOLE, LABEL, FITTED, SEARCHED = "whole model", "setting label", "fitted", "searched"
"""Marks of costs that say little when they are met: no method is in them; the setting's tokens were read off the
printed number; the way of counting was chosen to meet the document's numbers, or for this one alone."""
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
    r"was not run$": "a score of a model or benchmark that was not run here",
    r"has no file in conf/method": "a method that has no file in conf/method",
    r"^a variant of": "a variant of a method, not the method as it is",
    r"was not run at": "a method that was not run at that budget",
    r"^other protocol": "run under another protocol, or on other data, than it was printed under: not compared",
    r"no verdict$": "run, but by which protocol it was printed is not known",
    r"is scored by a judge": "a score that a judge gives; only answers are written for it",
    r"^the setting's tokens": "the setting's tokens are not stated, or not those of a picture of this model",
    r"^how it counts": "how the document counts is not stated, and what was tried gives another number",
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
    means = {line: mean for line in table.lines if (mean := mean_of_row(line, table))}
    adds = {line: average_verdict(line.value, mean.low, mean.high) for line, mean in means.items()}
    known = {line.place for line, verdict in adds.items() if verdict == ADDS}
    out = []
    for line in table.lines:
        verdict = scores.verdict(line) if line.asks_the_model else _cost(line)
        average = adds[line] if line.place in known and line in means else ""
        if average:
            verdict = replace(verdict, computed=means[line].value, how=means[line].how)
        line_of = {key: getattr(line, key, "") for key in COLUMNS} | {"printed": line.value, AVERAGE: average}
        out.append(line_of | asdict(verdict) | {verdict.question: verdict.verdict})
    return pd.DataFrame(out, columns=list(COLUMNS))


def _with_file(published: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """``published`` with the column ``file``, from ``every`` if it has none."""
    if "file" in published or "file" not in every:
        return published
    files = every.set_index(CELL)["file"]
    return published.assign(file=files.reindex(pd.MultiIndex.from_frame(published[CELL])).fillna("").to_numpy())


def _cost(line: PrintedNumber) -> Verdict:
    """The verdict on a number that is no score."""
    if line.column not in COSTS:
        what = f"{line.column} {line.unit}"
        whys = (why for pattern, why in NOTHING.items() if re.search(pattern, what, re.IGNORECASE))
        return _not_run(next(whys, f"nothing here gives {line.column}"))
    if not line.is_number:
        return _not_run("no single number is printed")
    if line.unit not in COST_UNITS:
        return _not_run(f"no one model and setting to compute it for ({line.unit})")
    if line.method != VANILLA and not line.name:
        return _not_run(f"{line.method} has no file in conf/method")
    way = line.way
    name = "" if line.method == VANILLA else line.name
    result = compute_cost(line.column, line.meant, name, line.count, line.row, line.number, way)
    if result.value is None:
        return _not_run(result.how + _matching_tokens(line, way))
    verdict = cost_verdict(line.value, result.value, way.reading)
    why = f"{result.value:.4g} computed{_matching_tokens(line, way)}"
    if result.label:
        why = f"the setting's label, {result.label}; {line.method} that keeps {line.count} takes {result.value:.4g}"
    elif verdict in (RECOMPUTED, INFERRED):
        why = way.source
    elif verdict == NOT_RUN:
        why = f"how it counts is not stated; {why}"
    marks = {
        WHOLE: line.method == VANILLA,
        LABEL: way.labels and line.method != VANILLA and line.column == "TFLOPs",
        FITTED: way.reading == "fitted",
        SEARCHED: way.reading == "unknown",
    }
    mark = ", ".join(mark for mark, fits in marks.items() if fits)
    return Verdict(COST, verdict, why, result.value, result.how, result.computation, mark)


def _not_run(why: str) -> Verdict:
    return Verdict(COST, NOT_RUN, why)


def _matching_tokens(line: PrintedNumber, way: Counting) -> str:
    """Which count of tokens would have met a printed cost."""
    if line.method == VANILLA:
        return ""
    tokens = uniform_tokens(line.column, line.meant, line.number, way)
    return "" if tokens in (None, line.count) else f"; about {tokens} visual tokens in every layer would give it"


def count_verdicts(ledger: pd.DataFrame, most: int | None = None) -> pd.DataFrame:
    """One line per paper of a `ledger`, most numbers first; of ``most`` lines the last stands for all other papers.

    paper, total, for each question how many numbers it has (score, cost, average) and how many of each verdict (score:
    obtained, ...); ``computations``: the distinct ones among those recomputed; ``plain``: those of them without a mark;
    ``inferred``: the distinct ones among those whose convention was inferred
    """
    if missing := [question for question in VERDICTS if question not in ledger]:
        raise UserError(f"a ledger has no column {missing[0]}: `make repro` makes it again")
    order = ledger["paper"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index
    if most and len(order) > most:
        kept, rest = order[: most - 1], f"{len(order) - most + 1} other papers"
        ledger, order = ledger.assign(paper=ledger["paper"].where(ledger["paper"].isin(kept), rest)), [*kept, rest]
    flags = {"paper": ledger["paper"], "total": 1}
    for question, verdicts in VERDICTS.items():
        flags[question] = ledger[question].ne("").astype(int)
        flags |= {f"{question}: {verdict}": ledger[question].eq(verdict).astype(int) for verdict in verdicts}
    counts = pd.DataFrame(flags).groupby("paper").sum().loc[list(order)]
    met, inferred = (ledger[ledger[COST] == verdict] for verdict in (RECOMPUTED, INFERRED))
    for name, lines in (("computations", met), ("plain", met[met["mark"] == ""]), ("inferred", inferred)):
        counts[name] = lines.groupby("paper")["computation"].nunique().reindex(counts.index, fill_value=0)
    return counts.reset_index()


def count_all(ledger: pd.DataFrame) -> dict[str, int]:
    """The line of `count_verdicts` for all papers together: a computation that several print counts once."""
    if ledger.empty:
        return {}
    (line,) = count_verdicts(ledger.assign(paper="")).drop(columns="paper").to_dict("records")
    return line


def each_number_once(ledgers: pd.DataFrame) -> pd.DataFrame:
    """The lines of several pages' ledgers without the printed numbers that stand on two of them."""
    cell = [key for key in COLUMNS[: COLUMNS.index("protocol")] if key in ledgers]
    return ledgers.drop_duplicates(cell, keep="last")


def headline(counts: Mapping[str, int]) -> str:
    """What a ledger comes to, in sentences: first the scores, then the costs; ``counts``: of `count_all`."""
    out = []
    if scores := counts.get(SCORE):
        obtained, near, other = (counts[f"{SCORE}: {verdict}"] for verdict in (OBTAINED, RANGE, DIFFERS))
        out.append(f"Scores obtained on the papers' models: {obtained or 'none'} of {scores:,}")
        out[-1] += f"; {near} more lie within the printed range, {other} differ." if near or other else "."
    if costs := counts.get(COST):
        met, inferred, differs = (counts[f"{COST}: {verdict}"] for verdict in (RECOMPUTED, INFERRED, DIFFERS))
        out.append(f"Cost numbers that recompute: {met or 'none'} of {costs:,}")
        if met:
            name = "computation" if counts["computations"] == 1 else "computations"
            out[-1] += f" ({counts['computations']} distinct {name}, "
            out[-1] += f"{counts['plain']} of them neither a whole model's nor a label's)"
        if inferred:
            out[-1] += f"; {inferred} more ({counts['inferred']} distinct) by a convention that was inferred"
        out[-1] += f"; {differs} differ." if differs else "."
    return " ".join(out)


def reasons(ledger: pd.DataFrame) -> pd.DataFrame:
    """Why numbers have no answer: question, why (`ALIKE` together), numbers, papers; the most frequent first."""
    part = ledger[(ledger[COST] == NOT_RUN) | (ledger[SCORE] == NEEDS)]
    question = part[COST].eq(NOT_RUN).map({True: COST, False: SCORE}).rename("question")
    why = part["why"].map(lambda why: next((name for pattern, name in ALIKE.items() if re.search(pattern, why)), why))
    counts = part.groupby([question, why])["paper"].agg(numbers="size", papers="nunique").reset_index()
    return counts.sort_values("numbers", ascending=False, kind="stable", ignore_index=True)
