"""Readers of POPE, GQA, TextVQA, ScienceQA, MMBench and MME: one line of the data set -> one question.

A reader takes the line's number, its columns but the picture, and the task; it returns the fields of a
`tasks.rows.Row` but the picture. The columns that must be there, and what they hold, stand as ``columns`` in conf/task.

The data sets are those of lmms-lab on the hub; the questions are worded as in LLaVA's own question files
(github.com/haotian-liu/LLaVA, docs/Evaluation.md), the last line of a prompt being ``suffix`` in conf/task. What is
scored together (the two questions of a picture, the rotations of a choice) shares a ``group``.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from omegaconf import DictConfig

Record = Mapping[str, Any]
LETTERS = "ABCDEFGH"
ROTATION = 10**6
"""MMBench numbers the rotations of question n as n, 1000000 + n, 2000000 + n, ..."""


def pope(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Is a thing in the picture; the kinds are random, popular and adversarial. A question's number is its kind's."""
    key = f"{record['category']}-{record['question_id']}"
    return _fields(key, record["question"], record["answer"], record["category"])


def gqa(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """A short answer; the kinds are the structures of questions: verify, query, choose, logical, compare."""
    kinds = record["types"]
    kind = kinds.get("structural") if isinstance(kinds, Mapping) else None
    return _fields(record["id"], record["question"], record["answer"], kind or "all")


def textvqa(number: int, record: Record, task: DictConfig, ocr: bool = True) -> dict[str, Any]:
    """Ten people's answers. ``ocr``: append the words that OCR found in the picture, as LLaVA's file does."""
    question = record["question"].strip()
    question = question[:1].upper() + question[1:]  # as LLaVA's file has it; the data set begins in lower case
    if ocr:
        question += f"\nReference OCR token: {', '.join(record['ocr_tokens'])}"
    answers = tuple(record["answers"])
    most = max(answers, key=answers.count, default="")
    return _fields(record["question_id"], question, most, "all") | {"answers": answers}


def scienceqa(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """The hint as context, the question, lettered choices. The data set has no ids: a row's number is one."""
    context = [f"Context: {record['hint']}"] if record["hint"] else []
    choices = record["choices"]
    question = "\n".join([*context, record["question"], *_lettered(choices)])
    answer = LETTERS[record["answer"]] if 0 <= record["answer"] < len(choices) else ""
    return _fields(f"{task.split}-{number:05d}", question, answer, record["subject"] or "all")


def mmbench(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """The hint, the question, up to four lettered choices. A question stands there once for each rotation of them."""
    hint = [] if _none(record["hint"]) else [record["hint"]]
    choices = list(takewhile(lambda choice: not _none(choice), (record[letter] for letter in "ABCD")))
    question = "\n".join([*hint, record["question"], *_lettered(choices)])
    group = str(int(record["index"]) % ROTATION)
    return _fields(record["index"], question, record["answer"], record["category"]) | {"group": group}


def mme(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Two questions to a picture, one to be affirmed and one to be denied; LLaVA leaves the last sentence out."""
    question = record["question"].replace("Please answer yes or no.", "").strip()
    group = "/".join([record["category"], record["question_id"].rpartition("/")[2]])
    return _fields(group, question, record["answer"], record["category"]) | {"group": group}


def _fields(key: object, question: str, answer: str, kind: str) -> dict[str, Any]:
    return {"id": str(key), "question": question, "answer": answer, "kind": kind}


def _lettered(choices: Sequence[str]) -> list[str]:
    return [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]


def _none(value: object) -> bool:
    """Whether a cell of MMBench is empty: its tables came through pandas, which wrote that as a word."""
    return value is None or str(value).lower() in ("nan", "none", "")
