"""Where attention goes, and at which layer the visual tokens can leave, measured on training questions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from thinsight.runtime.attention_rows import attention_by_group, attention_rows, prompt_groups
from thinsight.runtime.layer_selection import NoLayerError, Selection, select_layer
from thinsight.tasks.rows import Row, collate, training_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def attention_shares(
    model: "PreTrainedModel", processor: "ProcessorMixin", task: DictConfig, rows: Sequence[Row]
) -> pd.DataFrame:
    """Mean share of attention that each part of the prompt gets: columns rows, layer, group, share.

    ``rows`` are those of the question, of the last prompt token (from which the answer's first word is predicted) and
    of the answer's own words (teacher-forced); groups are system, visual, question and answer. Shares of one layer and
    one kind of rows sum to 1. Heads, tokens and samples are averaged.
    """
    shares: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        inputs, answer_length = with_answer(processor, task, row)
        inputs = inputs.to(model.device, model.dtype)
        visual = inputs["input_ids"] == model.config.image_token_id
        groups = prompt_groups(visual, inputs["attention_mask"], answer_length)
        end = visual.shape[1]
        question = groups["question"][0].nonzero().flatten().tolist()
        kinds = {
            "question": question[:-1],
            "last prompt": question[-1:],
            "answer": list(range(end - answer_length, end)),
        }
        columns = [column for some in kinds.values() for column in some]
        for layer, attention in enumerate(attention_rows(model, inputs, columns)):
            start = 0
            for kind, some in kinds.items():
                part = attention[:, start : start + len(some)]
                start += len(some)
                for group, share in attention_by_group(part, groups).items():
                    shares.setdefault((kind, layer, group), []).append(share.mean().item())
    lines = [(*key, sum(values) / len(values)) for key, values in shares.items()]
    return pd.DataFrame(lines, columns=["rows", "layer", "group", "share"])


def with_answer(processor: "ProcessorMixin", task: DictConfig, row: Row) -> tuple[dict[str, Tensor], int]:
    """The inputs of one row with its right answer appended, and how many tokens the answer has."""
    inputs = collate(processor, [row], task)
    answer = processor.tokenizer(" " + row.answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    return inputs, answer.shape[1]


def choose_layer(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    rows: Mapping[str, Sequence[Row]],
    thresholds: Sequence[float],
    direction: str = "withdrawn_to_full",
) -> tuple[Selection | None, pd.DataFrame]:
    """VTW's criterion over the questions of all tasks together, and for each task alone.

    Returns the joint `Selection` (None where no layer meets any threshold) and a table: task ("all" for the joint
    one), layer, divergence (mean over samples, nats).
    """
    joint, lines = None, []
    for label, tasks in {"all": list(rows), **{task: [task] for task in rows}}.items():
        batches = [collate(processor, list(rows[task]), training_task(task)) for task in tasks]
        try:
            selection = select_layer(model, batches, threshold=thresholds, direction=direction)
            curve = selection.divergence
        except NoLayerError as error:
            selection, curve = None, error.divergence
        if label == "all":
            joint = selection
        lines += [{"task": label, "layer": layer, "divergence": value} for layer, value in curve.items()]
    return joint, pd.DataFrame(lines)


def first_below(curve: pd.DataFrame, threshold: float) -> dict[str, int | None]:
    """For each task of `choose_layer`, the smallest layer at or below ``threshold``; None where no layer is."""
    met = curve[curve["divergence"] <= threshold].groupby("task")["layer"].min()
    return {task: int(met[task]) if task in met else None for task in curve["task"].unique()}
