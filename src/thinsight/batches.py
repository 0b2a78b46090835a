"""The work of a run, batch by batch: what the journal lacks is computed, and written to it at once."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from thinsight.anatomy import find
from thinsight.answer import answer, check_reduced
from thinsight.budgets import Budget
from thinsight.errors import UserError
from thinsight.journal import Journal
from thinsight.sharing import looking_once, shareable
from thinsight.tasks import Row, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Tasks = Mapping[str, tuple[DictConfig, Sequence[Row]]]
"""Name of a task -> its config and its rows."""


@dataclass(frozen=True)
class Work:
    """Every row of every task under every budget, ``batch_size`` rows at a time."""

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    tasks: Tasks
    budgets: Sequence[Budget]
    batch_size: int

    def fill(self, journal: Journal, progress: bool | None = None) -> None:
        """Compute what ``journal`` lacks. ``progress``: a bar on stderr; None shows one on a terminal."""
        batches = list(self._batches())
        calm = 0.1 if sys.stderr.isatty() else 5.0  # a line now and then where a bar cannot be redrawn
        bar = tqdm(
            total=len(batches) * len(self.budgets),
            initial=len(journal.batches),
            disable=None if progress is None else not progress,
            mininterval=calm,
            unit="batch",
        )
        with bar, ExitStack() as stack:
            if (tower := find(self.model).vision) is not None and shareable([b.method for b in self.budgets]):
                stack.enter_context(looking_once(tower))
            for name, number, task, rows in batches:
                missing = [i for i in range(len(self.budgets)) if (name, i, number) not in journal.batches]
                if not missing:
                    continue
                bar.set_description(name, refresh=False)
                inputs = collate(self.processor, rows, task).to(self.model.device, self.model.dtype)
                for i in missing:
                    records = self._answer(self.budgets[i], inputs, rows, task)
                    if number == 0:  # before hours are spent on it
                        check_reduced(self.budgets[i].method, records)
                    journal.add((name, i, number), records)
                    bar.update()

    def gather(self, journal: Journal) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Task -> budget -> the records in the order of the rows, from a full ``journal``."""
        found: dict[str, dict[str, list]] = {name: {budget.name: [] for budget in self.budgets} for name in self.tasks}
        for name, number, _, _ in self._batches():
            for i, budget in enumerate(self.budgets):
                found[name][budget.name] += journal.batches[name, i, number]
        for budget in self.budgets:
            for rows in found.values():
                check_reduced(budget.method, rows[budget.name])
        return found

    def _batches(self) -> Iterator[tuple[str, int, DictConfig, Sequence[Row]]]:
        """Task, number and rows of every batch."""
        for name, (task, rows) in self.tasks.items():
            for number, start in enumerate(range(0, len(rows), self.batch_size)):
                yield name, number, task, rows[start : start + self.batch_size]

    def _answer(self, budget: Budget, inputs: Any, rows: Sequence[Row], task: DictConfig) -> list[dict[str, Any]]:
        try:
            return answer(self.model, self.processor, budget.method, inputs, rows, task)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(f"out of GPU memory with batch_size={self.batch_size}: choose less.") from error
