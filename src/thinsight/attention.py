"""Where attention goes, layer by layer: the motivation of VTW (arXiv:2405.05803), for any model and any questions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from thinsight.probe import attention_rows, by_group, groups
from thinsight.tasks import Row, collate

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
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        inputs, answered = with_answer(processor, task, row)
        inputs = inputs.to(model.device, model.dtype)
        visual = inputs["input_ids"] == model.config.image_token_id
        parts = groups(visual, inputs["attention_mask"], answered)
        end = visual.shape[1]
        asked = parts["question"][0].nonzero().flatten().tolist()
        kinds = {"question": asked[:-1], "last prompt": asked[-1:], "answer": list(range(end - answered, end))}
        every = [column for columns in kinds.values() for column in columns]
        for layer, attention in enumerate(attention_rows(model, inputs, every)):
            start = 0
            for kind, columns in kinds.items():
                part = attention[:, start : start + len(columns)]
                start += len(columns)
                for group, share in by_group(part, parts).items():
                    found.setdefault((kind, layer, group), []).append(share.mean().item())
    lines = [(*key, sum(values) / len(values)) for key, values in found.items()]
    return pd.DataFrame(lines, columns=["rows", "layer", "group", "share"])


def with_answer(processor: "ProcessorMixin", task: DictConfig, row: Row) -> tuple[dict[str, Tensor], int]:
    """The inputs of one row with its right answer appended, and how many tokens the answer has."""
    inputs = collate(processor, [row], task)
    reply = processor.tokenizer(" " + row.answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], reply], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(reply)], 1)
    return inputs, reply.shape[1]
