"""Each method as filter, correlate and compress.

Filter, correlate and compress are the classes that a method's file composes, in the words of their own docstrings with
the settings that differ from their defaults; site and schedule likewise. Nothing here knows any method by name.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry
from thinsight.config.methods import load_method
from thinsight.reduction.method import Reduction
from thinsight.reduction.sites import Decoder, Features, Projected, RandomDecoder, Vision
from thinsight.report.tables import render

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
    """One reduction of one method: its number ``of`` how many, its parts, where it acts, and how many leave."""

    method: str
    title: str
    family: str
    number: int
    of: int
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
            title = entry.title.partition(" (")[0]
            own = {"number": number, "of": len(reductions), "site": place(reduction)}
            out.append(MethodParts(entry.name, title, entry.family, **own, **stages))
    return out


def decomposition_html(lines: Sequence[MethodParts]) -> str:
    """The same as a table in HTML, family by family, controls last."""
    return render("paradigm.html.j2", lines=lines, order=[*FAMILIES, CONTROL])


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
    found = {}
    for one in fields(stage) if is_dataclass(stage) else ():
        value = getattr(stage, one.name)
        usual = one.default_factory() if one.default_factory is not MISSING else one.default
        if usual is MISSING or value != usual:
            found[one.name] = _said(value)
    return found


def place(reduction: Reduction) -> str:
    """Where a reduction acts, in words; layers as its file has them (a fraction is of the depth)."""
    site = reduction.site
    match site:
        case Projected():
            return "before the decoder's first layer"
        case Features():
            return "between vision tower and projector"
        case RandomDecoder():
            return "decoder, before one layer drawn for each sample"
        case Vision():
            stack, unit = "vision tower", "block"
        case Decoder():
            stack, unit = "decoder", "layer"
    how = "inside" if site.inside else "before"
    if site.layers is None:
        return f"{stack}, {how} every {unit} from {_said(site.start)} on"
    layers = ["half the depth" if layer is None else _said(layer) for layer in site.layers]
    return f"{stack}, {how} {unit}{'s' if len(layers) > 1 else ''} {', '.join(layers)}"


def _said(value: Any) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{k}={v}" for k, v in settings(value).items())
        return f"{type(value).__name__}({inner})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_said, value))
        return f"({inner})" if len(inner) <= LONG // 3 else "(…)"
    return str(value)
