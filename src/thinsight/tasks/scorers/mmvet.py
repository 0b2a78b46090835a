"""MM-Vet (arXiv:2308.02490): a language model scores the answers, which are only written here."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thinsight.tasks.metrics import unscored

if TYPE_CHECKING:
    from thinsight.tasks.submission import Asked


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> None:
    """Not scored: GPT-4 does in yuweihao/MM-Vet, mm-vet_evaluator.ipynb."""
    return unscored(prediction, answer, answers)


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> None:
    """Not scored: as `official`, to which LLaVA hands the answers."""
    return unscored(prediction, answer, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> None:
    """Not scored: a judge does in EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/mmvet/utils.py."""
    return unscored(prediction, answer, answers)


def submission(answers: Mapping[str, str], asked: "Asked") -> str:
    """One mapping from v1_ and a question's number to its answer, as MM-Vet's notebook and server take it
    (haotian-liu/LLaVA, scripts/convert_mmvet_for_eval.py)."""
    named = {f"v1_{key.removeprefix('v1_')}": text for key, text in answers.items()}
    return json.dumps(named, indent=2, ensure_ascii=False)
