"""The body of a page: an executed notebook's cells as HTML, figures and tables with their captions."""

import html
import re
from pathlib import Path
from urllib.parse import unquote

from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from thinsight.formulas import to_mathml
from thinsight.pages import STATED

TEMPLATES = Path(__file__).parent / "templates"
HIDDEN = {"hide", "finding"}  # cells with these tags are not in the body; the finding stands under the title


def body(notebook: NotebookNode) -> str:
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
