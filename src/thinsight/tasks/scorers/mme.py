"""MME (arXiv:2306.13394): yes or no, two questions to a picture; points for questions and for pictures."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from thinsight.tasks.metrics import Record, Records, group_records

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PAIR = 2
"""Questions to a picture: one to be affirmed, one to be denied."""


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Yes or no as `first_four` reads it in the text as it stands: "n" and "a. no" say nothing
    (BradyFU/Awesome-Multimodal-Large-Language-Models, eval_tool/calculation.py)."""
    return first_four(prediction.lower()) == answer.strip().lower()


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """As `official`, to which LLaVA's script hands the answers (haotian-liu/LLaVA, scripts/v1_5/eval/mme.sh, and
    convert_answer_to_mme.py in its eval.zip). A tab or a line break in an answer, where that fails, is read on."""
    return official(prediction, answer)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """As `first_four` reads the text without its periods, or the letter y or n alone: "n" and "a. no" are no
    (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/mme/utils.py)."""
    text = prediction.lower().strip().replace(".", "")
    said = {"y": "yes", "n": "no"}.get(text) or first_four(text)
    return said == answer.lower().strip().replace(".", "")


def first_four(text: str) -> str | None:
    """Yes or no, whichever is in the first four characters, yes before no; None if neither is."""
    return next((word for word in ("yes", "no") if word in text[:4]), None)


def points(records: Records) -> dict[str, Any]:
    """In each category the share of right answers and that of pictures whose two questions are both answered right,
    100 points each; perception is the sum of ten categories, cognition of four. The same under all protocols.

    Only pictures with both of their questions count (calculation.py and lmms-eval fail on others): ``pairs`` of them,
    ``left_out`` others. ``missing``: categories without one, which lack in the sums. ``total`` is None without pairs.
    """
    pictures = group_records("group", records).values()
    whole = [pair for pair in pictures if len(pair) == PAIR]
    kinds = {
        kind: _shares([pair for pair in whole if pair[0]["kind"] == kind])
        for kind in sorted({pair[0]["kind"] for pair in whole})
    }
    scored = {kind: 100 * (shares["accuracy"] + shares["accuracy_plus"]) for kind, shares in kinds.items()}
    cognition = sum(n for kind, n in scored.items() if kind in COGNITION)
    perception = sum(n for kind, n in scored.items() if kind not in COGNITION)
    total = perception + cognition if whole else None
    return {
        "perception": perception,
        "cognition": cognition,
        "total": total,
        "kinds": kinds,
        "pairs": len(whole),
        "left_out": len(pictures) - len(whole),
        "missing": [kind for kind in (*PERCEPTION, *COGNITION) if kind not in kinds],
        "printed": {"MME": total, "MME-P": perception, "MME-C": cognition} if whole else {},
    }


def _shares(pairs: Sequence[Sequence[Record]]) -> dict[str, float]:
    right = [[bool(r["correct"]) for r in pair] for pair in pairs]
    return {"accuracy": fmean(fmean(pair) for pair in right), "accuracy_plus": fmean(all(pair) for pair in right)}
