"""The ledger counted: how many printed numbers of each paper got which verdict, and why others got none."""

import re

import pandas as pd

from thinsight.verdict import NOT_RUN, VERDICTS

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


def tally(ledger: pd.DataFrame) -> pd.DataFrame:
    """One line per paper of `thinsight.ledger.ledger`: paper, a column per verdict, ``total``; most numbers first."""
    counts = pd.crosstab(ledger["paper"], ledger["verdict"]).reindex(columns=list(VERDICTS), fill_value=0)
    counts["total"] = counts.sum(axis=1)
    counts = counts.sort_values("total", ascending=False, kind="stable").reset_index()
    return counts.rename_axis(columns=None)


def gathered(counts: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
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
