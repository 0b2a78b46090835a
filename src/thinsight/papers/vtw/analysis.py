"""Where attention goes, and at which layer the visual tokens can leave, measured on training questions."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from thinsight.runtime.attention_rows import attention_by_group, attention_rows, prompt_groups
from thinsight.runtime.layer_selection import NoLayerError, Selection, select_layer
from thinsight.tasks.rows import Row, collate, training_task


def attention_shares(
    model: PreTrainedModel, processor: ProcessorMixin, task: DictConfig, rows: Sequence[Row]
) -> pd.DataFrame:
    """Mean share of attention that each part of the prompt gets: columns rows, layer, group, share.

    ``rows`` are those of the question, of the last prompt token (from which the answer's first word is predicted) and
    of the answer's own words (teacher-forced); groups are system, visual, question and answer. Shares of one layer and
    one kind of rows sum to 1. Heads, tokens and samples are averaged.
    """
    lines = []
    for row in rows:
        inputs, answer_length = with_answer(processor, task, row)
        inputs = inputs.to(model.device, model.dtype)
        visual = inputs["input_ids"] == model.config.image_token_id
        groups = prompt_groups(visual, inputs["attention_mask"], answer_length)
        *question, last = groups["question"][0].nonzero().flatten().tolist()
        answer = range(visual.shape[1] - answer_length, visual.shape[1])
        kinds = {"question": len(question), "last prompt": 1, "answer": answer_length}
        for layer, attention in enumerate(attention_rows(model, inputs, [*question, last, *answer])):
            for kind, part in zip(kinds, attention.split(list(kinds.values()), dim=1), strict=True):
                shares = attention_by_group(part, groups)
                lines += [(kind, layer, group, share.mean().item()) for group, share in shares.items()]
    table = pd.DataFrame(lines, columns=["rows", "layer", "group", "share"])
    return table.groupby(["rows", "layer", "group"], sort=False, as_index=False)["share"].mean()


def with_answer(processor: ProcessorMixin, task: DictConfig, row: Row) -> tuple[dict[str, Tensor], int]:
    """The inputs of one row with its right answer appended, and how many tokens the answer has."""
    inputs = collate(processor, [row], task)
    answer = processor.tokenizer(" " + row.answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    return inputs, answer.shape[1]


def choose_layer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Mapping[str, Sequence[Row]],
    thresholds: Sequence[float],
    direction: str = "withdrawn_to_full",
) -> tuple[Selection | None, pd.DataFrame]:
    """VTW's criterion over the questions of all tasks together, and for each task alone.

    Returns the joint `Selection` (None where no layer meets any threshold) and a table: task ("all" for the joint
    one), layer, divergence (mean over samples, nats).
    """
    batches = {task: collate(processor, list(rows[task]), training_task(task)) for task in rows}
    joint, lines = None, []
    for label, inputs in {"all": list(batches.values()), **{task: [batches[task]] for task in rows}}.items():
        try:
            selection = select_layer(model, inputs, threshold=thresholds, direction=direction)
            curve = selection.divergence
        except NoLayerError as error:
            selection, curve = None, error.divergence
        joint = selection if label == "all" else joint
        lines += [{"task": label, "layer": layer, "divergence": value} for layer, value in curve.items()]
    return joint, pd.DataFrame(lines)


def first_below(curve: pd.DataFrame, threshold: float) -> dict[str, int | None]:
    """For each task of `choose_layer`, the smallest layer at or below ``threshold``; None where no layer is."""
    met = curve[curve["divergence"] <= threshold].groupby("task")["layer"].min()
    return {task: int(met[task]) if task in met else None for task in curve["task"].unique()}
