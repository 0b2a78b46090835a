"""LLaVA-Bench in the wild (arXiv:2304.08485): a language model scores the answers, which are only written here."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thinsight.errors import UserError
from thinsight.tasks.metrics import unscored

if TYPE_CHECKING:
    from thinsight.tasks.submission import Asked

SUBMISSION = "jsonl"
"""How the name of the judge's file ends."""


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> None:
    """Not scored: GPT-4 does in haotian-liu/LLaVA, llava/eval/eval_gpt_review_bench.py."""
    return unscored(prediction, answer, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> None:
    """Not scored: a judge does in EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/llava-in-the-wild/utils.py."""
    return unscored(prediction, answer, answers)


def submission(answers: Mapping[str, str], asked: "Asked") -> str:
    """A line for each question in the order of their numbers (haotian-liu/LLaVA, llava/eval/model_vqa.py).

    Its judge's script reads the answers beside the questions line by line, so that one which lacks a line would be
    judged by other questions: a run that did not ask all is a `UserError`. An answer's id is a hash of it here.
    """
    if lacking := asked.questions.keys() - answers.keys():
        raise UserError(
            f"the run lacks {len(lacking)} of {len(asked.questions)} questions of {asked.task}, and its judge's script "
            "reads answers and questions line by line: ask all of them, limit=null."
        )
    lines = [
        {
            "question_id": int(key),
            "prompt": asked.questions[key],
            "text": answers[key],
            "answer_id": hashlib.sha256(f"{key}\n{answers[key]}".encode()).hexdigest()[:22],
            "model_id": asked.model,
            "metadata": {},
        }
        for key in sorted(answers, key=int)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
