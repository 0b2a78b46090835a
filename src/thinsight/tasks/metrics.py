"""How an answer is scored, and what scores add up to: what belongs to no benchmark alone.

A metric takes the prediction (stripped, as `evaluation.answer` gives it), the reference answer and, where a question
has them, several references or the texts of its choices; it returns whether the prediction is right, or how right from
0 to 1, or None of all where nothing here can score them. ``metric`` in conf/task names one: `exact` for pocket's tasks,
and for a benchmark the function of its module in `tasks.scorers` that is called as the task's ``protocol``.

A summary (``summary`` in conf/task, if any) takes the records of a task under one budget and returns what stands as
``summary`` in metrics.json. Its ``printed`` holds the benchmark's number under the name and on the scale that papers
print it: F1 of 100, points out of 2000 or 2800, a share of 100. What belongs together (the two questions to a picture,
the rotations of a question) counts only whole: what was lost in part is left out, and ``left_out`` says how many.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Records = Sequence[Record]


def exact(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Equal but for case, white space and one final period."""
    return normalise(prediction) == normalise(answer)


def unscored(prediction: str, answer: str, answers: Sequence[str] = ()) -> None:
    """Neither right nor wrong: only a server has the answers, or a judge scores them. They go there
    (`tasks.submission`)."""
    return None


def normalise(text: str) -> str:
    """``text`` stripped, in lower case, without one final period, inner white space as single spaces."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def precision_recall_f1(answered_yes: Sequence[bool], truth: Sequence[bool]) -> tuple[float, float, float]:
    """Of the answer yes: whether each question was answered so, and whether that is right. 0 where undefined."""
    hits = sum(a and b for a, b in zip(answered_yes, truth, strict=True))
    precision, recall = hits / max(sum(answered_yes), 1), hits / max(sum(truth), 1)
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def group_records(key: str, records: Records) -> dict[Any, list[Record]]:
    """Value of the field ``key`` -> the records with it, sorted by value."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return dict(sorted(groups.items()))
