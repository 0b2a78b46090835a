"""How an answer is scored, and what the scores of a benchmark add up to.

A metric takes the prediction, the reference answer and all references (where a question has several), and returns
whether the prediction is right, or how right from 0 to 1. ``metric`` in conf/task names one:

exact    equal but for case, white space and a final period: pocket's tasks, and GQA as LLaVA submits it
polar    yes or no as LLaVA's evaluation of POPE reads it: what denies nothing affirms
prefix   yes or no as MME's evaluation reads it, by the first four characters
letter   the letter of a choice as LLaVA's evaluation of ScienceQA reads it
vqa      VQA accuracy: the share of ten people's answers

A summary (``summary`` in conf/task, if any) takes the records of a task under one budget and returns what stands as
``summary`` in metrics.json. Its ``printed`` holds the benchmark's number under the name and on the scale that papers
print it: F1 of 100, points out of 2000 or 2800, a share of 100.

VQA accuracy is that of LLaVA's evaluation of TextVQA, which takes it from Pythia (github.com/facebookresearch/mmf): an
answer that n of the others gave is worth min(n / 3, 1), averaged over leaving out each person once.
"""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def exact(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Whether the two are equal after `normalise`."""
    return normalise(prediction) == normalise(answer)


def polar(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Whether `read_polar` reads the reference in the prediction."""
    return read_polar(prediction) == normalise(answer)


def prefix(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Whether `read_prefix` reads the reference in the prediction."""
    return read_prefix(prediction) == normalise(answer)


def letter(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Whether `read_letter` reads the reference, a capital letter, in the prediction."""
    return read_letter(prediction) == answer


def vqa(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """VQA accuracy of the prediction against the ``answers`` of several people, from 0 to 1; ``answer`` is not used."""
    ours, theirs = normalise_vqa(prediction), [normalise_vqa(text) for text in answers]
    same = theirs.count(ours)
    # leaving out one who gave this answer takes it from the count
    return fmean(min((same - (text == ours)) / 3, 1.0) for text in theirs) if same else 0.0


def normalise(text: str) -> str:
    """``text`` stripped, in lower case, without one final period, inner white space as single spaces."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def read_polar(text: str) -> str:
    """ "no" if the first sentence holds the word no or not, else "yes" (LLaVA, eval_pope.py)."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def read_prefix(text: str) -> str | None:
    """Yes or no if the first four characters hold it; None otherwise (MME's eval_tool, calculation.py)."""
    plain = text.strip().lower().replace(".", "")
    if len(plain) == 1:
        return {"y": "yes", "n": "no"}.get(plain)
    return next((word for word in ("yes", "no") if word in plain[:4]), None)


def read_letter(text: str) -> str | None:
    """The letter alone, at the head as "B. ", or behind "The answer is"; None otherwise (LLaVA, eval_science_qa.py)."""
    plain = text.strip().replace("\n", ". ")
    if match := re.fullmatch(r"[A-E]", plain) or re.match(r"([A-E])\. ", plain):
        return match[0][0]
    if match := re.search(r"The answer is ([A-E])\.", plain) or re.search(r"The answer is ([A-E])", plain):
        return match[1]
    return None


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(n) for n, word in enumerate(DIGITS)}}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'
BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")  # the released pattern means to spare digits on its left as well, but does not

CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Contractions that are written out again when one apostrophe of theirs is missing."""


def _lacking(word: str) -> list[str]:
    """``word`` without each of its apostrophes in turn."""
    return [word[:i] + word[i + 1 :] for i, mark in enumerate(word) if mark == "'"]


WITH_APOSTROPHE = {lacking: word for word in CONTRACTIONS.split() for lacking in _lacking(word)} | {
    "somebody'd": "somebodyd"
}
"""The table of the VQA server; its last entry is an oversight of that table, kept as it stands."""


def normalise_vqa(text: str) -> str:
    """``text`` as the VQA server compares it: lower case, no punctuation and articles, numbers up to ten as digits."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _without_punctuation(" ".join(re.split(r"[\n\t]", text)).strip())
    words = [NUMBERS.get(word, word) for word in text.split()]
    return " ".join(WITH_APOSTROPHE.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, one between letters becomes a space; so do periods that no digit follows."""
    cleaned, grouped = text, BETWEEN_DIGITS.search(text) is not None
    for mark in PUNCTUATION:
        beside = mark + " " in text or " " + mark in text
        cleaned = cleaned.replace(mark, "" if beside or grouped else " ")
    return PERIOD.sub("", cleaned)


Records = Sequence[Mapping[str, Any]]
COGNITION = frozenset({"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"})
"""Categories of MME; all others are perception."""


def pope_summary(records: Records) -> dict[str, Any]:
    """F1 of "yes" (the mean over random, popular and adversarial questions, as LLaVA's table has it), yes rate."""
    kinds = {kind: _yes_no_scores(group) for kind, group in _by("kind", records).items()}
    f1 = fmean(scores["f1"] for scores in kinds.values())
    return {"f1": f1, "yes_rate": _yes_no_scores(records)["yes_rate"], "kinds": kinds, "printed": {"POPE": 100 * f1}}


def mme_summary(records: Records) -> dict[str, Any]:
    """Points: in each category the share of right answers and that of pictures whose questions are all answered
    right, 100 each; perception is the sum of ten categories, cognition of four."""
    kinds = {kind: _picture_scores(group) for kind, group in _by("kind", records).items()}
    points = {kind: 100 * (scores["accuracy"] + scores["accuracy_plus"]) for kind, scores in kinds.items()}
    cognition = sum(n for kind, n in points.items() if kind in COGNITION)
    perception = sum(n for kind, n in points.items() if kind not in COGNITION)
    total = perception + cognition
    printed = {"MME": total, "MME-P": perception, "MME-C": cognition}
    return {"perception": perception, "cognition": cognition, "total": total, "kinds": kinds, "printed": printed}


def mmbench_summary(records: Records) -> dict[str, Any]:
    """Share of questions right in all rotations of their choices, and that of right answers to the first rotation."""
    groups = _by("group", records)
    circular = fmean(all(r["correct"] for r in group) for group in groups.values())
    first = [bool(r["correct"]) for r in records if r["id"] == r["group"]]
    vanilla = fmean(first) if first else None
    return {
        "circular": circular,
        "vanilla": vanilla,
        "questions": len(groups),
        "printed": {"MMBench": 100 * circular},
    }


def precision_recall_f1(answered_yes: Sequence[bool], truth: Sequence[bool]) -> tuple[float, float, float]:
    """Of the answer yes: whether each question was answered so, and whether that is right."""
    hits = sum(a and b for a, b in zip(answered_yes, truth, strict=True))
    precision, recall = hits / max(sum(answered_yes), 1), hits / max(sum(truth), 1)
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def _yes_no_scores(records: Records) -> dict[str, float]:
    yes = [read_polar(r["prediction"]) == "yes" for r in records]
    reference = [
        bool(r["correct"]) == answered_yes for r, answered_yes in zip(records, yes, strict=True)
    ]  # whether it is yes
    precision, recall, f1 = precision_recall_f1(yes, reference)
    return {
        "f1": f1,
        "accuracy": fmean(bool(r["correct"]) for r in records),
        "precision": precision,
        "recall": recall,
        "yes_rate": fmean(yes),
    }


def _picture_scores(records: Records) -> dict[str, float]:
    pictures = _by("group", records).values()
    return {
        "accuracy": fmean(bool(r["correct"]) for r in records),
        "accuracy_plus": fmean(all(r["correct"] for r in group) for group in pictures),
    }


def _by(key: str, records: Records) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return dict(sorted(groups.items()))
