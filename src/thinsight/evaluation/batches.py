"""Batches of rows on the model's device; one that does not fit in memory is halved, a picture that is none left out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from thinsight.errors import UserError
from thinsight.evaluation.answer import answer
from thinsight.evaluation.sharing import SharedLayers
from thinsight.models.memory import free_memory, is_out_of_memory
from thinsight.reduction.method import Method
from thinsight.tasks.rows import Failure, Row, collate

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Batch:
    """The ``number``-th batch of a task: some of its rows. ``failures``: rows that were among them, whose pictures
    cannot be read."""

    task: DictConfig
    number: int
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()


@dataclass
class Answerer:
    """What answers batches on one model, and how many rows at a time it has memory for.

    shared  the layers of the model that remember a batch
    most    rows that are answered together; None: as many as a batch has, as long as nothing else is known
    """

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    shared: SharedLayers
    most: int | None = None

    def batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, "BatchFeature | None"]]:
        """Each batch without the rows whose pictures cannot be read, with its inputs on the model's device (None if it
        does not fit there); the next one's pictures are read meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(collated, self.processor, batch) for batch in batches[:1]]
            for number in range(len(batches)):
                batch, inputs = coming.pop().result()
                coming += [pool.submit(collated, self.processor, b) for b in batches[number + 1 : number + 2]]
                yield batch, self._placed(inputs)

    def answer(self, method: Method, batch: Batch, inputs: "BatchFeature | None") -> list[dict[str, Any]]:
        """The records of a batch under ``method``; ``inputs``: what it was collated to, if that has been done.

        Out of memory, it is answered in halves, and what comes later in batches of that size; a record of such a batch
        says how many rows it was one of, ``together``. Out of memory with one row is a `UserError`.
        """
        size = len(batch.rows)
        if not size:
            return []
        if self.most is None or size <= self.most:
            inputs = self._placed(collated(self.processor, batch)[1]) if inputs is None else inputs
            records = self._tried(method, batch, inputs) if inputs is not None else None
            if records is not None:
                return records if self.most is None else [{**record, "together": size} for record in records]
            if size == 1:
                raise UserError(
                    f"out of memory with a single question of task {batch.task.name}: take a device with more of it, a "
                    "smaller dtype, or model.quantization=4bit"
                )
            self.most = (size + 1) // 2
        parts = [batch.rows[start : start + self.most] for start in range(0, size, self.most)]
        return [record for rows in parts for record in self.answer(method, replace(batch, rows=rows), None)]

    def _tried(self, method: Method, batch: Batch, inputs: "BatchFeature") -> list[dict[str, Any]] | None:
        """The records, or None if there is not memory for them."""
        try:
            return answer(self.model, self.processor, method, inputs, batch.rows, batch.task)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._free()  # behind the handler, whose traceback holds on to tensors
        return None

    def _placed(self, inputs: "BatchFeature | None") -> "BatchFeature | None":
        """The inputs on the model's device, announced to the layers; None if they do not fit, or are None."""
        if inputs is None:
            return None
        try:
            inputs = inputs.to(self.model.device, self.model.dtype)
            self.shared.begin(inputs)
            return inputs
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._free()
        return None

    def _free(self) -> None:
        self.shared.forget()
        free_memory()


def collated(processor: "ProcessorMixin", batch: Batch) -> tuple[Batch, "BatchFeature | None"]:
    """A batch without the rows whose pictures cannot be read, and the inputs of the others, if there are any and they
    fit in memory."""
    try:
        return batch, collate(processor, batch.rows, batch.task)
    except UserError:
        failures = [failure for row in batch.rows if (failure := row.unreadable())]
        if not failures:
            raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return batch, None
    ids = {failure.id for failure in failures}
    rows = tuple(row for row in batch.rows if row.id not in ids)
    batch = replace(batch, rows=rows, failures=tuple(failures))
    return batch, collate(processor, rows, batch.task) if rows else None
