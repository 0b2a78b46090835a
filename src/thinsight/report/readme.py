"""The generated tables of README.md.

``<!-- name -->`` ... ``<!-- /name -->``, for ``ledger`` (from the overview's summary), ``results`` (from the VTW page's
table), ``standing`` (from the methods' page's), ``pocket`` (from the model's own scores) and ``methods`` (from
``conf/method``).
"""

import json
import re

import pandas as pd

from thinsight.analysis.comparisons import MEAN, SPREAD_MARKS
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry, method_entries
from thinsight.errors import UserError, command
from thinsight.ledger.ledger import merge_small
from thinsight.paths import ROOT

FILE = ROOT / "README.md"


def ledger() -> str:
    """How many printed numbers have which verdict, by the document that prints them."""
    table = merge_small(_saved("overview", "summary"), 10)
    lines = [*table.to_numpy().tolist(), ["**all**", *table.drop(columns="paper").sum()]]
    return _table(["printed by", *table.columns[1:]], [[str(cell) for cell in line] for line in lines])


def results() -> str:
    """The comparison of VTW's page: accuracy by task, their mean, and costs as shares of the whole model."""
    table = _saved("vtw", "comparison")
    order, tasks = list(dict.fromkeys(table["line"])), list(dict.fromkeys(table["task"]))
    wide = table.pivot(index="line", columns="task", values="accuracy").loc[order, tasks]
    costs = table.groupby("line")[["profiler", "kv_bytes"]].mean().loc[order]
    costs = costs / costs.iloc[0]
    head = ["", *tasks, "mean", "FLOPs", "KV cache"]
    lines = [
        [line, *(f"{value:.1%}" for value in wide.loc[line]), f"{wide.loc[line].mean():.1%}"]
        + [f"{costs.loc[line, name]:.0%}" for name in costs]
        for line in order
    ]
    return _table(head, lines)


def standing() -> str:
    """The methods' mean scores at each budget with their marks and FLOPs; random first, then the other controls, then
    methods by their score at the first budget."""
    table = _saved("methods", "standing")
    means = table[table["task"] == MEAN].sort_values("accuracy", ascending=False, kind="stable")
    picture, keeps = means["picture"].iloc[0], sorted(means["keep"].unique(), reverse=True)
    means["order"] = 2 - means["control"] - (means["run"] == "random")
    first = means.sort_values(["order", "keep"], ascending=[True, False], kind="stable").drop_duplicates("run")
    cells = {(row["run"], row["keep"]): (_score(row), f"{row['flops']:.0%}") for _, row in means.iterrows()}
    lines = [
        [row["title"], row["place"], *(part for keep in keeps for part in cells.get((row["run"], keep), ("–", "–")))]
        for _, row in first.iterrows()
    ]
    head = [part for keep in keeps for part in (f"{round(keep * picture)} of {picture:.0f} tokens", "FLOPs")]
    return _table(["", "acts", *head], lines)


def _score(row: pd.Series) -> str:
    return f"{row['accuracy']:.1%}" + (
        "" if row["run"] == "random" else f" {SPREAD_MARKS.get(row['verdict'], '')}".rstrip()
    )


def pocket() -> str:
    """The model's score on every test question of each task, with and without the picture."""
    found = json.loads((ROOT / "data" / "pocket" / "scores.json").read_text())["tasks"]
    lines = [
        [task, str(of["n"]), f"{of['whole']['accuracy']:.1%}", f"{of['blind']['accuracy']:.1%}"]
        for task, of in found.items()
    ]
    return _table(["task", "questions", "pocket", "without the picture"], lines)


def methods() -> str:
    """One line for each file in ``conf/method``, published methods by the place where they act, controls last."""
    order = [*FAMILIES, CONTROL]
    found = sorted(method_entries(), key=lambda entry: order.index(entry.family))
    lines = [[f"`{e.name}`", e.about, e.scores, e.acts, ", ".join(e.needs), e.cost, _paper(e)] for e in found]
    lines = [[text or "–" for text in line] for line in lines]
    return _table(["method", "what leaves", "scores by", "acts", "needs", "cost", "paper"], lines)


def _paper(entry: MethodEntry) -> str:
    if entry.is_control:
        return CONTROL
    return f"[{entry.title}, arXiv:{entry.arxiv}]({entry.link})" if entry.link else entry.title


def _saved(page: str, name: str) -> pd.DataFrame:
    path = ROOT / "data" / "pages" / page / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"{path.relative_to(ROOT)} is not there: `make repro` makes it.")
    return pd.read_csv(path)


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


PARTS = {"ledger": ledger, "results": results, "standing": standing, "pocket": pocket, "methods": methods}


def filled(text: str, parts: dict = PARTS) -> str:
    """``text`` with every marked part made again."""
    patterns = {name: rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)" for name in parts}
    for name, pattern in patterns.items():
        if not re.search(pattern, text, re.DOTALL):
            raise UserError(f"README.md has no markers for the part '{name}'.")
    for name, make in parts.items():
        new = make()
        text = re.sub(patterns[name], lambda m, new=new: m[1] + new + m[2], text, flags=re.DOTALL)
    return text


def main(arguments: list[str]) -> None:
    """The command line; it takes no arguments."""
    if arguments:
        raise UserError("python -m thinsight.report.readme takes no arguments.")
    FILE.write_text(filled(FILE.read_text()))


if __name__ == "__main__":
    command(main)
