"""Executed notebooks -> HTML pages that need nothing else, and an index over them.

``python -m thinsight.report page IN OUT`` writes one page, ``python -m thinsight.report index [REPORTS]`` the index.
A page holds its style, its figures and its formulae; it asks the network for nothing and reads on a phone and on paper.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbformat import NotebookNode

from thinsight.body import TEMPLATES, body, markdown
from thinsight.config import ROOT
from thinsight.errors import UserError, command
from thinsight.parameters import declared
from thinsight.runs import budgets, differ, facts, read_runs
from thinsight.summary import executed, summarize


def page(source: Path, out: Path, folder: Path) -> None:
    """Write the page of the executed notebook ``source``; the runs in ``folder`` that it read are its protocol box.

    Code is hidden until asked for, unless the notebook's metadata say ``thinsight.code: true``.
    """
    notebook = executed(source)
    summary = summarize(notebook, source.name)
    code = bool(notebook.metadata.get("thinsight", {}).get("code"))
    text = body(notebook)
    text = re.sub(r'<div class="code" hidden[^>]*>', '<div class="code">', text) if code else text
    sections = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', text, flags=re.DOTALL)
    _write(
        out,
        "page.html.j2",
        summary=summary,
        finding=_relink(markdown(summary.finding), out.parent, out.parent) if _has_tag(notebook, "finding") else "",
        body=_relink(text, out.parent, out.parent),
        sections=sections,
        runs=read_runs(folder) if "runs" in declared(notebook) else [],
        notebook=_link(source, out.parent),
        code=code,
    )


def index(reports: Path, folder: Path) -> None:
    """Write ``reports/index.html``: a card for each page in ``reports/pages``, and a line for each run."""
    cards = []
    for file in sorted((reports / "pages").glob("*.html")):
        notebook = reports / "notebooks" / f"{file.stem}.ipynb"
        summary = summarize(executed(notebook), notebook.name)
        links = {"page": _link(file, reports), "notebook": _link(notebook, reports)}
        finding = _relink(markdown(summary.finding), reports, reports / "pages")
        cards.append({"summary": summary, "finding": finding, **links})
    if not cards:
        raise UserError(f"no pages in {reports / 'pages'}: dvc repro makes them")
    cards.sort(key=lambda card: (card["summary"].order, card["summary"].title))
    _write(reports / "index.html", "index.html.j2", cards=cards, runs=read_runs(folder))


def _has_tag(notebook: NotebookNode, tag: str) -> bool:
    return any(tag in cell.metadata.get("tags", []) for cell in notebook.cells)


def _link(target: Path, start: Path) -> str:
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()


def _relink(text: str, start: Path, pages: Path) -> str:
    """A notebook's links are relative to ``notebooks/``; make them lead from ``start``, and to pages, not notebooks."""

    def move(match: re.Match[str]) -> str:
        path, hash_, anchor = match[1].partition("#")
        target = ROOT / "notebooks" / path
        beside = target.parent == ROOT / "notebooks" and target.suffix == ".ipynb"
        target = pages / f"{target.stem}.html" if beside else target
        return f'href="{_link(target, start)}{hash_}{anchor}"'

    return re.sub(r'href="(?![a-z]+:|#)([^"]+)"', move, text)


def _write(out: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"budgets": budgets, "differ": differ, "facts": facts}
    environment.globals["link"] = lambda target: _link(Path(target), out.parent)
    environment.globals["executed"] = lambda name: ROOT / "reports" / "runs" / f"{name}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(environment.get_template(template).render(values), encoding="utf-8")
    part.replace(out)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.report", description="Pages of executed notebooks.")
    parser.add_argument("--runs", type=Path, default=ROOT / "data" / "runs", help="the runs that the pages are about")
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("page", help="one executed notebook -> one page")
    one.add_argument("source", type=Path)
    one.add_argument("out", type=Path)
    over = what.add_parser("index", help="the index over all pages")
    over.add_argument("reports", type=Path, nargs="?", default=ROOT / "reports")
    options = parser.parse_args(arguments)
    if options.what == "page":
        page(options.source, options.out, options.runs)
    else:
        index(options.reports, options.runs)


if __name__ == "__main__":
    command(main)
