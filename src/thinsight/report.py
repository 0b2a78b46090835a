"""Executed notebooks -> HTML pages that need nothing else, and an index over them.

``python -m thinsight.report page IN OUT`` writes one page, ``python -m thinsight.report index [REPORTS]`` the index.
A page holds its style, its figures and its formulae; it asks the network for nothing and reads on a phone and on paper.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbformat import NotebookNode

from thinsight import contents, front
from thinsight.body import TEMPLATES, body, markdown
from thinsight.config import ROOT
from thinsight.errors import UserError, command
from thinsight.gate import gate
from thinsight.glance import glance
from thinsight.links import link, pathless, relink, to_runs
from thinsight.results import finished
from thinsight.runs import Run, budgets, differ, facts, read_runs
from thinsight.setting import settings
from thinsight.summary import executed, given, summarize
from thinsight.verdict import BADGES, rules


def page(source: Path, out: Path, folder: Path, listed: Path = contents.PLACE) -> None:
    """Write the page of the executed notebook ``source``; the runs in ``folder`` that it read are its protocol box.

    Code is hidden until asked for, unless the notebook's metadata say ``thinsight.code: true``. A notebook that reads
    runs has on top what `thinsight.gate` says of their baseline. ``listed``: the pages that the bar on top leads to.
    """
    notebook = executed(source)
    summary = summarize(notebook, source.name)
    code = bool(notebook.metadata.get("thinsight", {}).get("code"))
    text = body(notebook)
    text = re.sub(r'<div class="code" hidden[^>]*>', '<div class="code">', text) if code else text
    runs, absent = _read_by(notebook, folder)
    pages = contents.read(listed)
    place = next((number for number, other in enumerate(pages) if other.name == source.stem), None)
    _write(
        out,
        "page.html.j2",
        summary=summary,
        name=source.stem,
        finding=relink(markdown(summary.finding), out.parent, out.parent) if _has_tag(notebook, "finding") else "",
        body=to_runs(relink(text, out.parent, out.parent), folder, out.parent),
        sections=re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', text, flags=re.DOTALL),
        runs=runs,
        absent=absent,
        gate=gate(folder) if "runs" in given(notebook) else [],
        pages=pages,
        before=pages[place - 1] if place else None,
        after=pages[place + 1] if place is not None and place + 1 < len(pages) else None,
        notebook=link(source, out.parent),
        code=code,
    )


def index(reports: Path, folder: Path, listed: Path = contents.PLACE, saved: Path = ROOT / "data" / "pages") -> None:
    """Write ``reports/index.html``: the ledgers in ``saved`` counted, a card for each page in ``reports/pages``, the
    methods, what the runs were made with, and a line for each run in ``folder``.
    """
    pages = sorted((reports / "pages").glob("*.html"))
    if not pages:
        raise UserError(f"no pages in {reports / 'pages'}: dvc repro makes them")
    order = contents.read(listed)
    cards = front.cards(pages, reports, [page.name for page in order])
    counted = glance(saved, [card.name for card in cards])
    runs, plots = read_runs(folder), ROOT / "dvc_plots" / "index.html"
    relinked = {card.name: relink(markdown(card.summary.finding), reports, reports / "pages") for card in cards}
    _write(
        reports / "index.html",
        "index.html.j2",
        **front.shelves(cards, counted, relinked),
        glance=counted,
        made=[card.name for card in cards],
        names={page.name: page.short for page in order} or {card.name: card.summary.title for card in cards},
        rules=rules(),
        kinds=BADGES,
        methods=front.methods(reports / "pages" / "methods.html"),
        settings=settings(runs),
        gate=gate(folder) if runs else [],
        runs=runs,
        dvc_plots=link(plots, reports) if plots.is_file() else "",
    )


def _read_by(notebook: NotebookNode, folder: Path) -> tuple[list[Run], list[str]]:
    """The runs that the notebook read, and the names and patterns it asked for that no finished run has."""
    values = given(notebook)
    if "runs" not in values:
        return [], []
    asked = values.get("reads")
    there = {file.parent.name for file in finished(folder, asked)}
    absent = [name for name in asked or [] if not finished(folder, [name])]
    return [run for run in read_runs(folder) if run.name in there], absent


def _has_tag(notebook: NotebookNode, tag: str) -> bool:
    return any(tag in cell.metadata.get("tags", []) for cell in notebook.cells)


def _write(out: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"budgets": budgets, "differ": differ, "facts": facts, "pathless": pathless}
    environment.tests["contains"] = lambda text, part: part in text
    environment.globals["link"] = lambda target: link(Path(target), out.parent)
    environment.globals["executed"] = lambda name: ROOT / "reports" / "runs" / f"{name}.ipynb"
    environment.globals["sheets"] = ["style.css", *sorted({f.name for f in TEMPLATES.glob("*.css")} - {"style.css"})]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(environment.get_template(template).render(values), encoding="utf-8")
    part.replace(out)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.report", description="Pages of executed notebooks.")
    parser.add_argument("--runs", type=Path, default=ROOT / "data" / "runs", help="the runs that the pages are about")
    parser.add_argument("--pages", type=Path, default=ROOT / "data" / "pages", help="what the pages saved: the ledgers")
    parser.add_argument("--contents", type=Path, default=contents.PLACE, help="the list of all pages")
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("page", help="one executed notebook -> one page")
    one.add_argument("source", type=Path)
    one.add_argument("out", type=Path)
    over = what.add_parser("index", help="the index over all pages")
    over.add_argument("reports", type=Path, nargs="?", default=ROOT / "reports")
    options = parser.parse_args(arguments)
    if options.what == "page":
        page(options.source, options.out, options.runs, options.contents)
    else:
        index(options.reports, options.runs, options.contents, options.pages)


if __name__ == "__main__":
    command(main)
