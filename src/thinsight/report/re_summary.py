"""The one-page [Re] summary of a paper: its claims with what our runs say of each, at the top of its page.

Opened with ``#re-summary`` behind the page's address and printed, a page gives this summary alone (re_summary.css).
"""

from math import isnan

from thinsight.ledger.claim_findings import (
    AGREES,
    DIFFERS,
    DISAGREES,
    INFERRED,
    NEEDS_MODEL,
    NOT_RUN,
    RECOMPUTED,
    UNDECIDED,
    WORDS,
    Finding,
)
from thinsight.ledger.claim_verdicts import JudgedPaper
from thinsight.ledger.claims import Claim
from thinsight.ledger.published import POCKET
from thinsight.report.render import render, signed

BLOCKS = {
    "What held": (AGREES, RECOMPUTED, INFERRED),
    "What did not": (DISAGREES, DIFFERS),
    "What cannot be told here": (UNDECIDED,),
    "What is not run": (NEEDS_MODEL, NOT_RUN),
}
"""Heading -> the words of findings below it."""

MOST = 3  # printed numbers of a claim that are named


def re_summary(paper: JudgedPaper) -> str:
    """The summary as HTML."""
    blocks = {
        title: [_line(one.claim, one.finding, paper.model) for one in paper.judged if one.finding.word in words]
        for title, words in BLOCKS.items()
    }
    tasks = ", ".join(f"{task} {n}" for task, n in paper.questions.items())
    return render(
        "re_summary.html.j2",
        paper=paper.paper,
        summary=paper.summary,
        model=paper.model,
        pocket=paper.model == POCKET,
        tasks=tasks,
        blocks={title: lines for title, lines in blocks.items() if lines},
    )


def _line(claim: Claim, found: Finding, model: str) -> dict[str, object]:
    return {
        "claim": claim,
        "printed": printed_text(claim),
        "word": f"{model} {found.word}" if found.word in WORDS else found.word,
        "badge": found.word.partition(",")[0].replace(" ", "-"),
        "finding": found,
        "numbers": numbers(found),
        "test": power_text(found),
    }


def printed_text(claim: Claim) -> str:
    """The first printed numbers that bear on the claim; empty where none could be read."""
    lines = claim.lines
    texts = [
        f"{line.row}, {line.column}: {line.value} {line.unit}" if line.row not in (line.paper, "") else
        f"{line.column}: {line.value} {line.unit}"
        for line in lines.itertuples()
    ]  # fmt: skip
    more = f"; and {len(texts) - MOST} more" if len(texts) > MOST else ""
    return "; ".join(texts[:MOST]) + more


def numbers(found: Finding) -> str:
    """The value with its interval; empty where there is none."""
    if isnan(found.value):
        return ""
    form = {"points": lambda x: signed(100 * x, 1), "share": lambda x: f"{100 * x:.1f}", "number": _plain}[found.scale]
    unit = {"points": " points", "share": " %", "number": ""}[found.scale]
    interval = "" if isnan(found.low) else f" ({form(found.low)} to {form(found.high)})"
    return f"{form(found.value)}{unit}{interval}"


def power_text(found: Finding) -> str:
    """The test's power, its p and what chance gives, in a line."""
    parts = []
    if not isnan(found.smallest):
        seen = _plain(found.smallest) if found.scale == "number" else f"{100 * found.smallest:.1f} points"
        parts.append(f"could have seen {seen}")
    if not isnan(found.p):
        parts.append("McNemar p < 0.001" if found.p < 0.001 else f"McNemar p = {found.p:.2g}")
    if found.of:
        parts.append(f"{round(found.chance * found.of)} of {found.of} {found.draws} go as far")
    if found.n:
        parts.append(f"n\xa0=\xa0{found.n}")
    return "; ".join(parts)


def _plain(value: float) -> str:
    return f"{value + 0.0:.3g}".replace("-", "−")
