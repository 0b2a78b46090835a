"""POPE (arXiv:2305.10355): is a thing in the picture; F1 of the answer yes."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from thinsight.tasks.metrics import Record, Records, group_records, precision_recall_f1

KINDS = ("adversarial", "popular", "random")


def llava(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Yes or no as `first_sentence` reads it (haotian-liu/LLaVA, llava/eval/eval_pope.py)."""
    return first_sentence(prediction) == plain(answer)


def official(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """As `llava`, whose script is this one (RUCAIBox/POPE, evaluate.py)."""
    return llava(prediction, answer)


def lmms_eval(prediction: str, answer: str, answers: Sequence[str] = ()) -> bool:
    """Nothing but yes or no, in any case: "Yes." is wrong
    (EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/pope/utils.py)."""
    return plain(prediction) == plain(answer)


def first_sentence(text: str) -> str:
    """ "no" if one of No, no and not is a word of the text in front of the first period, else "yes"."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def plain(text: str) -> str:
    """The text stripped and in lower case."""
    return text.strip().lower()


def llava_summary(records: Records) -> dict[str, Any]:
    """F1 and the other rates of each kind of question, as the script prints them, and their mean, which papers print.

    A rate that the script divides by zero for is 0 here. ``missing``: kinds without a question, not in the mean.
    """
    kinds = {kind: _rates(group) for kind, group in group_records("kind", records).items()}
    f1 = fmean(rates["f1"] for rates in kinds.values())
    return {
        "f1": f1,
        "yes_rate": _rates(records)["yes_rate"],
        "kinds": kinds,
        "missing": [kind for kind in KINDS if kind not in kinds],
        "printed": {"POPE": 100 * f1},
    }


def official_summary(records: Records) -> dict[str, Any]:
    """As `llava_summary`: POPE's own script scores one kind at a time, too."""
    return llava_summary(records)


def lmms_eval_summary(records: Records) -> dict[str, Any]:
    """F1 over the questions of all kinds at once. What is neither yes nor no is no answer: it lowers neither precision
    nor recall. ``yes_ratio`` is that of the references, as in lmms-eval, ``yes_rate`` that of the answers.
    """
    truth = [plain(r["answer"]) == "yes" for r in records]
    yes, no = ([plain(r["prediction"]) == word for r in records] for word in ("yes", "no"))
    read = [(said, true) for said, other, true in zip(yes, no, truth, strict=True) if said or other]
    rates = precision_recall_f1(*zip(*read, strict=True)) if read else (0.0, 0.0, 0.0)
    kinds = {r["kind"] for r in records}
    missing = [kind for kind in KINDS if kind not in kinds]
    more = {"yes_ratio": fmean(truth), "missing": missing, "printed": {"POPE": 100 * rates[2]}}
    return _summary(records, rates, yes) | more


def _rates(records: Sequence[Record]) -> dict[str, float]:
    yes = [first_sentence(r["prediction"]) == "yes" for r in records]
    truth = [bool(r["correct"]) == said for r, said in zip(records, yes, strict=True)]  # whether yes is right
    return _summary(records, precision_recall_f1(yes, truth), yes)


def _summary(records: Records, rates: tuple[float, float, float], yes: Sequence[bool]) -> dict[str, float]:
    """``rates``: precision, recall, F1; ``yes``: which answers say yes."""
    precision, recall, f1 = rates
    accuracy = fmean(bool(r["correct"]) for r in records)
    return {"f1": f1, "accuracy": accuracy, "precision": precision, "recall": recall, "yes_rate": fmean(yes)}
