"""Notebooks: their parameters, their execution by papermill, and the title, finding and figure of an executed one.

``python -m thinsight.pipeline.notebook SOURCE OUT -p name=value`` executes a notebook, more strictly than papermill:

- The cell tagged ``parameters`` holds one plain literal a line, ``name: type = literal  # help``. Anything else is
  refused (exit 2; papermill's own inspection would skip it without a word), and so are a value for a parameter that is
  not declared and a declared one that no later cell reads.
- When a cell fails or ends the notebook (``sys.exit(0)`` and ``quit()`` too), when the kernel dies and when a cell did
  not run (exit 1), the notebook up to there is kept as ``<OUT's stem>.failed.ipynb``, and OUT does not exist.
- What is written holds no times, so that equal runs give equal bytes.
"""

import argparse
import ast
import base64
import logging
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NO_CONVERT, NotebookNode, read, validate, write

from thinsight.analysis.runs import read_json
from thinsight.errors import UserError, check_utf8, command, nearest, writing

TAG = "parameters"
WIDGET = "application/vnd.jupyter.widget-view+json"
IMAGES = ("image/svg+xml", "image/png", "image/jpeg")


def declared_parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Name -> default of every parameter, in order; empty without a tagged cell."""
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise UserError(f"a notebook has one cell tagged '{TAG}', this one has {len(cells)}")
    values: dict[str, Any] = {}
    lines: set[int] = set()
    for statement in syntax(cells[0].source).body if cells else []:
        name, value = _literal(statement)
        if name in values or statement.lineno in lines or statement.end_lineno != statement.lineno:
            raise UserError(f"parameter '{name}': write each parameter once, on a line of its own")
        lines.add(statement.lineno)
        values[name] = value
    return values


def check_parameters_read(notebook: NotebookNode) -> None:
    """Refuse a parameter that no later cell reads, or that is overwritten before anything reads it."""
    unread = dict.fromkeys(declared_parameters(notebook))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    while cells and TAG not in cells.pop(0).metadata.get("tags", []):
        pass
    overwritten: set[str] = set()
    for statement in (statement for cell in cells for statement in syntax(cell.source).body):
        nodes = list(ast.walk(statement))
        increments = {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AugAssign)}
        loaded = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        magics = {word for node in nodes for word in _magic(node)}
        for name in (increments | loaded | magics) - overwritten:
            unread.pop(name, None)
        overwritten |= {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    if unread:
        raise UserError(f"nothing in the notebook reads its parameter '{next(iter(unread))}'")


def convert_parameters(notebook: NotebookNode, texts: Mapping[str, str]) -> dict[str, Any]:
    """The values of ``texts`` in the types of the declared defaults; an undeclared name or another type is refused."""
    known = declared_parameters(notebook)
    values = {}
    for name, text in texts.items():
        if name not in known:
            raise nearest("parameter", name, known) if known else UserError(f"no parameter '{name}': there are none")
        values[name] = _value(name, text, known[name])
    return values


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text, text))
    except (SyntaxError, ValueError):
        value = text
    fitting = (float, int) if type(default) is float else (type(default),)
    if default is not None and type(value) not in fitting:
        raise UserError(f"parameter '{name}' is a {type(default).__name__} such as {default!r}, not {text!r}")
    return float(value) if type(default) is float else value


def _literal(statement: ast.stmt) -> tuple[str, Any]:
    """The name and value of ``name = literal`` or ``name: type = literal``."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=value, annotation=annotation) if value is not None:
            if re.search(r"\bOptional\b|\bUnion\b|\|", ast.unparse(annotation)):
                raise UserError(f"parameter '{name}' has a union type, which papermill does not see: name one type")
        case _:
            raise UserError(f"a parameter is one line 'name: type = literal', not '{ast.unparse(statement)}'")
    try:
        return name, ast.literal_eval(value)
    except ValueError as error:
        raise UserError(f"parameter '{name}' is not a plain literal: {ast.unparse(value)}") from error


def _magic(node: ast.AST) -> list[str]:
    """The words after a magic, ``%time f(x)``: its line is a string to Python, but may read variables."""
    match node:
        case ast.Call(func=ast.Attribute(attr="run_line_magic" | "run_cell_magic"), args=[_, *texts]):
            return [word for text in texts for word in re.findall(r"[^\W\d]\w*", ast.unparse(text))]
    return []


