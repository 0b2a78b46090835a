"""Claims of papers (data/claims.yaml), each with the printed numbers, runs and rule that bear on it.

A claim is not a cell of a table: `thinsight.ledger.ledger` speaks of printed numbers, this of what a paper says, and of
what the model at hand can say to it. The verdict is a rule's (`thinsight.ledger.claim_rules`), computed from runs.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from thinsight.analysis.results import read_if_run
from thinsight.errors import UserError, nearest
from thinsight.ledger.claim_findings import NOT_RUN, Evidence, Finding, NotRunError
from thinsight.ledger.claim_rules import RULES, WHOLE
from thinsight.ledger.published import POCKET, load_published
from thinsight.paths import ROOT

FILE = ROOT / "data" / "claims.yaml"
SELECTOR = ("file", "paper", "version", "table", "model", "row", "column", "tokens")
"""What a selector may name: the file of data/published, and columns, each as text or a list of texts."""


@dataclass(frozen=True)
class Claim:
    """One claim.

    source   where the paper makes it;  claim  in one line
    printed  selectors of lines of data/published that bear on it;  runs  ours that do;  figures  of the paper's page
    near     how near the setting of the model in the box is to the paper's;  decides  what would decide it
    rule     a name of `claim_rules.RULES`, with its parameters
    """

    id: str
    paper: str
    claim: str
    source: str
    near: str
    decides: str
    rule: str
    printed: Sequence[Mapping[str, Any]] = ()
    runs: Sequence[str] = ()
    figures: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lines(self) -> pd.DataFrame:
        """The printed lines, in the order of the selectors."""
        parts = [select(selector) for selector in self.printed]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@dataclass(frozen=True)
class Judged:
    """A claim with what its rule found."""

    claim: Claim
    finding: Finding


@dataclass(frozen=True)
class Summary:
    """What is said of a paper as a whole: ``title`` and ``arxiv``; sentences on the ``budget``, on what was ``easy``
    and ``hard``, and on what is ``not_run``."""

    title: str
    arxiv: str
    budget: str
    easy: str
    hard: str
    not_run: str


@dataclass(frozen=True)
class JudgedPaper:
    """A paper with all of its claims; ``model``: that of the runs; ``questions``: task -> how many."""

    paper: str
    summary: Summary
    model: str
    questions: Mapping[str, int]
    judged: Sequence[Judged]

    @property
    def table(self) -> pd.DataFrame:
        """One line per claim: id, claim, rule, and the fields of its `Finding`."""
        lines = [(one.claim, asdict(one.finding)) for one in self.judged]
        return pd.DataFrame([{"id": c.id, "claim": c.claim, "rule": c.rule} | found for c, found in lines])


@cache
def _read() -> tuple[dict[str, Summary], list[Claim]]:
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    try:
        papers = {name: Summary(**values) for name, values in content["papers"].items()}
        claims = [Claim(**values) for values in content["claims"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{FILE.name}: {error}.") from error
    for claim in claims:
        _check(claim, papers)
    return papers, claims


def _check(claim: Claim, papers: Mapping[str, Summary]) -> None:
    """Refuse an unknown paper, rule or parameter."""
    if claim.paper not in papers:
        raise nearest(f"paper of the claim {claim.id}", claim.paper, list(papers))
    if claim.rule not in RULES:
        raise nearest(f"rule of the claim {claim.id}", claim.rule, list(RULES))
    known = [name for name in inspect.signature(RULES[claim.rule]).parameters if name not in ("evidence", "printed")]
    for name in claim.parameters:
        if name not in known:
            raise nearest(f"parameter of the rule {claim.rule} of the claim {claim.id}", name, known)


def load_claims(paper: str | None = None) -> list[Claim]:
    """All claims of data/claims.yaml, or one paper's, in the file's order; a mistake in the file is a `UserError`."""
    papers, claims = _read()
    if paper is not None and paper not in papers:
        raise nearest("paper with claims", paper, list(papers))
    return [claim for claim in claims if paper in (None, claim.paper)]


def load_summary(paper: str) -> Summary:
    """What the file says of a paper as a whole."""
    load_claims(paper)
    return _read()[0][paper]


def select(selector: Mapping[str, Any]) -> pd.DataFrame:
    """The lines of data/published that a selector names; none, or an unknown key, is a `UserError`."""
    for key in selector:
        if key not in SELECTOR:
            raise nearest("key of a selector of printed numbers", key, list(SELECTOR))
    lines = load_published(selector["file"])
    for column, value in selector.items():
        if column != "file":
            lines = lines[lines[column].isin([str(one) for one in (value if isinstance(value, list) else [value])])]
    if lines.empty:
        raise UserError(f"no line of data/published/{selector['file']}.csv fits {dict(selector)}.")
    return lines


def judge(claim: Claim, folder: Path, extra: Mapping[str, Any] | None = None) -> Judged:
    """The claim by its rule, from the runs in ``folder`` and what a page measured itself (``extra``: `Evidence`)."""
    results, answers = read_if_run(folder, list(claim.runs)) if claim.runs else (pd.DataFrame(), pd.DataFrame())
    rule, values = RULES[claim.rule], dict(claim.parameters)
    if "printed" in inspect.signature(rule).parameters:
        values["printed"] = claim.lines
    if claim.runs and answers.empty:
        return Judged(claim, Finding(NOT_RUN, why="none of its runs is here"))
    try:
        return Judged(claim, rule(Evidence(results, answers, extra or {}), **values))
    except NotRunError as missing:
        return Judged(claim, Finding(NOT_RUN, why=str(missing)))


def judge_paper(paper: str, folder: Path, extra: Mapping[str, Any] | None = None) -> JudgedPaper:
    """All claims of ``paper``, as `judge` has them."""
    whole = read_if_run(folder, [WHOLE])[0]
    model = whole["model"].iloc[0] if len(whole) else POCKET
    questions = dict(zip(whole["task"], whole["n"], strict=True))
    judged = [judge(claim, folder, extra) for claim in load_claims(paper)]
    return JudgedPaper(paper, load_summary(paper), model, questions, judged)
