"""SEED-Bench (arXiv:2307.16125): the letter of one of four choices. There is no protocol ``official``: the authors
take the choice that a model finds likeliest, and read no text."""

from collections.abc import Sequence


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The letter and nothing else: "A." is wrong (haotian-liu/LLaVA, scripts/convert_seed_for_submission.py)."""
    return prediction == answer


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The first character is the letter, in any case: "a man" is A (EvolvingLMMs-Lab/lmms-eval,
    lmms_eval/tasks/seedbench/utils.py)."""
    return prediction.strip()[:1].lower() == answer.strip().lower()
