"""The same whole model, printed as 99.3 G, 3.23, 3.82 or 8.5 T: which way of counting gives which printed number."""

from dataclasses import replace

import pandas as pd

from thinsight.conventions import CONVENTIONS, Convention
from thinsight.cost import Shape, flops

UNITS = {"TFLOPs": 1e12, "GFLOPs": 1e9}
FEWER = r"INT\d"  # rows of quantised models, whose operations are printed as fewer


def baseline(shape: Shape, visual: int, text: int, convention: Convention) -> int:
    """Operations of the whole model's prefill of ``visual`` and ``text`` tokens."""
    lengths = [visual + text] * shape.layers
    return flops(shape, lengths, convention, visual=[visual] * shape.layers)


def ways(
    printed: str, scale: float, shape: Shape, visual: int, most: int
) -> tuple[list[tuple[Convention, int, int]], float]:
    """The conventions that round to what is ``printed``, each with the least and greatest number of text tokens up to
    ``most`` that does, and 0.0; if none does, the nearest alone, and how far off it is as a share of the number."""
    digits, wanted, near, found = len(printed.partition(".")[2]), float(printed), [], []
    for convention in CONVENTIONS:
        counts = {
            text: baseline(shape, visual, text, convention) / scale
            for text in ([0] if convention.visual_only else range(most + 1))
        }
        met = [text for text, count in counts.items() if round(count, digits) == wanted]
        if met:
            found.append((convention, met[0], met[-1]))
        best = min(counts, key=lambda text, counts=counts: abs(counts[text] - wanted))
        near.append((counts[best] / wanted - 1, convention, best))
    if found:
        return found, 0.0
    off, convention, text = min(near, key=lambda one: abs(one[0]))
    return [(convention, text, text)], off


def baselines(published: pd.DataFrame, model: str, shape: Shape, visual: int, most: int = 128) -> pd.DataFrame:
    """One line per number printed for the whole ``model``, and per convention that gives it with 0 to ``most`` of text.

    value, column, papers, layers (one where the row says so); convention, what it ``counts``, the ``least`` and
    ``greatest`` number of text tokens (none where text does not count), ``off``: 0, or how far the nearest is off where
    no convention rounds to the number; number: the value in operations.
    """
    own = published[(published["model"] == model) & (published["method"] == "vanilla")]
    own = own[own["column"].isin(UNITS) & ~own["row"].str.contains(FEWER)]
    out = []
    for (value, column), part in own.groupby(["value", "column"], sort=False):
        counted = replace(shape, layers=1) if part["row"].str.contains("one layer").all() else shape
        line = {"value": value, "column": column, "papers": ", ".join(dict.fromkeys(part["paper"]))}
        line |= {"layers": counted.layers, "number": float(value) * UNITS[column]}
        found, off = ways(value, UNITS[column], counted, visual, most)
        for way, least, greatest in found:
            texts = dict.fromkeys(("least", "greatest")) if way.visual_only else {"least": least, "greatest": greatest}
            out.append(line | {"convention": way.name, "counts": way.sentence} | texts | {"off": off})
    table = pd.DataFrame(out).astype({"least": "Int64", "greatest": "Int64"})
    return table.sort_values("number", kind="stable", ignore_index=True)
