"""What a benchmark reports besides the share of right answers: F1, points, questions right in every rotation.

A task whose metric has one gets a ``summary`` in metrics.json. Its ``printed`` holds the benchmark's number under the
name and on the scale that papers print it: F1 of 100, points out of 2000 or 2800, a share of 100.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from thinsight.metrics import polar

Records = Sequence[Mapping[str, Any]]
COGNITION = frozenset({"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"})
"""Categories of MME; all others are perception."""


def summary(metric: str, records: Records) -> dict[str, Any]:
    """``{"summary": ...}`` of the records of one task under one budget; nothing for a metric that needs none."""
    made = {"polar": pope, "prefix": mme, "circular": mmbench}.get(metric)
    return {"summary": made(records)} if made else {}


def pope(records: Records) -> dict[str, Any]:
    """F1 of "yes" (the mean over random, popular and adversarial questions, as LLaVA's table has it), yes rate."""
    kinds = {kind: _polar(group) for kind, group in _by("kind", records).items()}
    f1 = fmean(one["f1"] for one in kinds.values())
    return {"f1": f1, "yes_rate": _polar(records)["yes_rate"], "kinds": kinds, "printed": {"POPE": 100 * f1}}


def mme(records: Records) -> dict[str, Any]:
    """Points: in each category the share of right answers and that of pictures whose questions are all answered
    right, 100 each; perception is the sum of ten categories, cognition of four."""
    kinds = {kind: _pairs(group) for kind, group in _by("kind", records).items()}
    points = {kind: 100 * (one["accuracy"] + one["accuracy_plus"]) for kind, one in kinds.items()}
    cognition = sum(n for kind, n in points.items() if kind in COGNITION)
    perception = sum(n for kind, n in points.items() if kind not in COGNITION)
    both = perception + cognition
    printed = {"MME": both, "MME-P": perception, "MME-C": cognition}
    return {"perception": perception, "cognition": cognition, "total": both, "kinds": kinds, "printed": printed}


def mmbench(records: Records) -> dict[str, Any]:
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


def _polar(records: Records) -> dict[str, float]:
    said = [polar(r["prediction"]) == "yes" for r in records]
    true = [bool(r["correct"]) == yes for r, yes in zip(records, said, strict=True)]  # the reference is yes
    hits = sum(a and b for a, b in zip(said, true, strict=True))
    precision, recall = hits / max(sum(said), 1), hits / max(sum(true), 1)
    return {
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "accuracy": fmean(bool(r["correct"]) for r in records),
        "precision": precision,
        "recall": recall,
        "yes_rate": fmean(said),
    }


def _pairs(records: Records) -> dict[str, float]:
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
