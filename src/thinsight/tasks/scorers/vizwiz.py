"""VizWiz-VQA (arXiv:1802.08218): VQA accuracy, the share of ten people's answers (see `textvqa`). There is no protocol
``official``: the code of VizWiz's server was not read."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thinsight.tasks.scorers import textvqa, vqav2

if TYPE_CHECKING:
    from thinsight.tasks.submission import Asked


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """As VQAv2's server, to which the answer goes in the form of TextVQA's scorer; LLaVA sends the same to VizWiz's
    (haotian-liu/LLaVA, scripts/convert_vizwiz_for_submission.py)."""
    return vqav2.llava(prediction, answer, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """VQA accuracy as TextVQA's (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/vizwiz_vqa/utils.py)."""
    return textvqa.lmms_eval(prediction, answer, answers)


def submission(answers: Mapping[str, str], asked: "Asked") -> str:
    """The file that VizWiz's server takes, the answers in the form in which LLaVA sends them
    (scripts/convert_vizwiz_for_submission.py)."""
    lines = [
        {"image": f"{key.removesuffix('.jpg')}.jpg", "answer": textvqa.normalise(text)} for key, text in answers.items()
    ]
    return json.dumps(lines, ensure_ascii=False)
