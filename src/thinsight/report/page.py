"""An executed notebook -> one HTML page: cells, captions, formulae, links.

A page holds its style, its figures and its formulae; it asks the network for nothing and reads on a phone and on paper.
"""

import ast
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bs4 import BeautifulSoup, NavigableString, Tag
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from thinsight.analysis.runs import (
    MAIN,
    config_facts,
    config_file,
    differing_settings,
    finished,
    finished_runs,
    run_budgets,
)
from thinsight.errors import UserError
from thinsight.ledger.baseline_check import check_baseline
from thinsight.paths import ROOT, save_whole
from thinsight.pipeline.notebook import declared_parameters, load_notebook, summarize, tagged_cells
from thinsight.pipeline.plan import CONTENTS, read_contents
from thinsight.report.render import TEMPLATES, render

HIDDEN = {"hide", "finding"}  # cells with these tags are not in the body; the finding stands under the title
INJECTED = "injected-parameters"  # papermill's tag of the cell with the values of this execution
SHORT = 24  # letters of a cell that stay on one line
_PARTS = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)"  # code stays as it is
    r"|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])",  # never "5$ and 6$"
    re.DOTALL,
)


def to_mathml(text: str) -> str:
    """Markdown with ``$...$`` and ``$$...$$`` replaced. A formula that cannot be read raises, naming it."""
    from latex2mathml.converter import convert

    def draw(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        display, tex = ("block", match["block"]) if match["block"] else ("inline", match["inline"])
        return convert(tex.strip(), display=display).replace("\n", " ")

    return _PARTS.sub(draw, text)


def page_body(notebook: NotebookNode) -> BeautifulSoup:
    """The cells as HTML, by nbconvert's basic template with our blocks (templates/cells), without the title."""
    exporter = HTMLExporter(
        extra_template_basedirs=[str(TEMPLATES)],
        template_name="cells",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body = parse(exporter.from_notebook_node(_arrange(notebook))[0])
    if body.h1:
        body.h1.decompose()
    for heading in body.find_all(["h2", "h3", "h4", "h5", "h6"], id=True):  # names that a link can say as they are
        heading["id"] = re.sub(r"[^\w.]+", "-", unquote(heading["id"])).strip("-")
        for anchor in heading.find_all("a", class_="anchor-link"):
            anchor["href"] = f"#{heading['id']}"
    _box_tables(body)
    return body


def parse(html: str) -> BeautifulSoup:
    """HTML as elements."""
    return BeautifulSoup(html, "html.parser")


def markdown(text: str) -> BeautifulSoup:
    """Markdown, with formulae, as HTML."""
    return parse(markdown2html(to_mathml(text)).strip())


def _arrange(notebook: NotebookNode) -> NotebookNode:
    """Captions joined to what they are about, hidden cells out, formulae drawn.

    A text cell that begins with ``**Figure`` or ``**Table`` right after a cell with outputs has the caption of these as
    its first paragraph; what follows is text again.
    """
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        if HIDDEN & set(cell.metadata.get("tags", [])):
            continue
        before = cells[-1] if cells else {}
        if cell.cell_type != "markdown":
            cells.append(cell)
            continue
        text = cell.source
        if before.get("outputs") and re.match(r"\*\*(Figure|Table)\b", text):
            first, _, text = text.partition("\n\n")
            caption = markdown(first)
            before.metadata.caption = str(caption)
            for formula in caption.find_all("math"):
                formula.decompose()
            before.metadata.alt = caption.get_text().strip()
        if text.strip():
            cells.append(NotebookNode(cell | {"source": to_mathml(text)}))
    return NotebookNode(notebook | {"cells": cells})


def _box_tables(body: BeautifulSoup) -> None:
    """Tables in boxes that scroll by themselves, without pandas' own style, and with short cells kept on one line."""
    for style in body.find_all("style", scoped=True):
        style.decompose()
    for cell in body.find_all(["td", "th"]):
        if isinstance(cell.string, NavigableString) and len(cell.string) <= SHORT and not cell.find(True):
            cell["data-short"] = ""
    for table in body.find_all("table"):
        table.wrap(body.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))


def link(target: Path, start: Path) -> str:
    """The way from the folder ``start`` to ``target``."""
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()


def relink(html: BeautifulSoup, start: Path, pages: Path) -> BeautifulSoup:
    """A notebook's links are relative to ``notebooks/``; make them lead from ``start``, and to pages, not notebooks."""
    for anchor in html.find_all("a", href=re.compile(r"^(?![a-z]+:|#)")):
        path, hash_, name = anchor["href"].partition("#")
        target = ROOT / "notebooks" / path
        if target.parent == ROOT / "notebooks" and target.suffix == ".ipynb":
            target = pages / f"{target.stem}.html"
        anchor["href"] = f"{link(target, start)}{hash_}{name}"
    return html


def link_runs(html: BeautifulSoup, folder: Path, start: Path) -> BeautifulSoup:
    """What names a finished run (``run <code>vtw</code>``, ``<th data-run="vtw">``) becomes a link to its metrics, with
    a link to its config behind it."""
    named = [(code, code.get_text()) for code in html.find_all("code") if re.search(r"\brun $", _text_before(code))]
    cells = html.find_all(["td", "th"], attrs={"data-run": True})
    named += [(cell.contents[0], cell["data-run"]) for cell in cells if cell.contents]
    for shown, run in named:
        metrics = folder / run / "metrics.json"
        if metrics.is_file():
            config = {
                "class": "config",
                "href": link(config_file(metrics.parent), start),
                "title": f"config of the run {run}",
            }
            shown.insert_after(" ", html.new_tag("a", attrs=config, string="config"))
            shown.wrap(html.new_tag("a", attrs={"href": link(metrics, start), "title": f"metrics of the run {run}"}))
    return html


def _text_before(node: Tag) -> str:
    before = node.previous_sibling
    return before if isinstance(before, NavigableString) else ""


def pathless(value: str) -> str:
    """A checkpoint's name without the folders of the machine it was on."""
    return value.rstrip("/").rpartition("/")[2] if value.startswith(("/", "~")) else value


def injected_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """The parameters of an executed notebook: those that it declares, with the values that this execution gave."""
    values = declared_parameters(notebook)
    for cell in tagged_cells(notebook, INJECTED):
        for statement in ast.parse(cell.source).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in values:
                    values[name] = ast.literal_eval(value)
    return values


def executed_notebook(path: Path) -> NotebookNode:
    """The notebook in ``path``; one that was not executed to its end without an error is refused."""
    notebook = load_notebook(path)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()):
        if any(output.output_type == "error" for output in cell.outputs):
            raise UserError(f"{path} stopped at an error, so it makes no page")
        if cell.execution_count is None:
            raise UserError(f"{path} was not executed: run it with python -m thinsight.pipeline.notebook")
    return notebook


