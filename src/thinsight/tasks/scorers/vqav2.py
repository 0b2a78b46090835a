"""VQAv2 (arXiv:1612.00837): VQA accuracy, the share of ten people's answers (see `textvqa`)."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thinsight.tasks.scorers.textvqa import normalise, one_line, server_form, share_of_people

if TYPE_CHECKING:
    from thinsight.tasks.submission import Asked


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """VQA accuracy, by which the server scores: words are brought to one form only if people differ, so that "No" is
    wrong where all ten said "no" (GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py)."""
    ours, theirs = one_line(prediction), [one_line(text) for text in answers]
    if len(set(theirs)) > 1:
        ours, theirs = server_form(ours), [server_form(text) for text in theirs]
    return share_of_people(ours, theirs)


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """As `official`, to whose server LLaVA sends answers in the form of TextVQA's scorer: "No." is right where all said
    "no" (haotian-liu/LLaVA, scripts/convert_vqav2_for_submission.py)."""
    return official(normalise(prediction), answer, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """As `official`, the words brought to one form always (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/vqav2/utils.py
    with lmms_eval/tasks/_task_utils/vqa_eval_metric.py)."""
    return share_of_people(server_form(prediction), [server_form(text) for text in answers])


def submission(answers: Mapping[str, str], asked: "Asked") -> str:
    """The file that VQA's server takes, the answers in the form in which LLaVA sends them
    (scripts/convert_vqav2_for_submission.py)."""
    lines = [{"question_id": int(key), "answer": normalise(text)} for key, text in answers.items()]
    return json.dumps(lines, ensure_ascii=False)
