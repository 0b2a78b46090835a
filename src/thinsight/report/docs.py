"""The generated parts of the documents in this repository.

``python -m thinsight.report.docs`` writes ``docs/methods.md``, the catalogue of all methods (from ``conf/method``) with
their scores (from the table that the methods' page saved), and, from the pages' ledgers, two parts of README.md:
what all printed numbers come to (``<!-- headline -->`` to ``<!-- /headline -->``) and what became of each paper's
(``<!-- claims -->`` to ``<!-- /claims -->``).
"""

import re
from collections.abc import Sequence

import pandas as pd
import yaml

from thinsight.analysis.comparisons import MEAN, SPREAD_MARKS
from thinsight.code_hash import targets
from thinsight.config.catalogue import CONTROL, FAMILIES, method_entries
from thinsight.errors import UserError, command
from thinsight.ledger.ledger import count_all, each_number_once, headline
from thinsight.ledger.verdicts import COST, INFERRED, RECOMPUTED, SCORE, VERDICTS
from thinsight.paths import CONF, ROOT
from thinsight.report.render import percent, render

README, METHODS = ROOT / "README.md", ROOT / "docs" / "methods.md"

CLAIMS = {  # page -> what its paper claims
    "vtw": "all visual tokens can leave before one deep layer: over 40 % less computation at equal scores",
    "trsm": "the visual tokens that the prompt retrieves are enough: “by 20 %” fewer at comparable scores",
    "par": "clusters of tokens that the prompt asks for are enough: 97 % of the score with 83 % less FLOPs",
    "ficoco": "merging redundant tokens keeps 93.6 % of the score with up to 14.7 times less FLOPs",
}
MARKED = "<!-- {0} -->\n.*?\n<!-- /{0} -->"


def claims_table() -> str:
    """Each paper's claim, and what became of its printed scores and cost numbers."""
    lines = []
    for page, claim in CLAIMS.items():
        numbers = _saved(page, "ledger")
        numbers = numbers[numbers["paper"].str.lower() == page]
        title, arxiv = numbers[["paper", "arxiv"]].iloc[0]
        counts = count_all(numbers)
        distinct = {RECOMPUTED: counts["computations"], INFERRED: counts["inferred"]}
        costs = [
            f"{counts[f'{COST}: {verdict}']}" + (f" ({distinct[verdict]} distinct)" if distinct.get(verdict) else "")
            for verdict in VERDICTS[COST]
        ]
        scores = [str(counts[f"{SCORE}: {verdict}"]) for verdict in VERDICTS[SCORE]]
        lines.append([f"[{title}](https://arxiv.org/abs/{arxiv})", claim, *scores, *costs])
    head = [f"{question}s: {verdict}" for question in (SCORE, COST) for verdict in VERDICTS[question]]
    return _table(["paper", "claims", *head], lines)


def headline_text() -> str:
    """What the ledgers of all pages come to."""
    pages = sorted(file.parent.name for file in (ROOT / "data" / "pages").glob("*/ledger.csv"))
    ledgers = pd.concat([_saved(page, "ledger") for page in pages])
    return f"**{headline(count_all(each_number_once(ledgers)))}**"


def standing_table() -> str:
    """The methods' mean scores at each budget with their marks and FLOPs; random first, then the other controls, then
    methods by their score at the first budget."""
    table = _saved("methods", "standing")
    means = table[table["task"] == MEAN].sort_values("accuracy", ascending=False, kind="stable")
    picture, keeps = means["picture"].iloc[0], sorted(means["keep"].unique(), reverse=True)
    means["order"] = 2 - means["control"] - (means["run"] == "random")
    first = means.sort_values(["order", "keep"], ascending=[True, False], kind="stable").drop_duplicates("run")
    marks = means["verdict"].map(lambda verdict: SPREAD_MARKS.get(verdict, "")).where(means["run"] != "random", "")
    scores = means["accuracy"].map("{:.1%} ".format) + marks
    flops = means["flops"].map(percent) + ", " + means["end_to_end"].map(percent)
    costs = zip(scores.str.rstrip(), flops, strict=True)
    cells = dict(zip(zip(means["run"], means["keep"], strict=True), costs, strict=True))
    lines = [
        [row["title"], row["place"], *(part for keep in keeps for part in cells.get((row["run"], keep), ("–", "–")))]
        for _, row in first.iterrows()
    ]
    head = [
        part
        for keep in keeps
        for part in (f"{round(keep * picture)} of {picture:.0f} tokens", "FLOPs: decoder, end to end")
    ]
    return _table(["method", "acts", *head], lines)


def methods_document() -> str:
    """``docs/methods.md``: every method by the place where it acts, controls last."""
    order = [*FAMILIES, CONTROL]
    entries = sorted(method_entries(), key=lambda entry: order.index(entry.family))
    sources = {entry.name: _sources(entry.name) for entry in entries}
    return render("methods.md.j2", entries=entries, sources=sources, standing=standing_table())


def _sources(method: str) -> list[str]:
    """The files below ``src/thinsight/methods`` with the classes that the method's file names."""
    node = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8"))
    modules = [target.rpartition(".")[0] for target in targets(node)]
    files = dict.fromkeys(f"src/{module.replace('.', '/')}.py" for module in modules)
    return [file for file in files if file.startswith("src/thinsight/methods/")]


def with_claims(text: str) -> str:
    """README's ``text`` with the headline and the table of claims made again."""
    parts = {"headline": headline_text, "claims": claims_table}
    for name in parts:
        if not re.search(MARKED.format(name), text, re.DOTALL):
            raise UserError(f"README.md has no place for the {name}: <!-- {name} --> and <!-- /{name} -->")
    for name, made in parts.items():
        begin, end = re.search(MARKED.format(name), text, re.DOTALL).span()
        text = text[:begin] + f"<!-- {name} -->\n{made()}\n<!-- /{name} -->" + text[end:]
    return text


def _saved(page: str, name: str) -> pd.DataFrame:
    path = ROOT / "data" / "pages" / page / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"{path.relative_to(ROOT)} is not there: `make repro` makes it")
    return pd.read_csv(path, dtype=str, keep_default_na=False) if name == "ledger" else pd.read_csv(path)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str]) -> None:
    """The command line; it takes no arguments."""
    if arguments:
        raise UserError("python -m thinsight.report.docs takes no arguments")
    README.write_text(with_claims(README.read_text(encoding="utf-8")), encoding="utf-8")
    METHODS.write_text(methods_document(), encoding="utf-8")


if __name__ == "__main__":
    command(main)
