"""RefCOCO (arXiv:1608.00272): the box of the thing that a phrase refers to; whether it overlaps with the true one.

A box is left, top, right and bottom as shares of the picture's width and height. The reference holds one as JSON.
"""

import json
import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from thinsight.tasks.metrics import Records

Box = Sequence[float]
NUMBER = r"\s*(-?\d+(?:\.\d+)?)"
BOX = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\s*\]", re.ASCII)
NOWHERE = (0.0, 0.0, 0.0, 0.0)
"""The box of an answer that holds none."""

OVERLAP = 0.5
"""From which overlap a box is right."""

OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The first four numbers in square brackets are a box that overlaps with the reference by a half or more
    (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/refcoco/utils_rec.py: ACC@0.5)."""
    return overlap(json.loads(answer), box_in(prediction)) >= OVERLAP


def box_in(text: str) -> Box:
    """The first four numbers in square brackets, or `NOWHERE`."""
    found = BOX.search(text)
    return [float(number) for number in found.groups()] if found else NOWHERE


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes share, of the area that they cover; 0 where that is nothing, or not positive.

    A box whose right side is left of its left one has a negative area where the other is as it should be, as in
    lmms-eval, which divides by zero where ours is 0.
    """
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = _area(a) + _area(b) - across * down
    return across * down / both if both > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def boxes(records: Records) -> dict[str, Any]:
    """Mean overlap, the share of boxes that overlap by at least so much, the share whose middle lies in the true box,
    and how many answers hold no box (lmms-eval: IoU, ACC@0.1 to ACC@0.9, Center_ACC)."""
    found = [(json.loads(r["answer"]), box_in(r["prediction"])) for r in records]
    shared = [overlap(true, ours) for true, ours in found]
    return {
        "overlap": fmean(shared),
        "accuracy_at": {str(least): fmean(share >= least for share in shared) for least in OVERLAPS},
        "centre": fmean(_middle_inside(true, ours) for true, ours in found),
        "without_box": sum(ours is NOWHERE for _, ours in found),
        "printed": {"RefCOCO": 100 * fmean(share >= OVERLAP for share in shared)},
    }


def _middle_inside(true: Box, ours: Box) -> bool:
    x, y = (ours[0] + ours[2]) / 2, (ours[1] + ours[3]) / 2
    return true[0] <= x <= true[2] and true[1] <= y <= true[3]
