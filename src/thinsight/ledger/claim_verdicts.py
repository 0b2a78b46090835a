"""Verdicts on claims: each by the rule that it names, from finished runs and what its paper's page looked into."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.results import read_if_run
from thinsight.errors import nearest
from thinsight.ledger.claim_findings import NOT_RUN, Evidence, Finding, NotRunError
from thinsight.ledger.claim_rules import RULES, WHOLE
from thinsight.ledger.claims import Claim, Summary, load_claims, load_summary
from thinsight.ledger.published import POCKET


@dataclass(frozen=True)
class Judged:
    """A claim with what its rule found."""

    claim: Claim
    finding: Finding


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


def judge(claim: Claim, folder: Path, extra: Mapping[str, Any] | None = None) -> Judged:
    """The claim by its rule, from the runs in ``folder`` and what a page measured itself (``extra``: `Evidence`)."""
    results, answers = read_if_run(folder, list(claim.runs)) if claim.runs else (pd.DataFrame(), pd.DataFrame())
    rule, values = _rule(claim), dict(claim.parameters)
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


def _rule(claim: Claim) -> Callable[..., Finding]:
    """The claim's rule; a name or a parameter that is not there is a `UserError`."""
    if claim.rule not in RULES:
        raise nearest(f"rule of the claim {claim.id}", claim.rule, list(RULES))
    known = [name for name in inspect.signature(RULES[claim.rule]).parameters if name not in ("evidence", "printed")]
    for name in claim.parameters:
        if name not in known:
            raise nearest(f"parameter of the rule {claim.rule} of the claim {claim.id}", name, known)
    return RULES[claim.rule]
