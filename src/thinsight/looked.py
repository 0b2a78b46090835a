"""What methods look at to choose: attention rows, not maps. Bytes of what they ask for beside those of whole maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from thinsight.catalogue import Entry
    from thinsight.efficiency import Size

ROWS = {
    "fastv": ("decoder", "one"),
    "pyramiddrop": ("decoder", "one"),
    "sparsevlm": ("decoder", "question"),
    "sparsevlm_v2": ("decoder", "question"),
    "mustdrop": ("decoder", "question"),
    "ficoco_l": ("decoder", "all"),
    "ficoco_vl": ("decoder", "all"),
    "fastervlm": ("tower", "one"),
    "visionzip": ("tower", "one"),
    "vispruner": ("tower", "one"),
    "evit": ("tower", "one"),
    "ficoco_v": ("tower", "all"),
}
"""Methods that look at attention: where, and the most rows that they ask one layer for at a time: that of the last or
the class token, those of the question (SparseVLM: of its raters, at most), or those of all visual tokens."""

SAYS = {"one": "one row", "question": "the question's rows", "all": "all visual rows"}


@dataclass(frozen=True)
class Maps:
    """Bytes at one prompt length, in the decoder: one ``row``, the ``question``'s rows and all ``visual`` ones in
    float32, as they are asked for here; one layer's ``map`` in half precision, its ``workspace`` while eager attention
    makes it, and all layers' maps if they are ``kept``."""

    tokens: int
    row: int
    question: int
    visual: int
    map: int
    workspace: int
    kept: int


def maps(one: "Size") -> Maps:
    """`Maps` of a model's whole prompt."""
    n = one.stage.total + one.stage.text
    cells = one.heads * n * n
    row = 4 * one.heads * n
    asked = (row, row * (one.stage.text // 2), row * one.stage.total)
    return Maps(n, *asked, 2 * cells, 10 * cells, 2 * cells * one.stage.depth)


def looked(one: "Size", entries: Sequence["Entry"], heads: int = 16) -> pd.DataFrame:
    """One line per method that looks at attention: where, rows, the bytes of the largest question it puts to one layer,
    and their share of that layer's whole map in half precision.

    ``heads``: of the tower. Half of the text stands behind the picture, the question.
    """
    out = []
    for entry in entries:
        if entry.name not in ROWS or (ROWS[entry.name][0] == "tower" and one.tower is None):
            continue
        where, kind = ROWS[entry.name]
        patches = one.stage.total // one.tiles
        visual, columns, each = (patches, patches + 1, heads) if where == "tower" else (
            one.stage.total, one.stage.total + one.stage.text, one.heads)  # fmt: skip
        rows = {"one": 1, "question": one.stage.text // 2, "all": visual}[kind]
        found = 4 * each * rows * columns
        line = {"method": entry.name, "title": entry.title, "where": where, "rows": SAYS[kind], "cost": entry.cost}
        out.append(line | {"bytes": found, "share": found / (2 * each * columns**2)})
    return pd.DataFrame(out)
