"""What the index says about an executed notebook: read off the notebook, never written by hand."""

import ast
import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from thinsight.errors import UserError
from thinsight.notebook import load
from thinsight.parameters import declared

INJECTED = "injected-parameters"  # papermill's tag of the cell with the values of this execution
IMAGES = ("image/svg+xml", "image/png", "image/jpeg")


@dataclass(frozen=True)
class Summary:
    """A page's card: its title, its finding (markdown, may be empty), its key figure as a data URI (or none)."""

    title: str
    finding: str
    figure: str | None
    order: int


def summarize(notebook: NotebookNode, name: str) -> Summary:
    """The first heading; the cell tagged ``finding`` or the first paragraph; ``key-figure`` or the first figure."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    heading = next((match for text in texts if (match := re.search(r"^# +(.+)$", text, re.MULTILINE))), None)
    if heading is None:
        raise UserError(f"the notebook {name} has no title: begin a text cell with '# '")
    order = notebook.metadata.get("thinsight", {}).get("order", 100)
    return Summary(heading[1].strip(), _finding(notebook, texts), _figure(notebook), order)


def _finding(notebook: NotebookNode, texts: list[str]) -> str:
    for cell in _tagged(notebook, "finding"):
        if cell.cell_type == "markdown":
            return cell.source.strip()
        for output in cell.outputs:
            data = output.get("data", {})
            if text := data.get("text/markdown") or data.get("text/plain") or output.get("text"):
                return text.strip()
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(texts)):
        if paragraph.strip() and not re.match(r"\s*([#>*|<-]|```|\d+\.)", paragraph):
            return " ".join(paragraph.split())
    return ""


def _figure(notebook: NotebookNode) -> str | None:
    cells = [*_tagged(notebook, "key-figure"), *notebook.cells]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for kind in IMAGES:
            if content := output.get("data", {}).get(kind):
                encoded = (
                    base64.b64encode(content.encode()).decode() if kind == IMAGES[0] else content.replace("\n", "")
                )
                return f"data:{kind};base64,{encoded}"
    return None


def _tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def given(notebook: NotebookNode) -> dict[str, Any]:
    """The parameters of an executed notebook: those that it declares, with the values that this execution gave."""
    values = declared(notebook)
    for cell in _tagged(notebook, INJECTED):
        for statement in ast.parse(cell.source).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in values:
                    values[name] = ast.literal_eval(value)
    return values


def executed(path: Path) -> NotebookNode:
    """The notebook in ``path``; one that was not executed to its end without an error is refused."""
    notebook = load(path)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()):
        if any(output.output_type == "error" for output in cell.outputs):
            raise UserError(f"{path} stopped at an error, so it makes no page")
        if cell.execution_count is None:
            raise UserError(f"{path} was not executed: run it with python -m thinsight.notebook")
    return notebook
