"""Readers of benchmarks: one line of the data set -> one question.

A reader takes the line's number, its columns but the pictures, and the task; it returns the fields of a
`tasks.rows.Row` but the pictures, or their list where a line holds several questions, or None where it is not asked.
The columns that must be there, and what they hold, stand as ``columns`` in conf/task.

The data sets are those on the hub that lmms-eval reads. The questions are worded as in LLaVA's own question files
(github.com/haotian-liu/LLaVA, docs/Evaluation.md), or where the task's ``protocol`` is lmms_eval as in lmms-eval's
``doc_to_text``; the last line of a prompt is ``suffix`` in conf/task. What is scored together (the two questions of a
picture, the rotations of a choice) shares a ``group``. A line on which the code of the protocol itself fails is a
`UserError` that names the row.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from string import ascii_uppercase
from typing import Any

from omegaconf import DictConfig

from thinsight.errors import UserError
from thinsight.tasks.functions import function_name
from thinsight.tasks.metrics import unscored
from thinsight.tasks.scorers.mme import PAIR
from thinsight.tasks.scorers.scienceqa import LLAVA_LETTERS

Record = Mapping[str, Any]
LMMS_EVAL = "lmms_eval"
"""The protocol that words some questions in its own way; all others ask as LLaVA does."""

PEOPLE = 10
"""How many people answered a question of TextVQA."""

NOT_PUBLIC = "not public"
"""The reference of a question to which only a server has the answers."""

ROTATION = 10**6
"""MMBench numbers the rotations of question n as n, 1000000 + n, 2000000 + n, ..."""


def pope(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Is a thing in the picture; the kinds are random, popular and adversarial. A question's number is its kind's."""
    key = f"{record['category']}-{record['question_id']}"
    question = record["question"].strip() if task.protocol == LMMS_EVAL else record["question"]
    return _fields(key, question, _yes_or_no(key, record, task), record["category"])


