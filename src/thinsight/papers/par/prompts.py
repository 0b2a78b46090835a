"""Whether a method's choice depends on the prompt: another question's choice, and several questions on one picture."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from thinsight.analysis.prompt_awareness import prompt_swaps, swap_summary
from thinsight.models.loading import load_model
from thinsight.papers.par.calibration_set import TASKS
from thinsight.reduction.method import Method
from thinsight.report.overlay import gallery
from thinsight.tasks.rows import training_rows

QUESTIONS = (
    "What number is on the sign?",
    "Is there a red ring in the image?",
    "What color is the triangle?",
    "Is the green circle above or below the brown circle?",
    "How many circles are there?",
    "What size is the cross?",
)

MANY = 20
"""Rows of another task among which different questions are looked for."""


def swap_table(model: str, methods: Mapping[str, Method], questions: int, asked: Collection[str]) -> pd.DataFrame:
    """`analysis.prompt_awareness.swap_summary` of each of ``methods`` (title -> method, which goes to the column
    ``method``), on that many training questions of each of `TASKS` if they are among the tasks
    ``asked``, else of each of these whose training questions do not all read alike."""
    tasks = TASKS if {*asked} >= {*TASKS} else asked
    loaded, rows = load_model(model), training_rows(tasks, questions)
    rows = {task: of_task for task, of_task in rows.items() if len({row.question for row in of_task}) > 1}
    swaps = prompt_swaps(*loaded, methods, rows)
    return pd.DataFrame([{"method": title, **swap_summary(swap)} for title, swap in swaps.items()])


def questions_on(explorer: Any, task: str) -> list[str]:
    """`QUESTIONS` if ``task`` is one that they are about; else as many different ones of its first questions.

    ``explorer``: a `thinsight.explore.Explorer`.
    """
    if task in TASKS:
        return list(QUESTIONS)
    return list(dict.fromkeys(row.question for row in explorer.rows(task, MANY)))[: len(QUESTIONS)]


def questions_figure(shown: Sequence[Any]) -> Figure:
    """What a method keeps of one picture under several questions, and what the model answers: ``shown`` are what
    `thinsight.explore.Explorer.show` returns for each of them."""
    traces = {f"{view.question} → {view.answer}\n{len(view.trace.kept[0])} tokens": view.trace for view in shown}
    return gallery(shown[0].pixels, traces, columns=4)
