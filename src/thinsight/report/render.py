"""Templates filled: the files of ``templates/`` and the papers' findings, and how numbers are written in them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
PAPERS = Path(__file__).parents[1] / "papers"  # whose folders hold the templates of their findings


def render(template: str, **values: Any) -> str:
    """A file of ``templates/`` or of the papers (``par/finding.md.j2``), filled; ``.html.j2`` escapes."""
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, PAPERS]),
        undefined=StrictUndefined,
        autoescape=lambda name: bool(name and name.endswith(".html.j2")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"join_and": join_and, "percent": percent, "points": points, "literal": _literal}
    return environment.get_template(template).render(values)


def finding(template: str, facts: Mapping[str, Any]) -> str:
    """Markdown of a ``.md.j2`` template over a page's facts; a paragraph ends at an empty line, and may be empty."""
    paragraphs = re.split(r"\n\s*\n", render(template, **facts))
    return "\n\n".join(filter(None, (" ".join(paragraph.split()) for paragraph in paragraphs)))


def join_and(parts: Sequence[Any]) -> str:
    """``a, b and c``."""
    *first, last = map(str, parts)
    return f"{', '.join(first)} and {last}" if first else last


def percent(share: float, digits: int = 0) -> str:
    """A share as ``83%``."""
    return f"{share:.{digits}%}"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares in percentage points with its sign: ``+1.5``, ``−0.3``."""
    return signed(100 * difference, digits)


def signed(value: float, digits: int = 0) -> str:
    """With its sign, which nothing has none of: ``+3``, ``−12``, ``0``."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def _literal(value: Any) -> str:
    """A field's value as its file has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
