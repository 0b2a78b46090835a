"""The generated parts of README.md: ``python -m thinsight.readme`` rewrites what stands between its markers.

``<!-- name -->`` ... ``<!-- /name -->``, for ``results`` (from the VTW page's table), ``pocket`` (from the model's own
scores) and ``methods`` (from ``conf/method``).
"""

import json
import re

import pandas as pd

from thinsight.config import ROOT, load_config, names
from thinsight.errors import UserError, command

FILE = ROOT / "README.md"


def results() -> str:
    """The comparison of VTW's page: accuracy by task, their mean, and costs as shares of the whole model."""
    path = ROOT / "data" / "pages" / "vtw" / "comparison.csv"
    if not path.is_file():
        raise UserError(f"{path.relative_to(ROOT)} is not there: `make repro` makes it.")
    table = pd.read_csv(path)
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


def pocket() -> str:
    """The model's score on every test question of each task, with and without the picture."""
    found = json.loads((ROOT / "data" / "pocket" / "scores.json").read_text())["tasks"]
    lines = [
        [task, str(of["n"]), f"{of['whole']['accuracy']:.1%}", f"{of['blind']['accuracy']:.1%}"]
        for task, of in found.items()
    ]
    return _table(["task", "questions", "pocket", "without the picture"], lines)


def methods() -> str:
    """One line for each file in ``conf/method``."""
    found = [load_config([f"method={name}"]).method for name in names("method")]
    lines = [[f"`{m.name}`", m.about, m.acts, m.cost, _paper(m)] for m in found]
    return _table(["method", "what leaves", "where it acts", "cost", "paper"], lines)


def _paper(method: dict) -> str:
    return f"[arXiv:{method['arxiv']}](https://arxiv.org/abs/{method['arxiv']})" if method["arxiv"] else "control"


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


PARTS = {"results": results, "pocket": pocket, "methods": methods}


def filled(text: str, parts: dict = PARTS) -> str:
    """``text`` with every marked part made again."""
    for name, make in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        if not re.search(pattern, text, re.DOTALL):
            raise UserError(f"README.md has no markers for the part '{name}'.")
        new = make()
        text = re.sub(pattern, lambda m, new=new: m[1] + new + m[2], text, flags=re.DOTALL)
    return text


def main(arguments: list[str]) -> None:
    """The command line; it takes no arguments."""
    if arguments:
        raise UserError("python -m thinsight.readme takes no arguments.")
    FILE.write_text(filled(FILE.read_text()))


if __name__ == "__main__":
    command(main)
