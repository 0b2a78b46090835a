"""ScienceQA (arXiv:2209.09513): the letter of a choice. There is no protocol ``official``: the authors' run_gpt3.py
draws one of the choices at random where it reads none."""

import re
from collections.abc import Sequence

LLAVA_LETTERS = "ABCDE"
"""The options of LLaVA's script; a reference behind them makes it fail."""

SENTENCE = re.compile(r"The answer is ([A-Z]).")  # any character but a line break has to follow


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The reference, a capital letter, is what `letter_llava` reads
    (haotian-liu/LLaVA, llava/eval/eval_science_qa.py)."""
    return letter_llava(prediction) == answer


def letter_llava(text: str) -> str | None:
    """A letter from A to E alone, or at the head as "B. "; or else behind "The answer is", if that stands there once
    and something follows. None otherwise: "B.", "B\\nbecause", "(B)", two such sentences."""
    if len(text) == 1 or text[1:3] == ". ":
        letter = text[0]
        if letter in LLAVA_LETTERS:
            return letter
    found = SENTENCE.findall(text)
    return found[0] if len(found) == 1 and found[0] in LLAVA_LETTERS else None


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The letter of any choice alone, in any case, or a capital at the head with a period: "b", "B." and "B. the box"
    are B, "The answer is B." is not (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/scienceqa/utils.py)."""
    text, letter = prediction.strip(), answer.strip().lower()
    if text.lower() == letter:
        return True
    return text[:1].isupper() and text[1:2] == "." and text[0].lower() == letter
