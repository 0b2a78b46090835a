"""Runs that a page reads if they are there: a smaller preset has fewer of them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from thinsight.conventions import CONVENTIONS
from thinsight.results import answers, finished, scores

RESULTS = (
    "run",
    "method",
    "task",
    "budget",
    "accuracy",
    "low",
    "high",
    "n",
    "layer",
    "visual",
    "kept",
    "picture",
    "kv_bytes",
)
ANSWERS = ("run", "task", "budget", "id", "kind", "prediction", "answer", "correct", "generated", "visual_mean")


def perhaps(folder: Path, runs: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`results.scores` and `results.answers` of ``runs``; frames without lines where none of them is finished."""
    if not finished(folder, runs):
        return pd.DataFrame(columns=[*RESULTS, *(c.name for c in CONVENTIONS)]), pd.DataFrame(columns=ANSWERS)
    return scores(folder, runs), answers(folder, runs)
