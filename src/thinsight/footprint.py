"""Printed gigabytes beside what they may mean: bytes held at once, and bytes read and written."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from thinsight.config import load_method
from thinsight.memory import BYTES, peak, traffic
from thinsight.solve import play
from thinsight.verdict import meets

if TYPE_CHECKING:
    from thinsight.catalogue import Entry
    from thinsight.efficiency import Size

WHERE = ["paper", "version", "table", "model", "row"]
GB = 1e9


def footprints(published: pd.DataFrame, sizes: Mapping[str, "Size"], entries: Sequence["Entry"]) -> pd.DataFrame:
    """One line per printed "memory GB" of a model in ``sizes`` (printed name -> its `Size`), in GB of 1e9 bytes.

    Where the table prints the cache too, it is a calculator's: ``tokens`` is read off the cache (keys and values of so
    many in every layer), weights, cache and activations have the printed ``type``, and ``moved`` is
    `thinsight.memory.traffic`, which ``meets`` the printed number to its digits or within 1 %, or does not. Else it was
    measured on some GPU: the method of ``entries`` is played with its count, with the size's own text.
    ``held``: weights, and the most of cache and activations at once, fused; ``eager``: the same with attention maps.
    """
    cache = published[published["column"] == "KV MB"].set_index(WHERE)["value"]
    names = {entry.title.partition(" (")[0]: entry.name for entry in entries}
    out = []
    for _, row in published[published["column"] == "memory GB"].iterrows():
        if row["model"] not in sizes:
            continue
        one = sizes[row["model"]]
        kind = (re.search(r"INT\d|4-bit", row["row"]) or ["FP16"])[0]
        line = {"by": row["paper"], "model": row["model"], "type": kind, "run": row["row"].partition(", ")[0]}
        found = cache.get(tuple(row[WHERE]))
        if found is None:
            lengths, moved = _played(one, names, row), None
        else:
            element = BYTES[kind]
            tokens = round(float(found) * 1e6 / (2 * one.stage.shape.keys * one.stage.shape.layers * element))
            lengths, moved = [tokens] * one.stage.depth, traffic(one.stage.shape, one.heads, tokens, element) / GB
        if lengths is None:
            continue
        line |= {"cache": found or "", "tokens": sum(lengths) / len(lengths), "printed": row["value"]}
        line |= {"held": _held(one, lengths, kind), "eager": _held(one, lengths, kind, "eager"), "moved": moved}
        out.append(line | {"meets": moved is not None and meets(row["value"], moved)})
    table = pd.DataFrame(out)
    order = {name: at for at, name in enumerate(sizes)}
    rank = table["model"].map(order) + 10 * (table["cache"] == "")
    return table.assign(rank=rank).sort_values(["rank", "by"], kind="stable", ignore_index=True).drop(columns="rank")


def _played(one: "Size", names: Mapping[str, str], row: pd.Series) -> list[int] | None:
    """Tokens entering each layer under the method of a printed row, or None if that is not known."""
    if row["method"] == "vanilla":
        visual: Sequence[int] = one.whole
    elif row["method"] in names and row["tokens"]:
        visual = play(load_method(names[row["method"]], keep=int(row["tokens"])), one.stage).visual
    else:
        return None
    return [n + one.stage.text for n in visual]


def _held(one: "Size", lengths: Sequence[int], kind: str, attention: str = "fused") -> float:
    """GB of weights, and of cache and activations; 4-bit weights leave the others in half precision."""
    found: Any = peak(one.stage.shape, one.heads, lengths, attention).at
    weight, scale = sum(one.weights.values()), BYTES.get(kind, 2) / 2
    return (weight * (0.25 if kind == "4-bit" else scale) + found * scale) / GB
