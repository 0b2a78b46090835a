"""What a method scores when the picture was reduced for another question: how far its choice depends on the prompt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from thinsight.analysis.kept import kept_patches
from thinsight.errors import UserError
from thinsight.evaluation.answer import answer
from thinsight.evaluation.sharing import shared_layers
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method
from thinsight.reduction.schedules import Keep
from thinsight.reduction.sites import Projected
from thinsight.reduction.tokens import Tokens
from thinsight.stats import paired
from thinsight.tasks.rows import Row, collate, training_task

BATCH = 50


@dataclass(frozen=True)
class FixedChoice:
    """A filter that keeps the given ``rows`` of tokens, one prompt after the other."""

    rows: Iterator[Tensor]
    among = "visual"
    adaptive = True
    alone = True

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        return tokens.rest(next(self.rows))


def training_batches(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Mapping[str, Sequence[Row]]
) -> Iterator[tuple[DictConfig, Sequence[Row], Any]]:
    """Training questions of each task in batches of at most `BATCH`: the task, the rows, and the model's inputs."""
    for name, of_task in rows.items():
        task = training_task(name)
        for start in range(0, len(of_task), BATCH):
            batch = of_task[start : start + BATCH]
            yield task, batch, collate(processor, batch, task).to(model.device, model.dtype)


def prompt_swap(
    model: PreTrainedModel, processor: ProcessorMixin, method: Method, rows: Mapping[str, Sequence[Row]]
) -> pd.DataFrame:
    """`prompt_swaps` of one method."""
    return prompt_swaps(model, processor, {"": method}, rows)[""]


def prompt_swaps(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    methods: Mapping[str, Method],
    rows: Mapping[str, Sequence[Row]],
) -> dict[str, pd.DataFrame]:
    """Put the training questions ``rows`` of each task to ``model`` under each of ``methods`` (title -> method), twice:
    title -> a frame with one line per question.

    kept, others  sorted patches of the question's picture that the method keeps for it, and for the next question of
                  its task that reads otherwise;  patches  how many the picture has
    own, other    whether the question was answered rightly with the one set, and with the other;  id  of the question

    A method must choose once, between projector and decoder, and merge nothing: else "the same tokens by another
    question" is not defined, which is a `UserError`. Nothing but the chosen set differs between the two, and all
    answers of a task to a method are given in one batch.
    """
    for method in methods.values():
        if len(method.reductions) != 1 or not isinstance(method.reductions[0].site, Projected):
            raise UserError(f"method {method.name} does not choose once between projector and decoder")
        if method.reductions[0].correlate is not None:
            raise UserError(
                f"method {method.name} merges tokens, so no other question's choice can be put in its place"
            )
    swapped_rows = {task: _swapped(of_task) for task, of_task in rows.items()}
    batches, swapped = (training_batches(model, processor, some) for some in (rows, swapped_rows))
    out: dict[str, list[dict[str, Any]]] = {title: [] for title in methods}
    with shared_layers(model) as shared:
        for (task, batch, inputs), (_, _, swapped_inputs) in zip(batches, swapped, strict=True):
            shared.begin(inputs)
            chosen = {
                title: [
                    [sorted(kept) for kept in kept_patches(model, method, asked)] for asked in (inputs, swapped_inputs)
                ]
                for title, method in methods.items()
            }
            twice = collate(processor, [*batch, *batch], task).to(model.device, model.dtype)
            shared.begin(twice)
            for title, (own, others) in chosen.items():
                fixed = FixedChoice(map(torch.tensor, [*own, *others]))
                given = Method("given", (replace(methods[title].reductions[0], filter=fixed, schedule=Keep(None)),))
                answers = answer(model, processor, given, twice, [*batch, *batch], task)
                out[title] += [
                    {"id": first["id"], "kept": kept, "others": other, "patches": first["picture"]}
                    | {"own": bool(first["correct"]), "other": bool(second["correct"])}
                    for first, second, kept, other in zip(
                        answers[: len(batch)], answers[len(batch) :], own, others, strict=True
                    )
                ]
    return {title: pd.DataFrame(lines) for title, lines in out.items()}


def swap_summary(swap: pd.DataFrame) -> dict[str, float]:
    """What `prompt_swap` comes to.

    kept            mean number of patches kept; ``common`` the mean share of them that another question keeps as well,
                    and ``chance`` what it would be for two random sets of such sizes
    changed         share of rows whose sets differ;  n  how many rows
    own, other      accuracy with the own question's choice, and with the other's
    difference      other less own, with a paired 95 % interval ``low`` to ``high`` and McNemar's ``p``
    """
    pairs = list(zip(swap["kept"], swap["others"], strict=True))
    change = paired(*(swap.set_index("id")[choice].to_dict() for choice in ("other", "own")))
    return {
        "kept": fmean(swap["kept"].map(len)),
        "common": fmean(len({*kept} & {*others}) / len(kept) for kept, others in pairs),
        "chance": fmean(swap["others"].map(len) / swap["patches"]),
        "changed": fmean(kept != others for kept, others in pairs),
        "n": len(swap),
        "own": fmean(swap["own"]),
        "other": fmean(swap["other"]),
        "difference": change.difference,
        "low": change.low,
        "high": change.high,
        "p": change.p,
    }


def _swapped(rows: Sequence[Row]) -> list[Row]:
    """Each row's picture with the next row's question that is not its own."""
    texts = [row.question for row in rows]
    if len(set(texts)) == 1:
        raise UserError(f"all questions read {texts[0]!r}, so there is no other one to ask")
    return [
        replace(row, question=next(text for text in [*texts[i + 1 :], *texts[:i]] if text != row.question))
        for i, row in enumerate(rows)
    ]
