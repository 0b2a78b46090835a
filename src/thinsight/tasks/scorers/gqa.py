"""GQA (arXiv:1902.09506): one word or a short phrase, equal to the reference or not."""

import string
from collections.abc import Sequence

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Equal to the reference once every final period is gone and the case lowered, nothing else: "No..." is no, "No ."
    is not (haotian-liu/LLaVA, scripts/convert_gqa_for_eval.py, and then `official`)."""
    return official(prediction.rstrip(".").lower(), answer)


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Equal to the reference, character by character (GQA's own eval.py, cs.stanford.edu/people/dorarad/gqa)."""
    return prediction == answer


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Equal without case and without any of ASCII's 32 punctuation marks (EvolvingLMMs-Lab/lmms-eval,
    lmms_eval/tasks/gqa/gqa.yaml: exact_match of lmms_eval/api/metrics.py with ignore_case and ignore_punctuation)."""
    return _bare(prediction.strip()) == _bare(answer)


def _bare(text: str) -> str:
    return text.lower().translate(NO_PUNCTUATION)
