"""OCRBench (arXiv:2305.07895): one of the references stands in the answer. ``answers`` holds the name of the data set
that a question is from, and then the references."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from thinsight.tasks.metrics import Records, group_records

FORMULAE = "HME100k"
"""The data set of handwritten formulae, where case counts and spaces do not."""

QUESTIONS = 1000
"""How many the benchmark has, a point each."""

WIDE = {0x3000: " ", **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}}
"""Full-width characters of ASCII, and their space, as they are."""


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """A reference stands in the answer: among formulae without spaces, elsewhere in any case
    (Yuliang-Liu/MultimodalOCR, example.py)."""
    return _holds_reference(prediction, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """As `official`, but outside formulae a full-width letter, digit or mark is the plain one
    (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/ocrbench/utils.py)."""
    if answers and answers[0] != FORMULAE:
        prediction, answers = prediction.translate(WIDE), [text.translate(WIDE) for text in answers]
    return _holds_reference(prediction, answers)


def _holds_reference(text: str, answers: Sequence[str]) -> bool:
    plain = _formula if answers and answers[0] == FORMULAE else _words
    return any(plain(reference) in plain(text) for reference in answers[1:])


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _words(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def final_score(records: Records) -> dict[str, Any]:
    """Points of a thousand, which is how many questions there are; ``kinds``: the share of right answers of each."""
    kinds = {kind: fmean(r["correct"] for r in group) for kind, group in group_records("kind", records).items()}
    total = QUESTIONS * fmean(bool(r["correct"]) for r in records)
    return {"points": total, "kinds": kinds, "printed": {"OCRBench": total}}
