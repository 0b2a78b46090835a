"""What a notebook declares as its parameters, and whether it keeps its word.

The cell tagged ``parameters`` holds one plain literal a line, ``name: type = literal  # help``. Anything else is
refused (papermill's own inspection would skip it without a word), and so is a parameter that no later cell reads.
"""

import ast
import re
from typing import Any

from nbformat import NotebookNode

from thinsight.errors import UserError, nearest

TAG = "parameters"


def declared(notebook: NotebookNode) -> dict[str, Any]:
    """Name -> default of every parameter, in order; empty without a tagged cell."""
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise UserError(f"a notebook has one cell tagged '{TAG}', this one has {len(cells)}")
    found: dict[str, Any] = {}
    lines: set[int] = set()
    for statement in syntax(cells[0].source).body if cells else []:
        name, value = _literal(statement)
        if name in found or statement.lineno in lines or statement.end_lineno != statement.lineno:
            raise UserError(f"parameter '{name}': write each parameter once, on a line of its own")
        lines.add(statement.lineno)
        found[name] = value
    return found


def check_read(notebook: NotebookNode) -> None:
    """Refuse a parameter that no later cell reads, or that is overwritten before anything reads it."""
    unread = dict.fromkeys(declared(notebook))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    while cells and TAG not in cells.pop(0).metadata.get("tags", []):
        pass
    overwritten: set[str] = set()
    for statement in (statement for cell in cells for statement in syntax(cell.source).body):
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        added = {node.target.id for node in ast.walk(statement) if _is_increment(node)}
        added |= {word for node in ast.walk(statement) for word in _magic(node)}
        for name in added | {node.id for node in names if isinstance(node.ctx, ast.Load)}:
            if name not in overwritten:
                unread.pop(name, None)
        overwritten |= {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    if unread:
        raise UserError(f"nothing in the notebook reads its parameter '{next(iter(unread))}'")


def convert(notebook: NotebookNode, given: dict[str, str]) -> dict[str, Any]:
    """The given values as the types of the declared defaults; an undeclared name or another type is refused."""
    known = declared(notebook)
    values = {}
    for name, text in given.items():
        if name not in known:
            raise nearest("parameter", name, known) if known else UserError(f"no parameter '{name}': there are none")
        values[name] = _value(name, text, known[name])
    return values


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = {"true": True, "false": False, "null": None}[text] if text in ("true", "false", "null") else None
        value = ast.literal_eval(text) if value is None and text != "null" else value
    except (SyntaxError, ValueError):
        value = text
    wanted = float if isinstance(default, float) and type(value) is int else type(default)
    if default is not None and type(value) is not wanted and not (wanted is float and type(value) is int):
        raise UserError(f"parameter '{name}' is a {type(default).__name__} such as {default!r}, not {text!r}")
    return value


def _literal(statement: ast.stmt) -> tuple[str, Any]:
    """The name and value of ``name = literal`` or ``name: type = literal``."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=value, annotation=annotation) if value is not None:
            if any(isinstance(node, ast.BinOp) or _names_union(node) for node in ast.walk(annotation)):
                raise UserError(f"parameter '{name}' has a union type, which papermill does not see: name one type")
        case _:
            raise UserError(f"a parameter is one line 'name: type = literal', not '{ast.unparse(statement)}'")
    try:
        return name, ast.literal_eval(value)
    except ValueError as error:
        raise UserError(f"parameter '{name}' is not a plain literal: {ast.unparse(value)}") from error


def _names_union(node: ast.AST) -> bool:
    return getattr(node, "id", getattr(node, "attr", "")) in ("Optional", "Union")


def _is_increment(node: ast.AST) -> bool:
    return isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)


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
