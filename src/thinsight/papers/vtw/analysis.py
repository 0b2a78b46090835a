"""Where attention goes, and at which layer the visual tokens can leave, measured on training questions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from thinsight.runtime.attention_rows import attention_by_group, attention_rows, prompt_groups
from thinsight.runtime.layer_selection import NoLayerError, Selection, choose_layer, layer_divergences
from thinsight.tasks.rows import Row, collate, training_task


def attention_shares(
    model: PreTrainedModel, processor: ProcessorMixin, task: DictConfig, rows: Sequence[Row]
) -> pd.DataFrame:
    """`attention_by_question`, the mean over questions: columns rows, layer, group, share."""
    return mean_shares(attention_by_question(model, processor, task, rows))


def mean_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of attention of single questions, the mean over these."""
    return table.groupby(["rows", "layer", "group"], sort=False, as_index=False)["share"].mean()


def attention_by_question(
    model: PreTrainedModel, processor: ProcessorMixin, task: DictConfig, rows: Sequence[Row]
) -> pd.DataFrame:
    """Share of attention that each part of the prompt gets: columns number (of the row), rows, layer, group, share.

    ``rows`` are those of the question, of the last prompt token (from which the answer's first word is predicted) and
    of the answer's own words (teacher-forced); groups are system, visual, question and answer. Shares of one layer and
    one kind of rows sum to 1. Heads and tokens are averaged.
    """
    alike: dict[tuple[int, ...], list] = defaultdict(list)  # what one pass can take: prompts of the same parts
    for number, row in enumerate(rows):
        inputs, answer_length = with_answer(processor, task, row)
        visual = inputs["input_ids"] == model.config.image_token_id
        groups = prompt_groups(visual, inputs["attention_mask"], answer_length)
        length, question = visual.shape[1], tuple(groups["question"][0].nonzero().flatten().tolist())
        alike[length, answer_length, question].append((number, inputs, groups))
    lines = []
    for (length, answer_length, (*question, last)), prompts in alike.items():
        names, numbers = prompts[0][1].keys(), [number for number, _, _ in prompts]
        inputs = BatchFeature({name: torch.cat([inputs[name] for _, inputs, _ in prompts]) for name in names})
        groups = {name: torch.cat([groups[name] for _, _, groups in prompts]) for name in prompts[0][2]}
        answer = range(length - answer_length, length)
        kinds = {"question": len(question), "last prompt": 1, "answer": answer_length}
        maps = attention_rows(model, inputs.to(model.device, model.dtype), [*question, last, *answer])
        for layer, attention in enumerate(maps):
            for kind, part in zip(kinds, attention.split(list(kinds.values()), dim=1), strict=True):
                shares = attention_by_group(part, groups)
                for group, share in shares.items():
                    values = share.mean(1).tolist()
                    lines += [(number, kind, layer, group, v) for number, v in zip(numbers, values, strict=True)]
    table = pd.DataFrame(lines, columns=["number", "rows", "layer", "group", "share"])
    return table.sort_values("number", kind="stable", ignore_index=True)


def with_answer(processor: ProcessorMixin, task: DictConfig, row: Row) -> tuple[dict[str, Tensor], int]:
    """The inputs of one row with its right answer appended, and how many tokens the answer has."""
    inputs = collate(processor, [row], task)
    answer = processor.tokenizer(" " + row.answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1)
    return inputs, answer.shape[1]


def divergences(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Mapping[str, Sequence[Row]]
) -> dict[str, dict[str, dict[int, list[float]]]]:
    """VTW's criterion on the questions of each task, in both directions from the same passes: direction -> task ->
    layer -> value of each question, in nats."""
    found = {}
    for task in rows:
        inputs = collate(processor, list(rows[task]), training_task(task))
        for direction, values in layer_divergences(model, [inputs]).items():
            found.setdefault(direction, {})[task] = values
    return found


def choose_layers(
    found: Mapping[str, Mapping[int, Sequence[float]]], thresholds: Sequence[float], direction: str
) -> tuple[Selection | None, pd.DataFrame]:
    """VTW's criterion over the questions of all tasks together, and for each task alone.

    found  task -> layer -> values of ``direction``, as `divergences` gives them

    Returns the joint `Selection` (None where no layer meets any threshold) and a table: task ("all" for the joint
    one), layer, divergence (mean over samples, nats).
    """
    layers = next(iter(found.values()))
    together = {layer: [value for values in found.values() for value in values[layer]] for layer in layers}
    joint, lines = None, []
    for label, values in {"all": together, **found}.items():
        try:
            selection = choose_layer(values, thresholds, direction)
            curve = selection.divergence
        except NoLayerError as error:
            selection, curve = None, error.divergence
        joint = selection if label == "all" else joint
        lines += [{"task": label, "layer": layer, "divergence": value} for layer, value in curve.items()]
    return joint, pd.DataFrame(lines)


def first_below(curve: pd.DataFrame, threshold: float) -> dict[str, int | None]:
    """For each task of `choose_layers`, the smallest layer at or below ``threshold``; None where no layer is."""
    met = curve[curve["divergence"] <= threshold].groupby("task")["layer"].min()
    return {task: int(met[task]) if task in met else None for task in curve["task"].unique()}