def gqa(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """A short answer; the kinds are the structures of questions: verify, query, choose, logical, compare."""
    kinds = record["types"]
    kind = kinds.get("structural") if isinstance(kinds, Mapping) else None
    return _fields(record["id"], record["question"], record["answer"], kind or "all")


def textvqa(number: int, record: Record, task: DictConfig, ocr: bool = True) -> dict[str, Any]:
    """Ten people's answers. ``ocr``: append the words that OCR found in the picture, as LLaVA's file does.

    The data set's questions begin in lower case: LLaVA's file writes the first letter large, lmms-eval also all others
    small.
    """
    question = record["question"].strip()
    question = question[:1].upper() + question[1:]
    if task.protocol == LMMS_EVAL:
        question = record["question"].capitalize()
    if ocr:
        question += f"\nReference OCR token: {', '.join(record['ocr_tokens'])}"
    answers = tuple(record["answers"])
    if len(answers) != PEOPLE and task.protocol != LMMS_EVAL:
        raise _refused(
            record["question_id"], task, f"has {len(answers)} answers where {PEOPLE} people were asked", LMMS_EVAL
        )
    return _fields(record["question_id"], question, _commonest(answers), "all") | {"answers": answers}


def vqav2(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Ten people's answers; the kinds are what they are about: yes/no, number, other."""
    key = record["question_id"]
    answers = tuple(said["answer"] for said in record["answers"] or _not_public(key, task))
    most = record["multiple_choice_answer"] if answers else NOT_PUBLIC
    return _fields(key, record["question"], most, record["answer_type"]) | {"answers": answers}


def vizwiz(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Ten people's answers to a blind person's question; the kinds are yes/no, number, other and unanswerable.
    lmms-eval writes the first letter large and all others small."""
    question = record["question"].capitalize() if task.protocol == LMMS_EVAL else record["question"]
    answers = tuple(record["answers"] or _not_public(record["question_id"], task))
    most = _commonest(answers) if answers else NOT_PUBLIC
    return _fields(record["question_id"], question, most, record["category"]) | {"answers": answers}


def scienceqa(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """The hint as context, the question, lettered choices. The data set has no ids: a row's number is one."""
    key = f"{task.split}-{number:05d}"
    context = [f"Context: {record['hint']}"] if record["hint"] else []
    choices, right = record["choices"], record["answer"]
    if len(choices) > len(ascii_uppercase):
        raise _refused(key, task, f"has {len(choices)} choices, more than there are letters")
    if len(LLAVA_LETTERS) <= right < len(choices) and task.protocol != LMMS_EVAL:
        raise _refused(key, task, f"has the answer {ascii_uppercase[right]}, behind the letters A to E", LMMS_EVAL)
    question = "\n".join([*context, record["question"], *_lettered(choices)])
    answer = ascii_uppercase[right] if 0 <= right < len(choices) else ""
    return _fields(key, question, answer, record["subject"] or "all")


def mmbench(
    number: int, record: Record, task: DictConfig, several: str = "There are several options:"
) -> dict[str, Any]:
    """The hint, the question, up to four lettered choices, whose texts are the ``answers``. A question stands there
    once for each rotation of its choices. lmms-eval sets its own sentence, ``several``, in front of the choices, and a
    blank line behind; it takes the word that stands in an empty cell for the text of a choice when it scores, though
    not when it asks."""
    cells = [record[letter] for letter in "ABCD"]
    choices = list(takewhile(lambda choice: not _none(choice), cells))
    hint = [] if _none(record["hint"]) else [record["hint"]]
    question, answers = "\n".join([*hint, record["question"], *_lettered(choices)]), choices
    if task.protocol == LMMS_EVAL:
        options = "\n".join([several, *_lettered(choices)])
        question, answers = " ".join([*hint, record["question"], options]) + "\n", [c for c in cells if c is not None]
    group = str(int(record["index"]) % ROTATION)
    fields = _fields(record["index"], question, record["answer"], record["category"])
    return fields | {"answers": tuple(map(str, answers)), "group": group, "group_size": len(choices)}


def mme(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Two questions to a picture, one to be affirmed and one to be denied; LLaVA and lmms-eval leave the last sentence
    out, the latter with one space in front of it."""
    question = record["question"].replace("Please answer yes or no.", "").strip()
    if task.protocol == LMMS_EVAL:
        question = record["question"].strip().replace(" Please answer yes or no.", "")
    group = "/".join([record["category"], record["question_id"].rpartition("/")[2]])
    fields = _fields(group, question, _yes_or_no(group, record, task), record["category"])
    return fields | {"group": group, "group_size": PAIR}


def mmmu(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """A question of a subject, which is its kind, with lettered choices, whose texts are the ``answers``, or an open
    one without. It names its pictures as <image 1> to <image 7>; they stand in front of it, in this order."""
    multiple = record["question_type"] == "multiple-choice"
    choices = ast.literal_eval(record["options"]) if multiple else []
    question = "\n".join([record["question"], *_lettered(choices)])
    pictures = sorted({f"image_{number}" for number in re.findall(r"<image (\d+)>", question)})
    asked = "Answer with the option's letter from the given choices directly."
    question += f"\n\n{asked if multiple else 'Answer the question using a single word or phrase.'}"
    subject = record["id"].partition("_")[2].rpartition("_")[0]
    fields = _fields(record["id"], question, record["answer"], subject)
    return fields | {"answers": tuple(map(str, choices)), "pictures": pictures or ["image_1"]}


def seed(number: int, record: Record, task: DictConfig, about: str = "image") -> dict[str, Any] | None:
    """Four lettered choices on one picture; the kinds are the numbers of SEED-Bench's dimensions. ``about``: the part
    that is asked; the lines of the other one hold several frames of a video."""
    if record["data_type"] != about:
        return None
    question = "\n".join([record["question"], *_lettered([record[f"choice_{letter}"] for letter in "abcd"])])
    return _fields(record["question_id"], question, record["answer"], f"dimension {record['question_type_id']}")


def mmstar(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """The question holds its choices; the kinds are the core abilities and their parts, eighteen in all."""
    kind = f"{record['category']}: {record['l2_category']}"
    return _fields(record["index"], record["question"].strip(), record["answer"], kind)


def ai2d(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """Lettered choices on a diagram; the reference is the number of one. The data set has no ids: a row's number is
    one."""
    key, choices, right = f"{task.split}-{number:05d}", record["options"], record["answer"]
    if right not in map(str, range(min(len(choices), len(ascii_uppercase)))):
        raise _refused(key, task, f"has the answer {right!r}, which is not the number of a choice")
    question = "\n".join([record["question"], *_lettered(choices)])
    return _fields(key, question, ascii_uppercase[int(right)], "all")


def ocrbench(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """The ``answers`` are the name of the data set that the question is from, by which it is scored, and then its
    references; the kinds are the ten sorts of questions. The data set has no ids: a row's number is one."""
    references = record["answer"]
    first = next(filter(str.strip, references), "")
    fields = _fields(f"{task.split}-{number:05d}", record["question"].strip(), first, record["question_type"])
    return fields | {"answers": (record["dataset"], *references)}


def refcoco(number: int, record: Record, task: DictConfig) -> list[dict[str, Any]]:
    """One question for each phrase that people found for a region. The reference is the region's box, left, top, right
    and bottom as shares of the picture's width and height. A row's number and the phrase's are its id."""
    asked = (
        "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y)."
        " All values are floating point numbers bounded between 0 and 1. Please provide the bounding box coordinate of"
        " the region this sentence describes: "
    )
    (width, height), (left, top, across, down) = record["size"](), record["bbox"]
    box = json.dumps([left / width, top / height, (left + across) / width, (top + down) / height])
    return [
        _fields(f"{task.split}-{number:05d}-{phrase}", asked + said, box, "all")
        for phrase, said in enumerate(record["answer"])
    ]


def mmvet(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """An open question; the kinds are the skills that it needs. lmms-eval asks to reason first."""
    reason = "First please perform reasoning, and think step by step to provide best answer to the following question: "
    question = f"{reason}\n\n{record['question']}" if task.protocol == LMMS_EVAL else record["question"]
    return _fields(record["question_id"], question, record["answer"], record["capability"])


def llava_w(number: int, record: Record, task: DictConfig) -> dict[str, Any]:
    """An open question; the reference is GPT-4's answer, which saw captions; the kinds are conv, detail and complex."""
    return _fields(record["question_id"], record["question"], record["gpt_answer"], record["category"])


def _fields(key: object, question: str, answer: str, kind: str) -> dict[str, Any]:
    return {"id": str(key), "question": question, "answer": answer, "kind": kind}


def _not_public(key: object, task: DictConfig) -> tuple[()]:
    """The answers to a question to which only a server has them; refused where they are to be scored."""
    if function_name(task.metric) != unscored.__name__:
        raise UserError(
            f"row {key} of task {task.name} has no answers, so that only its server can score it: "
            f"task.metric={unscored.__name__} asks it all the same."
        )
    return ()


def _commonest(answers: Sequence[str]) -> str:
    """The answer that most people gave, of those that are not blank."""
    return max(filter(str.strip, answers), key=answers.count, default="")


def _yes_or_no(key: str, record: Record, task: DictConfig) -> str:
    """The reference, which is yes or no in any case; one that is missing is found with those of all tasks."""
    answer = record["answer"]
    if (answer or "").strip().lower() not in ("yes", "no", ""):
        raise _refused(key, task, f"has the answer {answer!r}, which is neither yes nor no")
    return answer


def _refused(key: object, task: DictConfig, what: str, instead: str = "") -> UserError:
    """The error for a line that the protocol's own code cannot score; ``instead``: a protocol that can."""
    protocol = f" under the protocol {task.protocol}" if task.protocol else ""
    hint = f"; task.protocol={instead} takes it" if instead else ""
    return UserError(f"row {key} of task {task.name} {what}, and cannot be scored{protocol}{hint}.")


def _lettered(choices: Sequence[str]) -> list[str]:
    return [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]


def _none(value: object) -> bool:
    """Whether a cell of MMBench is empty: its tables came through pandas, which wrote that as a word."""
    return value is None or str(value).lower() in ("nan", "none", "")
