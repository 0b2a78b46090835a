"""MMStar (arXiv:2403.20330): the letter of one of four choices; the mean over the parts of six core abilities."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from thinsight.tasks.metrics import Records, group_records
from thinsight.tasks.scorers.mmbench import likeliest_letter


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The reference is what `likeliest_letter` reads (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/mmstar/utils.py with
    lmms_eval/tasks/_task_utils/mcq_extract.py)."""
    return likeliest_letter(prediction, "ABCD") == answer.strip().upper()


def average(records: Records) -> dict[str, Any]:
    """Mean of the shares of right answers of all kinds, whatever the number of questions of each: what lmms-eval calls
    average; ``kinds``: these shares."""
    kinds = {kind: fmean(r["correct"] for r in group) for kind, group in group_records("kind", records).items()}
    mean = fmean(kinds.values())
    return {"average": mean, "kinds": kinds, "printed": {"MMStar": 100 * mean}}
