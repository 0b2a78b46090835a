"""Claims of papers (data/claims.yaml), each with the printed numbers, runs and rule that bear on it.

A claim is not a cell of a table: `thinsight.ledger.ledger` speaks of printed numbers, this of what a paper says, and of
what the model at hand can say to it. The verdict is a rule's (`thinsight.ledger.claim_verdicts`), computed from runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pandas as pd
import yaml

from thinsight.errors import UserError, nearest
from thinsight.ledger.published import load_published
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
class Summary:
    """What is said of a paper as a whole: ``title`` and ``arxiv``; sentences on the ``budget``, on what was ``easy``
    and ``hard``, and on what is ``not_run``."""

    title: str
    arxiv: str
    budget: str
    easy: str
    hard: str
    not_run: str


@cache
def _read() -> tuple[dict[str, Summary], list[Claim]]:
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    try:
        papers = {name: Summary(**values) for name, values in content["papers"].items()}
        claims = [Claim(**values) for values in content["claims"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{FILE.name}: {error}.") from error
    for claim in claims:
        if claim.paper not in papers:
            raise nearest(f"paper of the claim {claim.id}", claim.paper, list(papers))
    return papers, claims


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
