"""How many answers change when a question is asked alone instead of in a batch.

A batch pads its prompts to one length and sums in another order than a single prompt does, which decides near ties. A
harness that gets padding or positions wrong changes answers as well; under a batch size of one both would be seen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from thinsight.analysis.results import load_answers
from thinsight.config.compose import load_task
from thinsight.config.methods import load_method
from thinsight.evaluation.answer import answer
from thinsight.evaluation.budget import Budget
from thinsight.evaluation.sharing import shared_layers
from thinsight.reduction.method import Method
from thinsight.tasks.rows import collate, load_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def flipped_answers(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    fields: Mapping[str, Mapping[str, Any]],
    runs: Path,
    each: int,
) -> pd.DataFrame:
    """Rows of the names in ``fields``, methods with some fields, with the columns ``flipped`` and ``answers``.

    Each of the first ``each`` questions of every task is answered alone, in a batch of one, and compared with what the
    run of that name in the folder ``runs`` has answered in its batch at the same budget. A method whose run has no such
    budget is left out.
    """
    methods = {name: load_method(name, **values) for name, values in fields.items()}
    told = load_answers(runs, list(methods))
    asked = {name: _recorded(told[told["run"] == name], methods[name], fields[name]) for name in methods}
    counts = {name: [0, 0] for name, answers in asked.items() if answers}
    with shared_layers(model) as shared:
        for task in map(load_task, told["task"].unique()):
            for row in load_rows(task, each)[:each]:
                inputs = collate(processor, [row], task).to(model.device, model.dtype)
                shared.begin(inputs)
                for name, count in counts.items():
                    (alone,) = answer(model, processor, methods[name], inputs, [row], task)
                    count[0] += alone["prediction"] != asked[name][task.name, row.id]
                    count[1] += 1
    lines = [{"method": name, "flipped": flipped, "answers": number} for name, (flipped, number) in counts.items()]
    return pd.DataFrame(lines, columns=["method", "flipped", "answers"])


def _recorded(lines: pd.DataFrame, method: Method, fields: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """(task, question) -> the answer of a run at the budget of ``method``; empty if it has none.

    fields  those that the run must have swept; others are the method's defaults
    """
    budgets = {label: Budget.parse(label).fields for label in lines["budget"].unique()}
    same = [label for label, swept in budgets.items() if fields.items() <= swept.items() <= method.fields.items()]
    return lines[lines["budget"].isin(same[:1])].set_index(["task", "id"])["prediction"].to_dict()
