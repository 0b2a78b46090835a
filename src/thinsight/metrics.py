"""How an answer is scored against the reference: pure functions of texts. What a task's rows add up to besides their
mean stands in `thinsight.summaries`.

exact    equal but for case, white space and a final period: pocket's tasks, and GQA as LLaVA submits it
polar    yes or no as LLaVA's evaluation of POPE reads it: what denies nothing affirms
prefix   yes or no as MME's evaluation reads it, by the first four characters
letter   the letter of a choice as LLaVA's evaluation of ScienceQA reads it
circular the same; MMBench's rotations of a question are summed up together
vqa      the share of ten people's answers, from 0 to 1 (see `thinsight.vqa`)
"""

import re
from collections.abc import Sequence

from thinsight.errors import nearest
from thinsight.vqa import soft

METRICS = ("exact", "polar", "prefix", "letter", "circular", "vqa")


def score(metric: str, prediction: str, answer: str, answers: Sequence[str] = ()) -> bool | float:
    """Whether ``prediction`` is right by the metric that a task names; by ``vqa`` how right, given all ``answers``."""
    if metric not in METRICS:
        raise nearest("metric", metric, METRICS)
    if metric == "vqa":
        return soft(prediction, answers)
    if metric == "polar":
        return polar(prediction) == normalise(answer)
    if metric == "prefix":
        return prefix(prediction) == normalise(answer)
    if metric in ("letter", "circular"):
        return letter(prediction) == answer
    return exact(prediction, answer)


def normalise(text: str) -> str:
    """``text`` stripped, in lower case, without one final period, inner white space as single spaces."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact(prediction: str, answer: str) -> bool:
    """Whether the two are equal after `normalise`."""
    return normalise(prediction) == normalise(answer)


def polar(text: str) -> str:
    """ "no" if the first sentence holds the word no or not, else "yes" (LLaVA, eval_pope.py)."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def prefix(text: str) -> str | None:
    """Yes or no if the first four characters hold it; None otherwise (MME's eval_tool, calculation.py)."""
    plain = text.strip().lower().replace(".", "")
    if len(plain) == 1:
        return {"y": "yes", "n": "no"}.get(plain)
    return next((word for word in ("yes", "no") if word in plain[:4]), None)


def letter(text: str) -> str | None:
    """The letter alone, at the head as "B. ", or behind "The answer is"; None otherwise (LLaVA, eval_science_qa.py)."""
    plain = text.strip().replace("\n", ". ")
    if found := re.fullmatch(r"[A-E]", plain) or re.match(r"([A-E])\. ", plain):
        return found[0][0]
    if found := re.search(r"The answer is ([A-E])\.", plain) or re.search(r"The answer is ([A-E])", plain):
        return found[1]
    return None
