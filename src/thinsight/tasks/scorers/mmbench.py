"""MMBench (arXiv:2307.06281): the letter of a choice, every question once for each rotation of its choices.

Where a rule reads no letter, MMBench's server and lmms-eval's main task ask a language model. These are the modes of
the same code without one: ``exact_matching`` of VLMEvalKit, where such an answer is wrong, and lmms-eval's task
mmbench_en_dev_static, which reads on by rule. ``answers`` holds the texts of the choices A, B, ...
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from thinsight.tasks.metrics import Records, group_records

NO_ANSWER = "Z"
"""What VLMEvalKit reads in a refusal: no choice has that letter."""

API_FAILED = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
SENTENCE = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
LAST_WORDS = 4


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The reference is what `letter_official` reads (open-compass/VLMEvalKit, vlmeval/utils/matching_util.py, called
    by vlmeval/dataset/utils/multiple_choice.py, without its language model)."""
    return letter_official(prediction, _lettered(answers)) == answer


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """As `official`: LLaVA hands the text as it stands to MMBench's server (haotian-liu/LLaVA,
    scripts/convert_mmbench_for_submission.py)."""
    return official(prediction, answer, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """The reference is what `letter_alone`, or else the one choice named, or else `likeliest_letter` reads
    (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/mmbench/mmbench_evals.py with eval_method static, and
    lmms_eval/tasks/_task_utils/mcq_extract.py)."""
    choices = _lettered(answers)
    letter = letter_alone(prediction) or one_named(prediction, choices)
    return (letter or likeliest_letter(prediction, list(choices))) == answer


def letter_official(text: str, choices: Mapping[str, str]) -> str | None:
    """The one letter among the words, if it first stands among the last four; or else that in "the answer is B"; or
    else the one choice whose text is in a text not longer than twice all choices. None or "Z" otherwise."""
    if API_FAILED not in text:
        if any(refusal in text for refusal in REFUSALS):
            return NO_ANSWER
        words = text.translate(SPACES).split()
        letters = [letter for letter in choices if letter in words]
        if len(letters) == 1 and words.index(letters[0]) >= len(words) - LAST_WORDS:
            return letters[0]
        if not letters and NO_ANSWER in words:
            return NO_ANSWER
        match = SENTENCE.search(text)
        if match and match[1].upper() in choices:
            return match[1].upper()
    short = len(text.lower()) <= 2 * sum(map(len, choices.values()))
    return one_named(text, choices) if short else None


def one_named(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the choice whose text stands in ``text``, in any case, if it is the only one."""
    named = [letter for letter, choice in choices.items() if choice.lower() in text.lower()]
    return named[0] if len(named) == 1 else None


FORMS = ("{}", "{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")
QUANTIFIED = 3
"""In a text of more words a lone A may be the article."""


def letter_alone(text: str) -> str | None:
    """The letter from A to E that alone of them is a word, first without and then with the marks of `FORMS`."""
    words = [] if API_FAILED in text else text.split()
    for form in FORMS:
        letters = [letter for letter in "ABCDE" if form.format(letter) in words]
        article = form == "{}" and "A" in words and len(words) > QUANTIFIED
        if len(letters) == 1 and not article:
            return letters[0]
    return None


PHRASES = """
the answer is|answer is|the correct answer is|correct answer is|the best answer is|best answer is|my answer is
the correct option is|correct option is|the best option is|best option is
the choice is|choice is|the correct choice is|correct choice is|my choice is|i choose|i select|i pick
옵션|정답은|답은|답:|答案是|答案为|选|答えは
"""
MARKS = ",.!?;:'\""


def likeliest_letter(text: str, letters: Sequence[str]) -> str | None:
    """Of ``letters`` the one in the form that counts most, and in the same form the last: at the start, at the end,
    behind one of `PHRASES`, as (A), A., A:, A), as the end of a word, and where there is none of these anywhere."""
    bare = text.strip()
    for mark in MARKS:
        bare = bare.strip(mark)
    found = list(_candidates(f" {bare} ", letters))
    if not found:
        found = [(0, f" {bare} ".rfind(letter), letter) for letter in letters if letter in bare]
    return max(found, key=lambda candidate: candidate[:2])[2] if found else None


def _candidates(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Weight of a form, place in ``text`` and letter, wherever a letter stands in a form that counts."""
    bare, lower = text.strip(), text.lower()
    phrases = [phrase for phrase in PHRASES.strip().replace("\n", "|").split("|") if phrase in lower]
    for letter in letters:
        for weight, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
            if (place := text.rfind(form.format(letter))) >= 0:
                yield weight, place, letter
        for phrase in phrases:
            if (place := text.find(letter, lower.find(phrase) + len(phrase))) >= 0:
                yield 7, place, letter
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield 10, 0, letter
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            yield 9, len(text) - 1, letter


def _lettered(choices: Sequence[str]) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, choices, strict=False))


def circular(records: Records, name: str = "MMBench") -> dict[str, Any]:
    """Share of questions right in all rotations of their choices, and that of right answers to the first rotation; the
    same under all protocols.

    A question counts if its first rotation and as many as it has choices are there: ``questions`` of them, ``left_out``
    others (VLMEvalKit and lmms-eval would score what is left of those). Both shares are None without questions.
    ``name``: what papers call the benchmark.
    """
    groups = group_records("group", records)
    whole = {key: group for key, group in groups.items() if _is_whole(key, group)}
    share = fmean(all(r["correct"] for r in group) for group in whole.values()) if whole else None
    first = [bool(r["correct"]) for key, group in whole.items() for r in group if r["id"] == key]
    return {
        "circular": share,
        "vanilla": fmean(first) if first else None,
        "questions": len(whole),
        "left_out": len(groups) - len(whole),
        "printed": {name: 100 * share} if whole else {},
    }


def _is_whole(key: str, rotations: Records) -> bool:
    ids = {r["id"] for r in rotations}
    return key in ids and len(ids) >= max(r.get("group_size", 0) for r in rotations)
