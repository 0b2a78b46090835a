"""AI2D (arXiv:1603.07396): the letter of a choice."""

import re
import string
from collections.abc import Sequence

AT_HEAD = re.compile(r"\s*([A-Z])\.")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """A capital letter with a period at the head, or else the letter alone, in any case and with any punctuation: "(b)"
    is B, "B the box" is not (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/ai2d/utils.py, and exact_match of
    lmms_eval/api/metrics.py)."""
    found = AT_HEAD.match(prediction)
    said = found[1] if found else prediction.strip()
    return said.lower().translate(NO_PUNCTUATION) == answer.lower()
