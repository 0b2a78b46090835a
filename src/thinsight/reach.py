"""Which modules of ours some code can reach by its imports, and what each of them means, comments apart."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from thinsight import _HOMES

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


class _Executed(ast.NodeTransformer):
    """The tree without what only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Keep only the ``else`` of ``if TYPE_CHECKING``."""
        self.generic_visit(node)
        return node.orelse if getattr(node.test, "id", "") == "TYPE_CHECKING" else node


def _home(name: str) -> str:
    """``thinsight.load_model`` lives in ``thinsight.models``; other names are what they say."""
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
