"""How many kept sets change when every value of a picture moves by its last digit: what rounding decides.

Another machine or number of threads rounds sums differently. That cannot be asked for on one machine, but its effect on
the tower's features can: an error of a unit in the last place of every input ends in one of the same size there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import BatchFeature

from thinsight.analysis.kept import kept_patches
from thinsight.evaluation.sharing import shared_layers
from thinsight.reduction.method import Method
from thinsight.tasks.rows import Row, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BATCH = 48


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

    questions  tasks and some rows of each, which are put to the model together, as far as the choice. A picture is
               changed if the set of patches alive at the end is another one for `nudged` pixels; every seed counts anew
    """
    asked = [replace(row, question=row.question + task.suffix) for task, rows in questions for row in rows]
    counts = dict.fromkeys(methods, 0)
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        inputs = collate(processor, batch, OmegaConf.merge(questions[0][0], {"suffix": ""}))
        pixels = [inputs["pixel_values"], *(nudged(inputs["pixel_values"], units, seed) for seed in seeds)]
        kept: dict[str, list[list[set[int]]]] = {name: [] for name in methods}
        with shared_layers(model) as shared:
            for values in pixels:
                placed = BatchFeature({**inputs, "pixel_values": values}).to(model.device, model.dtype)
                shared.begin(placed)
                for name, method in methods.items():
                    kept[name].append([set(patches) for patches in kept_patches(model, method, placed)])
        for name, (plain, *others) in kept.items():
            counts[name] += sum(a != b for other in others for a, b in zip(plain, other, strict=True))
    return pd.DataFrame({"method": list(counts), "changed": list(counts.values()), "pictures": len(seeds) * len(asked)})
