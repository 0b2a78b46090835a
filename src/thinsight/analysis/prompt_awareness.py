"""What a method scores when the picture was reduced for another question: how much its choice heeds the prompt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.evaluation.answer import answer, cache_tower
from thinsight.models.families import find_parts
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method
from thinsight.reduction.schedules import Keep
from thinsight.reduction.sites import Projected
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.attach import reduce
from thinsight.stats import paired
from thinsight.tasks.rows import Row, collate, training_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BATCH = 30


@dataclass(frozen=True)
class FixedChoice:
    """A filter that keeps what it is given, one prompt after the other."""

    rows: Iterator[Tensor]
    among = "visual"
    adaptive = True

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        return tokens.rest(next(self.rows))


@dataclass(frozen=True)
class PromptSwap:
    """What one method did with its own and with another question.

    kept     of the question's picture, per row: patches that its own question keeps
    others   those that another question of its task keeps
    patches  of the picture, per row
    own, other   row -> whether its own question was answered rightly with the one set, and with the other
    """

    kept: list[list[int]]
    others: list[list[int]]
    patches: list[int]
    own: dict[str, bool]
    other: dict[str, bool]

    @property
    def common(self) -> list[float]:
        """Per row: share of the kept patches that another question keeps as well."""
        return [len({*a} & {*b}) / len(a) for a, b in zip(self.kept, self.others, strict=True)]


def prompt_swap(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    method: Method,
    rows: Mapping[str, Sequence[Row]],
) -> PromptSwap:
    """Put the training questions ``rows`` of each task to ``model`` under ``method``, twice.

    The method must choose once, between projector and decoder, and merge nothing: else "the same tokens by another
    question" is not defined, which is a `UserError`. Nothing but the chosen set differs between the two.
    """
    if len(method.reductions) != 1 or not isinstance(method.reductions[0].site, Projected):
        raise UserError(f"method {method.name} does not choose once between projector and decoder")
    if method.reductions[0].correlate is not None:
        raise UserError(f"method {method.name} merges tokens, so no other question's choice can be put in its place")
    kept, others, patches, own, other = [], [], [], {}, {}
    with cache_tower(find_parts(model).vision):
        for name, batch in _batches(rows):
            task = training_task(name)
            inputs, swapped_inputs = (
                collate(processor, rows, task).to(model.device, model.dtype) for rows in (batch, _swapped(batch))
            )
            with torch.inference_mode(), reduce(model, method) as trace:
                model(**swapped_inputs, logits_to_keep=1)
            chosen = [sorted(patches_kept) for patches_kept in trace.kept]
            records = answer(model, processor, method, inputs, batch, task)
            swapped = answer(model, processor, _as_given(method, chosen), inputs, batch, task)
            own |= {record["id"]: bool(record["correct"]) for record in records}
            other |= {record["id"]: bool(record["correct"]) for record in swapped}
            kept, others = kept + [sorted(record["kept"]) for record in records], others + chosen
            patches += [record["picture"] for record in records]
    return PromptSwap(kept, others, patches, own, other)


def prompt_swap_table(swaps: Mapping[str, PromptSwap]) -> pd.DataFrame:
    """One line for each method (title -> what it did).

    kept            mean number of patches kept; ``common`` the mean share of them that another question keeps as well,
                    and ``chance`` what it would be for two random sets of such sizes
    changed         share of rows whose sets differ
    own, other      accuracy with the own question's choice, and with the other's
    difference      other less own, with a paired 95 % interval ``low`` to ``high`` and McNemar's ``p``
    """
    out = []
    for title, swap in swaps.items():
        change = paired(swap.other, swap.own)
        line = {"method": title, "kept": fmean(map(len, swap.kept)), "common": fmean(swap.common)}
        line |= {"chance": fmean(len(other) / count for other, count in zip(swap.others, swap.patches, strict=True))}
        line |= {"changed": fmean(a != b for a, b in zip(swap.kept, swap.others, strict=True)), "n": len(swap.own)}
        line |= {"own": fmean(swap.own.values()), "other": fmean(swap.other.values())}
        out.append(line | {"difference": change.difference, "low": change.low, "high": change.high, "p": change.p})
    return pd.DataFrame(out)


def _batches(rows: Mapping[str, Sequence[Row]]) -> Iterator[tuple[str, Sequence[Row]]]:
    """At most `BATCH` rows of a task."""
    for name, task_rows in rows.items():
        for start in range(0, len(task_rows), BATCH):
            yield name, task_rows[start : start + BATCH]


def _swapped(rows: Sequence[Row]) -> list[Row]:
    """Each row's picture with the next row's question that is not its own."""
    texts = [row.question for row in rows]
    if len(set(texts)) == 1:
        raise UserError(f"all questions read {texts[0]!r}, so there is no other one to ask")
    swapped = []
    for i, row in enumerate(rows):
        following = [*texts[i + 1 :], *texts[:i]]
        swapped.append(replace(row, question=next(text for text in following if text != row.question)))
    return swapped


def _as_given(method: Method, kept: Sequence[Sequence[int]]) -> Method:
    """The method with these choices in place of its own."""
    reduction, rows = method.reductions[0], iter([torch.tensor(patches) for patches in kept])
    return Method("given", (replace(reduction, filter=FixedChoice(rows), schedule=Keep(None)),))
