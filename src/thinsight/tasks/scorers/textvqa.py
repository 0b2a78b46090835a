"""TextVQA (arXiv:1904.08920): VQA accuracy, the share of ten people's answers.

An answer that n of the other nine gave is worth min(n / 3, 1), averaged over leaving out each person once. The three
protocols compute the same; they differ in the prompt (`tasks.benchmarks.textvqa`), and in that the first two fail on
any other number of answers than ten.
"""

import re
from collections.abc import Sequence
from statistics import fmean

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(n) for n, word in enumerate(DIGITS)}}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'
BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")  # the released pattern means to spare digits on its left as well, but does not
PERIODS = 32  # so many go: the released code passes the flag re.UNICODE, which is 32, where a count is expected

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


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """VQA accuracy (haotian-liu/LLaVA, llava/eval/m4c_evaluator.py, called by eval_textvqa.py)."""
    return _vqa_accuracy(prediction, answers)


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """VQA accuracy (facebookresearch/mmf, mmf/utils/m4c_evaluators.py, which LLaVA copied)."""
    return _vqa_accuracy(prediction, answers)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> float:
    """VQA accuracy (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/textvqa/utils.py with
    lmms_eval/tasks/_task_utils/vqa_eval_metric.py)."""
    return _vqa_accuracy(prediction, answers)


def _vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy of the prediction against several people's answers, from 0 to 1."""
    return share_of_people(normalise(prediction), [normalise(text) for text in answers])


def share_of_people(ours: str, theirs: Sequence[str]) -> float:
    """Mean of min(n / 3, 1) over leaving out one of ``theirs`` each time; n of the others are equal to ``ours``."""
    same = theirs.count(ours)
    # leaving out one who gave this answer takes it from the count
    return fmean(min((same - (text == ours)) / 3, 1.0) for text in theirs) if same else 0.0


def _lacking(word: str) -> list[str]:
    """``word`` without each of its apostrophes in turn."""
    return [word[:i] + word[i + 1 :] for i, mark in enumerate(word) if mark == "'"]


WITH_APOSTROPHE = {lacking: word for word in CONTRACTIONS.split() for lacking in _lacking(word)} | {
    "somebody'd": "somebodyd"
}
"""The table of the VQA server; its last entry is an oversight of that table, kept as it stands."""


def normalise(text: str) -> str:
    """``text`` as those compare it who took the VQA server's code over: without commas and question marks, and then as
    `server_form`."""
    return server_form(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def server_form(text: str) -> str:
    """``text`` as the VQA server compares it: lower case, no punctuation and articles, numbers up to ten as digits."""
    text = _without_punctuation(one_line(text))
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(WITH_APOSTROPHE.get(word, word) for word in words if word not in ARTICLES)


def one_line(text: str) -> str:
    """``text`` stripped, with spaces for its line breaks and tabs."""
    return re.sub(r"[\n\t]", " ", text).strip()


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, one between letters becomes a space; so do periods that no digit follows."""
    cleaned, grouped = text, BETWEEN_DIGITS.search(text) is not None
    for mark in PUNCTUATION:
        beside = mark + " " in text or " " + mark in text
        cleaned = cleaned.replace(mark, "" if beside or grouped else " ")
    return PERIOD.sub("", cleaned, count=PERIODS)
