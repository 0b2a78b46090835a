"""Whether a method's choice depends on the prompt: another question's choice, and several questions on one picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from thinsight.analysis.prompt_awareness import prompt_swap, prompt_swap_table
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


def prompt_swaps(model: str, methods: Mapping[str, Method], questions: int) -> pd.DataFrame:
    """`analysis.prompt_awareness.prompt_swap_table` of ``methods`` (title -> method), on that many training questions
    of each task."""
    network, processor = load_model(model)
    rows = training_rows(TASKS, questions)
    return prompt_swap_table({title: prompt_swap(network, processor, m, rows) for title, m in methods.items()})


def questions_figure(shown: Sequence[Any]) -> Figure:
    """What a method keeps of one picture under several questions, and what the model answers: ``shown`` are what
    `thinsight.explore.Explorer.show` returns for each of them."""
    traces = {f"{one.question} → {one.answer}\n{len(one.trace.kept[0])} tokens": one.trace for one in shown}
    return gallery(shown[0].pixels, traces, columns=4)
