"""How many kept sets change when every value of a picture moves by its last digit: what rounding decides.

Another machine or number of threads rounds sums differently. That cannot be asked for on one machine, but its effect on
the tower's features can: an error of a unit in the last place of every input ends in one of the same size there.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from thinsight.reduction.method import Method
from thinsight.runtime.attach import reduce
from thinsight.tasks.rows import Row, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def nudged(pixels: Tensor, units: int = 1, seed: int = 0) -> Tensor:
    """Each value ``units`` floating-point numbers up or down, with equal chance."""
    up = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) < 0.5
    towards = torch.where(up, torch.inf, -torch.inf).to(pixels)
    for _ in range(units):
        pixels = torch.nextafter(pixels, towards)
    return pixels


def changed_sets(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    methods: Mapping[str, Method],
    questions: Sequence[tuple[DictConfig, Sequence[Row]]],
    units: int = 1,
    seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """Rows of the names in ``methods`` with the columns ``changed`` and ``pictures``.

    questions  tasks and some rows of each, which are answered as one batch as far as the first token. A picture is
               changed if the set of patches alive at the end is another one for `nudged` pixels; every seed counts anew
    """
    counts = dict.fromkeys(methods, 0)
    for task, rows in questions:
        inputs = collate(processor, rows, task).to(model.device, torch.float32)
        moved = [{**inputs, "pixel_values": nudged(inputs["pixel_values"].cpu(), units, seed)} for seed in seeds]
        for name, method in methods.items():
            plain, *others = (_kept(model, method, batch) for batch in (inputs, *moved))
            counts[name] += sum(a != b for other in others for a, b in zip(plain, other, strict=True))
    pictures = len(seeds) * sum(len(rows) for _, rows in questions)
    return pd.DataFrame({"method": list(counts), "changed": list(counts.values()), "pictures": pictures})


def _kept(model: "PreTrainedModel", method: Method, inputs: Mapping[str, Tensor]) -> list[set[int]]:
    placed = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
    with torch.inference_mode(), reduce(model, method) as trace:
        model(**placed, logits_to_keep=1)
    return [set(kept) for kept in trace.kept]
