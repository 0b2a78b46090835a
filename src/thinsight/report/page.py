"""An executed notebook -> one HTML page: cells, captions, formulae, links.

``python -m thinsight.report page IN OUT`` writes one page, ``python -m thinsight.report index [REPORTS]`` the index.
A page holds its style, its figures and its formulae; it asks the network for nothing and reads on a phone and on paper.
"""

import ast
import html
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from thinsight.analysis.results import finished
from thinsight.analysis.runs import FinishedRun, config_facts, differing_settings, finished_runs, run_budgets
from thinsight.errors import UserError
from thinsight.ledger.baseline_check import check_baseline
from thinsight.paths import ROOT
from thinsight.pipeline.notebook import _tagged, declared_parameters, load_notebook, summarize
from thinsight.pipeline.plan import CONTENTS, read_contents
from thinsight.report.artifacts import STATED
from thinsight.report.tables import TEMPLATES

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


HIDDEN = {"hide", "finding"}  # cells with these tags are not in the body; the finding stands under the title


def page_body(notebook: NotebookNode) -> str:
    """The cells as HTML, by nbconvert's basic template with our blocks (templates/cells), without the title."""
    exporter = HTMLExporter(
        extra_template_basedirs=[str(TEMPLATES)],
        template_name="cells",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    text = exporter.from_notebook_node(_arrange(notebook))[0]
    return _tables(_anchors(re.sub(r"<h1\b.*?</h1>", "", text, count=1, flags=re.DOTALL)))


def markdown(text: str) -> str:
    """Markdown, with formulae, as HTML."""
    return markdown2html(to_mathml(text)).strip()


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
            caption, _, text = text.partition("\n\n")
            before.metadata.caption = markdown(_stated(before, caption))
            before.metadata.alt = html.unescape(re.sub(r"<math.*?</math>|<[^>]+>", "", before.metadata.caption)).strip()
        if text.strip():
            cells.append(NotebookNode(cell | {"source": to_mathml(text)}))
    return NotebookNode(notebook | {"cells": cells})


def _stated(cell: NotebookNode, caption: str) -> str:
    """The ``caption`` with what the cell says that its figure shows, behind the number, and out of its outputs."""
    said = [output for output in cell.outputs if output.get("metadata", {}).get(STATED)]
    cell.outputs = [output for output in cell.outputs if output not in said]
    number, _, rest = caption.partition("** ")
    told = "".join(f'<span class="stated">{output.data["text/markdown"]}</span> ' for output in said)
    return f"{number}** {told}{rest}"


def _anchors(body: str) -> str:
    """Headings under names of letters, digits and hyphens, which a link can say as they are."""

    def named(match: re.Match[str]) -> str:
        name = re.sub(r"[^\w.]+", "-", unquote(html.unescape(match[2]))).strip("-")
        return f'<{match[1]} id="{name}">' + re.sub(r'href="#[^"]*"', f'href="#{name}"', match[3]) + f"</{match[1]}>"

    return re.sub(r'<(h\d) id="([^"]+)">(.*?)</\1>', named, body, flags=re.DOTALL)


def _tables(body: str) -> str:
    """Tables in boxes that scroll by themselves, without pandas' own style, and with short cells kept on one line."""
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<(t[dh])([^>]*)>([^<]{1,24})</\1>", r"<\1\2 data-short>\3</\1>", body)
    return re.sub(r"(<table\b.*?</table>)", r'<div class="scroll" tabindex="0">\1</div>', body, flags=re.DOTALL)


def link(target: Path, start: Path) -> str:
    """The way from the folder ``start`` to ``target``."""
    return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()


def relink(text: str, start: Path, pages: Path) -> str:
    """A notebook's links are relative to ``notebooks/``; make them lead from ``start``, and to pages, not notebooks."""

    def move(match: re.Match[str]) -> str:
        path, hash_, anchor = match[1].partition("#")
        target = ROOT / "notebooks" / path
        beside = target.parent == ROOT / "notebooks" and target.suffix == ".ipynb"
        target = pages / f"{target.stem}.html" if beside else target
        return f'href="{link(target, start)}{hash_}{anchor}"'

    return re.sub(r'href="(?![a-z]+:|#)([^"]+)"', move, text)


def to_runs(text: str, folder: Path, start: Path) -> str:
    """What names a finished run (``run <code>vtw</code>``, ``<th data-run="vtw">``) leads to its metrics and config."""

    def lead(match: re.Match[str]) -> str:
        before, name, shown = match[1], match[2], match[match.lastindex or 0]
        metrics, config = (folder / name / file for file in ("metrics.json", "config.yaml"))
        if not metrics.is_file():
            return match[0]
        of = f'<a href="{link(metrics, start)}" title="metrics of the run {name}">{shown}</a>'
        return (
            f'{before}{of} <a class="config" href="{link(config, start)}" title="config of the run {name}">config</a>'
        )

    text = re.sub(r"(\brun )(?=<code>([\w-]+)</code>)(<code>[\w-]+</code>)", lead, text)
    return re.sub(r'(<t[dh][^>]* data-run="([\w-]+)"[^>]*>)([^<]+)', lead, text)


def pathless(value: str) -> str:
    """A checkpoint's name without the folders of the machine it was on."""
    return value.rstrip("/").rpartition("/")[2] if value.startswith(("/", "~")) else value


INJECTED = "injected-parameters"  # papermill's tag of the cell with the values of this execution


def injected_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """The parameters of an executed notebook: those that it declares, with the values that this execution gave."""
    values = declared_parameters(notebook)
    for cell in _tagged(notebook, INJECTED):
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
    runs has on top what `thinsight.ledger.baseline_check` says of their baseline. ``listed``: the pages that the bar on top leads to.
    """
    notebook = executed_notebook(source)
    summary = summarize(notebook, source.name)
    code = bool(notebook.metadata.get("thinsight", {}).get("code"))
    text = page_body(notebook)
    text = re.sub(r'<div class="code" hidden[^>]*>', '<div class="code">', text) if code else text
    runs, absent = _read_by(notebook, folder)
    pages = read_contents(listed)
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
        gate=check_baseline(folder) if "runs" in injected_parameters(notebook) else [],
        pages=pages,
        before=pages[place - 1] if place else None,
        after=pages[place + 1] if place is not None and place + 1 < len(pages) else None,
        notebook=link(source, out.parent),
        code=code,
    )


def _read_by(notebook: NotebookNode, folder: Path) -> tuple[list[FinishedRun], list[str]]:
    """The runs that the notebook read, and the names and patterns it asked for that no finished run has."""
    values = injected_parameters(notebook)
    if "runs" not in values:
        return [], []
    asked = values.get("reads")
    there = {file.parent.name for file in finished(folder, asked)}
    absent = [name for name in asked or [] if not finished(folder, [name])]
    return [run for run in finished_runs(folder) if run.name in there], absent


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
    environment.filters |= {
        "budgets": run_budgets,
        "differ": differing_settings,
        "facts": config_facts,
        "pathless": pathless,
    }
    environment.tests["contains"] = lambda text, part: part in text
    environment.globals["link"] = lambda target: link(Path(target), out.parent)
    environment.globals["executed"] = lambda name: ROOT / "reports" / "runs" / f"{name}.ipynb"
    environment.globals["sheets"] = ["style.css", *sorted({f.name for f in TEMPLATES.glob("*.css")} - {"style.css"})]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(environment.get_template(template).render(values), encoding="utf-8")
    part.replace(out)