def page(source: Path, out: Path, folder: Path, listed: Path = CONTENTS) -> None:
    """Write the page of the executed notebook ``source``; the runs in ``folder`` that it read are its protocol box.

    Code is hidden until asked for, unless the notebook's metadata say ``thinsight.code: true``. A notebook that reads
    runs has on top what `check_baseline` says of their baseline. ``listed``: the pages that the bar on top leads to.
    """
    notebook = executed_notebook(source)
    summary, values = summarize(notebook, source.name), injected_parameters(notebook)
    code = bool(notebook.metadata.get("thinsight", {}).get("code"))
    body = page_body(notebook)
    for cell in body.find_all("div", class_="code", hidden=True) if code else []:
        del cell["hidden"]
    reads = values.get("reads")  # names and patterns; None: all runs of the group main
    read = {file.parent.name for file in finished(folder, reads)} if "runs" in values else set()
    runs = [run for run in finished_runs(folder) if run.name in read] if read else []
    pages = read_contents(listed)
    place = next((number for number, other in enumerate(pages) if other.name == source.stem), None)
    write_html(
        out,
        "page.html.j2",
        summary=summary,
        name=source.stem,
        finding=relink(markdown(summary.finding), out.parent, out.parent) if tagged_cells(notebook, "finding") else "",
        sections=[(heading["id"], _title(heading)) for heading in body.find_all("h2", id=True)],
        body=link_runs(relink(body, out.parent, out.parent), folder, out.parent),
        runs=runs,
        main=[run for run in runs if run.group == MAIN],
        absent=[name for name in reads or [] if "runs" in values and not finished(folder, [name])],
        gate=check_baseline(folder) if "runs" in values else [],
        pages=pages,
        before=pages[place - 1] if place else None,
        after=pages[place + 1] if place is not None and place + 1 < len(pages) else None,
        notebook=link(source, out.parent),
        code=code,
    )


def _title(heading: Tag) -> str:
    """What a heading says, as HTML, without the link to itself."""
    return "".join(str(part) for part in heading.contents if getattr(part, "name", None) != "a").strip()


def write_html(out: Path, template: str, **values: Any) -> None:
    """The filled template in ``out``, which is replaced when it is whole."""
    text = render(
        template,
        link=lambda target: link(Path(target), out.parent),
        executed=lambda name: ROOT / "reports" / "runs" / f"{name}.ipynb",
        budgets=run_budgets,
        differing=differing_settings,
        facts_of=config_facts,
        pathless=pathless,
        **values,
    )
    save_whole(out, text)
