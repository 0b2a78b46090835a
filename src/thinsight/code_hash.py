"""Which modules a run can reach by its imports, and a hash of what each of them does, comments apart."""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from thinsight import _HOMES


def code_hash(config: Mapping[str, Any]) -> str:
    """Hash of every module of ours that an evaluation of ``config`` can reach, the method's own parts included."""
    ours, _ = reach(["thinsight.evaluation.run", "thinsight.config.compose", *targets(config)])
    found = hashlib.sha256()
    for name in sorted(ours):
        found.update(name.encode() + ours[name].read_bytes())
    return found.hexdigest()


def targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` below ``node``."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for one in node.values():
            yield from targets(one)
    elif isinstance(node, list):
        for one in node:
            yield from targets(one)


PACKAGE = Path(__file__).parent


def reach(names: Iterable[str]) -> tuple[dict[str, Path], set[str]]:
    """Our modules (name -> file) that importing ``names`` can ever reach, and the other packages they import."""
    ours: dict[str, Path] = {}
    others: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name.split(".")[0] != PACKAGE.name:
            others.add(name.split(".")[0])
        elif (found := _module(name)) and found[0] not in ours:
            ours[found[0]] = found[1]
            queue.append(found[0].rpartition(".")[0] or PACKAGE.name)  # its package's __init__ runs too
            queue += _imported(found[1].read_text(encoding="utf-8"))
    return ours, others


@cache
def _imported(text: str) -> tuple[str, ...]:
    return tuple(imports(ast.parse(text)))


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a syntax tree imports, inside functions too; a public name of ours counts as its home."""
    names = {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module
                yield from (_home(f"{module}.{alias.name}") for alias in node.names)
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in names:
                yield _home(f"{owner}.{name}")


def _home(name: str) -> str:
    """``thinsight.load_model`` lives in ``thinsight.models.loading``; other names are what they say."""
    owner, _, last = name.rpartition(".")
    return f"{owner}.{_HOMES[last]}" if owner == PACKAGE.name and last in _HOMES else name


def _module(name: str) -> tuple[str, Path] | None:
    """The module that a dotted name is, or lies in, and its file."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        base = PACKAGE.joinpath(*parts[1:end])
        for path in (base.with_suffix(".py") if end > 1 else base / "__init__.py", base / "__init__.py"):
            if path.is_file():
                return ".".join(parts[:end]), path
    return None


def meaning(path: Path) -> str:
    """A hash of what the file does: its syntax tree without comments, layout and docstrings."""
    return _meaning(path.read_text(encoding="utf-8"))


@cache
def _meaning(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant(None)
    return hashlib.md5(ast.unparse(tree).encode(), usedforsecurity=False).hexdigest()[:12]
