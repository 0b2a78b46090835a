"""One hash of code: what the modules that a run or a page can reach do, comments and docstrings apart.

Imports are followed module by module from the syntax, those inside functions included and those for type checkers left
out, and so is every ``_target_`` of a configuration. A run's journal and the stages of the pipeline ask the same hash,
so a changed comment, docstring or page repeats no evaluation, and a changed line of a method repeats that method's.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from thinsight import _HOMES

PACKAGE = Path(__file__).parent
EVALUATION = "thinsight.evaluation.run"
"""Where the code of a run begins, besides what its configuration names."""


def code_hash(*configs: Mapping[str, Any]) -> str:
    """Hash of the code of an evaluation of ``configs``: a run's plain configuration and those of its tasks."""
    lines, _ = code_lines([EVALUATION, *targets(list(configs))])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_lines(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """``hash  module`` of each module of ours that importing ``names`` can reach, sorted; other packages' names."""
    ours, others = reach(names)
    hashes = {name: _parse_text(path.read_text(encoding="utf-8"))[1] for name, path in sorted(ours.items())}
    return [f"{code}  {name}" for name, code in hashes.items()], others


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` and other dotted name of ours below ``node``."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)
    elif isinstance(node, str) and node.startswith(f"{PACKAGE.name}.") and " " not in node:
        yield node


def reach(names: Iterable[str]) -> tuple[dict[str, Path], set[str]]:
    """Our modules (name -> file) that importing ``names`` can ever reach, and the other packages they import.

    A public name of the package, which loads lazily, counts as its home.
    """
    modules = _modules()
    ours: dict[str, Path] = {}
    others: set[str] = set()
    queue = list(names)
    while queue:
        name = _home(queue.pop())
        if name.split(".")[0] != PACKAGE.name:
            others.add(name.split(".")[0])
            continue
        while name and name not in modules:  # what a module holds leads to the module
            name = name.rpartition(".")[0]
        if name and name not in ours:
            path = ours[name] = modules[name]
            queue.append(name.rpartition(".")[0] or PACKAGE.name)  # its package's __init__ runs too
            text = path.read_text(encoding="utf-8")
            queue += _parse_text(text)[0]
            if path.name == "__init__.py" and "__path__" in text:  # a package that imports whatever lies in it
                queue += [f"{name}.{file.stem}" for file in path.parent.glob("[!_]*.py")]
    return ours, others


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a syntax tree imports, inside functions too."""
    nodes = list(_executed(tree))
    names = {alias.asname or alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in names:
                yield f"{owner}.{name}"


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree, without what stands under ``if TYPE_CHECKING``."""
    yield node
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=rest):
                for statement in rest:
                    yield from _executed(statement)
            case _:
                yield from _executed(child)


def _home(name: str) -> str:
    """``thinsight.load_model`` lives in ``thinsight.models.loading``; other names are what they say."""
    owner, _, last = name.rpartition(".")
    return f"{owner}.{_HOMES[last]}" if owner == PACKAGE.name and last in _HOMES else name


def _modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    files = {file: file.relative_to(PACKAGE.parent).with_suffix("").parts for file in PACKAGE.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for file, parts in files.items()}


@cache
def _parse_text(text: str) -> tuple[tuple[str, ...], str]:
    """What a file with this ``text`` imports, and a hash of what it does."""
    tree = ast.parse(text)
    imported = tuple(imports(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Module(body=body) | ast.ClassDef(body=body) | ast.FunctionDef(body=body):
                docstrings = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
                node.body = [statement for statement in body if statement not in docstrings] or [ast.Pass()]
    return imported, hashlib.md5(ast.unparse(tree).encode(), usedforsecurity=False).hexdigest()[:12]