def syntax(source: str) -> ast.Module:
    """A cell's syntax tree, magics turned into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except SyntaxError as error:
        raise UserError(f"a cell is not Python: {error.msg} in '{source.splitlines()[0]}'") from error


def run_notebook(
    source: Path, out: Path, values: Mapping[str, str], optional: Collection[str] = (), about: str | None = None
) -> None:
    """Execute ``source`` into ``out`` with ``values`` of parameters; those in ``optional`` only if it declares them.
    ``about``: the model that it is executed for; what its text says of other models is left out (`keep_about`).

    Raises `UserError` for bad parameters, `SystemExit` (1) for a failing cell.
    """
    with writing(out):
        if out.is_dir():
            raise UserError(f"{out} is a folder: name the file that the executed notebook is to be written to")
        if source.resolve() == out.resolve():
            raise UserError(f"the executed notebook cannot replace its source {source}: name another file")
        failed, part = out.with_suffix(".failed.ipynb"), out.with_suffix(".part.ipynb")
        for stale in (out, failed):  # whatever goes wrong below, an earlier result does not stand for this run's
            stale.unlink(missing_ok=True)
    notebook = load_notebook(source)
    known = declared_parameters(notebook)
    values = {name: value for name, value in values.items() if name in known or name not in optional}
    parameters = convert_parameters(notebook, values)
    check_parameters_read(notebook)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # a folder that takes no file is found before the cells run
        part.unlink()
    try:
        _execute(source, part, parameters, failed)
        executed = read(part, as_version=4)
        strip_volatile(executed)
        if about is not None:
            keep_about(executed, about)
        with writing(out):
            write(executed, part)
            part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def load_notebook(path: Path) -> NotebookNode:
    """The notebook in ``path``, in the present format."""
    if not path.is_file():
        raise UserError(f"no notebook at {path}")
    try:
        notebook = read(path, as_version=NO_CONVERT)
        if (found := notebook.get("nbformat")) == 4:
            validate(notebook)
    except Exception as error:  # nbformat takes what JSON holds for a notebook, whatever it is
        raise UserError(f"{path} is not a notebook ({(str(error).splitlines() or ['?'])[0]}).") from error
    if found != 4:
        raise UserError(f"{path} is in notebook format {found}; save it in format 4")
    return notebook


def strip_volatile(notebook: NotebookNode) -> None:
    """Take out, in place, what differs between equal runs: times, the runner's own notes, progress bars, random ids.

    Widgets go as well: without the kernel that they talked to they are names of things that are gone.
    """
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    for index, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = f"injected-parameters-{index}"
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in outputs if WIDGET not in output.get("data", {})]


def keep_about(notebook: NotebookNode, model: str) -> None:
    """Leave out, in place, text that stands in ``<span data-model="NAME">`` of another model's name."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r'<span data-model="(\w+)">(.*?)</span>',
                lambda found: found[2] if found[1] == model else "",
                cell.source,
                flags=re.DOTALL,
            )


class _EndedError(Exception):
    """A cell that ended the notebook, or never ran."""


def _execute(source: Path, part: Path, parameters: dict[str, Any], failed: Path) -> None:
    """Execute ``source`` into ``part``; a failure leaves ``failed`` instead and is exit status 1."""
    from papermill import PapermillExecutionError, execute_notebook

    logging.getLogger("papermill").setLevel(logging.ERROR)  # its own reading of parameters, which ours replaces
    try:
        executed = execute_notebook(
            str(source), str(part), parameters, kernel_name="python3", language="python",
            extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings are about the loopback it talks over
            progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr, on_cell_executed=_refuse_quit,
        )  # fmt: skip
        _check_whole(executed)
        return
    except PapermillExecutionError as error:
        words = "\n".join([*error.traceback, f"error: {source} failed with {error.ename}: {error.evalue}"])
    except _EndedError as error:
        words = f"error: {source} is not whole: {error}"
    except RuntimeError as error:  # of the kernel: what a cell raises is an error of papermill's
        words = f"error: the kernel of {source} died, perhaps for want of memory ({str(error).partition(chr(10))[0]})"
    if part.exists():
        part.replace(failed)
        words += f"\nthe notebook up to there is in {failed}"
    print(words, file=sys.stderr)
    raise SystemExit(1)


def _refuse_quit(cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]) -> None:
    """``exit()`` and ``quit()`` only ask for the end: cells below would still run until the kernel has gone."""
    if any(part.get("source") == "ask_exit" for part in execute_reply["content"].get("payload", [])):
        raise _EndedError(_ending(cell))


def _check_whole(notebook: NotebookNode) -> None:
    """Every cell of code has run, and none has raised ``SystemExit``, which papermill takes for an end in order."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if any(output.output_type == "error" for output in cell.outputs):
            raise _EndedError(_ending(cell))
        if cell.execution_count is None:
            raise _EndedError(f"the cell '{cell.source.strip().splitlines()[0]}' did not run")


def _ending(cell: NotebookNode) -> str:
    return f"it was ended by the cell '{cell.source.strip().splitlines()[0]}' (a page runs to its last cell)"


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m thinsight.pipeline.notebook", description="Execute a notebook, strictly."
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path)
    for flag, words in (("-p", "a parameter"), ("-d", "the same, left out where the notebook does not declare it")):
        parser.add_argument(flag, action="append", default=[], metavar="name=value", help=words)
    parser.add_argument("-f", type=Path, metavar="FILE", help="more of these, as a JSON object")
    parser.add_argument("--about", metavar="MODEL", help="leave out what the text says of other models")
    options = parser.parse_args(arguments)
    values: dict[str, str] = {}
    for text in [*options.p, *options.d]:
        check_utf8(text)
        name, equals, value = text.partition("=")
        if not equals or name in values:
            raise UserError(f"cannot read '{text}': write -p name=value, once for each name")
        values[name] = value
    optional = {text.partition("=")[0] for text in options.d}
    if options.f is not None:
        more = {name: str(value) for name, value in read_json(options.f).items() if name not in values}
        values, optional = values | more, optional | more.keys()
    run_notebook(options.notebook, options.out, values, optional, options.about)


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
    for cell in tagged_cells(notebook, "finding"):
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
    cells = [*tagged_cells(notebook, "key-figure"), *notebook.cells]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        for kind in IMAGES:
            if content := output.get("data", {}).get(kind):
                if kind == IMAGES[0]:  # a notebook holds SVG as text, the others in base64
                    content = base64.b64encode(content.encode()).decode()
                return f"data:{kind};base64,{content.replace(chr(10), '')}"
    return None


def tagged_cells(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


if __name__ == "__main__":
    command(main)
