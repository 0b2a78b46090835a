"""Each method as filter, correlate and compress.

Filter, correlate and compress are the classes that a method's file composes, in the words of their own docstrings with
the settings that differ from their defaults; site and schedule likewise. Nothing here knows any method by name.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from html import escape
from typing import Any

import pandas as pd

from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry
from thinsight.config.methods import load_method
from thinsight.reduction.method import Reduction
from thinsight.reduction.sites import Features, Projected, RandomDecoder, Vision
from thinsight.report.tables import board

PARTS = ("filter", "correlate", "compress")
LONG = 120  # letters, from which on a sentence ends at its first semicolon


@dataclass(frozen=True)
class Part:
    """One stage: the ``name`` of its class, what that does in a sentence, and its ``settings`` (no defaults)."""

    name: str
    sentence: str
    settings: str = ""


@dataclass(frozen=True)
class MethodParts:
    """One reduction of one method: its ``number`` and their ``count``, its parts, where it acts, and how many leave."""

    method: str
    title: str
    family: str
    number: int
    count: int
    filter: Part
    correlate: Part | None
    compress: Part
    site: str
    schedule: Part


def decomposition(entries: Sequence[MethodEntry]) -> list[MethodParts]:
    """A line for each reduction of each method, in the order of ``entries``."""
    out = []
    for entry in entries:
        reductions = load_method(entry.name).reductions
        for number, reduction in enumerate(reductions, 1):
            stages = {name: describe(getattr(reduction, name)) for name in (*PARTS, "schedule")}
            number_of, site = (number, len(reductions)), place(reduction)
            out.append(MethodParts(entry.name, entry.short, entry.family, *number_of, site=site, **stages))
    return out


def decomposition_table(lines: Sequence[MethodParts]) -> str:
    """The same as a table in HTML, family by family, controls last; settings in italics."""
    families = [*FAMILIES, CONTROL]
    lines = sorted(lines, key=lambda line: families.index(line.family))
    heads = {
        "filter": "filter: who leaves", "correlate": "correlate: where it goes",
        "compress": "compress: what stayers become", "site": "site", "schedule": "schedule: how many",
    }  # fmt: skip
    cells = [{head: _part(getattr(line, name)) for name, head in heads.items()} for line in lines]
    titles = [(line.family, line.title if line.number == 1 else "") for line in lines]
    frame = pd.DataFrame(cells, pd.MultiIndex.from_tuples(titles, names=[None, "method"]))
    notes = [f"{line.number} of {line.count}" if line.count > 1 else "" for line in lines]
    return board(frame, notes=notes, html=True, classes="catalogue")


def _part(part: Part | str | None) -> str:
    """A cell of `decomposition_table`."""
    if part is None:
        return "–<small>nothing of a leaver goes on</small>"
    if isinstance(part, str):
        return escape(part)
    changed = f"<small><em>{escape(part.settings)}</em></small>" if part.settings else ""
    return f"<code>{part.name}</code><small>{escape(part.sentence)}</small>{changed}"


def describe(stage: Any) -> Part | None:
    """The part that an object is, by its class's docstring; None for None."""
    if stage is None:
        return None
    return Part(type(stage).__name__, sentence(stage), ", ".join(f"{k}={v}" for k, v in settings(stage).items()))


def sentence(stage: Any) -> str:
    """The first sentence of what its class says of itself, without marks for code."""
    text = " ".join((inspect.getdoc(type(stage)) or "").split("\n\n")[0].split())
    text = re.sub(r"\s*\([^()]*arXiv[^()]*\)", "", re.sub(r"``(.+?)``", r"“\1”", text)).replace("`", "")
    first = (re.match(r".+?[.:](?=\s+[A-Z(]|\s*$)", text) or re.match(r".*", text))[0]
    return (first.partition("; ")[0] if len(first) > LONG else first).strip().rstrip(":.")


def settings(stage: Any) -> dict[str, str]:
    """The fields of a dataclass that differ from its defaults, nested ones by their class's name and settings."""
    changed = {}
    for field in fields(stage) if is_dataclass(stage) else ():
        value = getattr(stage, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is MISSING or value != default:
            changed[field.name] = _text(value)
    return changed


def place(reduction: Reduction) -> str:
    """Where a reduction acts, in words; layers as its file has them (a fraction is of the depth)."""
    match site := reduction.site:
        case Projected():
            return "before the decoder's first layer"
        case Features():
            return "between vision tower and projector"
        case RandomDecoder():
            return "decoder, before one layer drawn for each sample"
    stack, unit = ("vision tower", "block") if isinstance(site, Vision) else ("decoder", "layer")
    how = "inside" if site.inside else "before"
    if site.layers is None:
        return f"{stack}, {how} every {unit} from {_text(site.start)} on"
    layers = ["half the depth" if layer is None else _text(layer) for layer in site.layers]
    return f"{stack}, {how} {unit}{'s' if len(layers) > 1 else ''} {', '.join(layers)}"


def _text(value: Any) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{k}={v}" for k, v in settings(value).items())
        return f"{type(value).__name__}({inner})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_text, value))
        return f"({inner})" if len(inner) <= LONG // 3 else "(…)"
    return str(value)
