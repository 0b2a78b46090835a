"""What lies under every patch of a scene: the dense supervision of the vision tower, and pocket's symbolic tokens."""

from dataclasses import dataclass

import torch

from thinsight.pocket.architecture import GRID
from thinsight.pocket.scenes import COLORS, SHAPES, SIZES, Scene

KINDS = (*SHAPES, "sign")
FIELDS = {"color": len(COLORS), "kind": len(KINDS), "size": len(SIZES), "digit": 10, "slot": 3, "last": 2, "center": 2}
NONE = -100  # not labelled: no loss


@dataclass(frozen=True)
class Mark:
    """One informative patch: its place, and the index of each field it carries (`NONE` where it has none)."""

    row: int
    column: int
    color: int
    kind: int
    size: int = NONE
    digit: int = NONE
    slot: int = NONE
    last: int = NONE


def marks(scene: Scene) -> list[Mark]:
    """The patch under each shape's centre, and the patch under each digit of each sign."""
    found = []
    for thing in scene.things:
        row, column = thing.patch
        color, kind = list(COLORS).index(thing.color), KINDS.index(thing.shape)
        if thing.shape != "sign":
            found.append(Mark(row, column, color, kind, size=SIZES.index(thing.size)))
            continue
        for i, digit in enumerate(thing.number):
            last = int(i == len(thing.number) - 1)
            found.append(Mark(row, column + i, color, kind, digit=int(digit), slot=i, last=last))
    return found


def dense(found: list[Mark]) -> dict[str, torch.Tensor]:
    """Field -> (GRID * GRID,) int64 labels. Only marked patches carry fields; `center` says which are marked."""
    out = {name: torch.full((GRID * GRID,), NONE) for name in FIELDS}
    out["center"][:] = 0
    for mark in found:
        place = mark.row * GRID + mark.column
        out["center"][place] = 1
        for name in ("color", "kind", "size", "digit", "slot", "last"):
            out[name][place] = getattr(mark, name)
    return out
