"""FLOPs that no lengths tell, counted on a few rows: those of the vision tower under a method, and of its choice."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from thinsight.costs.timing import prefill_flops
from thinsight.evaluation.batches import Batch, collated
from thinsight.reduction.method import Method
from thinsight.tasks.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

ROWS = 4
"""Evenly spread over a task's rows; what is counted differs between rows only where a method adapts to the picture."""


def flops_besides_decoder(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    task: DictConfig,
    rows: Sequence[Row],
    method: Method,
    together: int = ROWS,
) -> dict[str, float]:
    """``vision_flops`` and ``choice_flops`` of a prompt (see `thinsight.costs.timing.prefill_flops`), means over
    ``together`` of ``rows``, which are one batch; nothing where none of these has a readable picture."""
    chosen = rows[:: max(len(rows) // together, 1)][:together]
    batch, inputs = collated(processor, Batch(task, 0, tuple(chosen)))
    if inputs is None:
        return {}
    counts = prefill_flops(model, method, inputs.to(model.device, model.dtype))
    return {f"{part}_flops": counts[part] / len(batch.rows) for part in ("vision", "choice")}
