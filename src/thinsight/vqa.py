"""VQA accuracy: how many of ten people gave the answer, after the normalisation of the benchmark's own server.

As in LLaVA's evaluation of TextVQA, which takes both from Pythia (github.com/facebookresearch/mmf): an answer that n of
the others gave is worth min(n / 3, 1), and this is averaged over leaving out each person once.
"""

import re
from collections.abc import Sequence
from statistics import fmean

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(n) for n, word in enumerate(DIGITS)}}
ARTICLES = frozenset({"a", "an", "the"})
MARKS = ';/[]"{}()=+\\_->@<`,?!'
BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")  # the released pattern means to spare digits on its left as well, but does not

SHORT = """
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


WHOLE = {lacking: word for word in SHORT.split() for lacking in _lacking(word)} | {"somebody'd": "somebodyd"}
"""What the server's table holds; its last entry is an oversight of that table, kept as it stands."""


def plain(text: str) -> str:
    """``text`` as the server compares it: lower case, no punctuation and articles, numbers up to ten as digits."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _unmarked(" ".join(re.split(r"[\n\t]", text)).strip())
    words = [NUMBERS.get(word, word) for word in text.split()]
    return " ".join(WHOLE.get(word, word) for word in words if word not in ARTICLES)


def soft(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy of ``prediction`` against the ``answers`` of several people, from 0 to 1."""
    ours, given = plain(prediction), [plain(answer) for answer in answers]
    same = given.count(ours)
    # leaving out one who gave this answer takes it from the count
    return fmean(min((same - (one == ours)) / 3, 1.0) for one in given) if same else 0.0


def _unmarked(text: str) -> str:
    """A mark beside a space goes, one between letters becomes a space; so do periods that no digit follows."""
    found, grouped = text, BETWEEN_DIGITS.search(text) is not None
    for mark in MARKS:
        beside = mark + " " in text or " " + mark in text
        found = found.replace(mark, "" if beside or grouped else " ")
    return PERIOD.sub("", found)
