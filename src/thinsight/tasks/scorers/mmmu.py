"""MMMU (arXiv:2311.16502): the letter of a choice, or for an open question a short text or a number.

``answers`` holds the texts of the choices A, B, ...; an open question has none. Where both sources draw one of the
choices at random, the answer is worth what that is on average: one over the number of choices.
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence

Number = float
MARKS = ",.!?;:'"
BRACKETS, WORD = "({})", " {} "
FEW_WORDS = 5
"""In a text of more words a choice's text is looked for."""

INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands in front of the answer in a sentence; in the last line also an equals sign."""

NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # with commas
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # in scientific notation
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """The reference is the last letter in brackets, or else among the words, or else the choice whose text stands last
    in a longer answer; of an open question it stands in, or is a number of, what `parts` reads (MMMU-Benchmark/MMMU,
    eval/eval_utils.py)."""
    if not answers:
        return float(_open_right(answer, parts(prediction)))
    return _worth(letter(prediction, _lettered(answers), (BRACKETS, WORD)), answer, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """As `official`, but a letter may also stand at the end of a word, or in front of a period; no answer to an open
    question is right, since what is read of it is compared character by character (EvolvingLMMs-Lab/lmms-eval,
    lmms_eval/tasks/mmmu/utils.py with lmms_eval/tasks/_task_utils/mmmu_mcq_utils.py)."""
    if not answers:
        return 0.0
    return _worth(letter(prediction, _lettered(answers), (BRACKETS, "{} ", "{}.")), answer, answers)


def letter(text: str, choices: Mapping[str, str], forms: Sequence[str]) -> str | None:
    """The choice that ``text`` names in the first of ``forms`` in which any is named, or by its text; of several the
    last (of those not in brackets, the last that is a word, or else the first). None if none is named."""
    for mark in MARKS:
        text = text.strip(mark)
    text = f" {text} "
    for form in forms:
        if named := [choice for choice in choices if form.format(choice) in text]:
            where = BRACKETS if form == BRACKETS else WORD
            return max(named, key=lambda choice: text.rfind(where.format(choice)))
    if len(text.split()) > FEW_WORDS:
        lower = text.lower()
        named = [choice for choice, said in choices.items() if said.lower() in lower]
        return max(named, key=lambda choice: lower.rfind(choices[choice].lower()), default=None)
    return None


def _worth(read: str | None, answer: str, answers: Sequence[str]) -> float:
    return float(read == answer) if read else 1 / len(answers)


def _lettered(choices: Sequence[str]) -> dict[str, str]:
    return dict(zip(string.ascii_uppercase, choices, strict=False))


def parts(text: str) -> set[str | Number]:
    """What an answer to an open question says: the shortest text behind one of `INDICATORS` in each line, or else all
    of it, and the numbers in those, each as `plain`."""
    whole = text.strip().strip(".").lower()
    said = list(_key_parts(whole)) or [whole]
    numbers = [number for part in said for pattern in NUMBERS for number in pattern.findall(part)]
    return {form for part in [*said, *numbers] for form in plain(part)}


def _key_parts(text: str) -> Iterator[str]:
    """The shortest text behind an indicator in each line. The source means to part sentences as well, at a period with
    a capital behind it, but has lowered the case before."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        last = number == len(lines) - 1
        found = [line.split(word)[-1].strip() for word in (*INDICATORS, *("=" * last)) if word in line]
        shortest = ""
        for part in found:  # an empty one gives way to the next
            if not shortest or len(part) < len(shortest):
                shortest = part
        if shortest and shortest not in set(MARKS):
            yield shortest


def plain(text: str) -> list[str | Number]:
    """A number rounded to two places, or the text in lower case; a single letter with a space on either side, so that
    it is not found in a word."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def _open_right(answer: str, said: set[str | Number]) -> bool:
    references = plain(answer)
    texts = [form for form in references if isinstance(form, str)]
    return any(any(form in part for form in texts) if isinstance(part, str) else part in references for part in said)
