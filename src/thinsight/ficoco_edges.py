"""How many edges FiCoCo's quantile leaves a leaver (arXiv:2411.17686): by arithmetic, and counted on real attention.

A quantile of each row keeps the same number of entries in every row, whatever they are:

    K = floor((1 - epsilon) (n - 1)) + 1

of n stayers, ties apart. So "token-adaptive K" is a constant of the layer; only a quantile of the whole matrix adapts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from thinsight.attach import reduce
from thinsight.calibration import training_task
from thinsight.config import load_method
from thinsight.evidence import Evidence
from thinsight.reduction import Method
from thinsight.solve import Stage, play
from thinsight.stages.correlate import Correlate, Routes
from thinsight.tasks import Row, collate
from thinsight.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def row_edges(stayers: int, epsilon: float) -> int:
    """K of one row of ``stayers`` entries without ties."""
    return math.floor((1 - epsilon) * (stayers - 1) + 1e-9) + 1


def edges_by_stage(epsilons: Sequence[float], stayers: Iterable[int]) -> pd.DataFrame:
    """K for each epsilon (rows) at each stage of a method that leaves ``stayers`` (columns, one per stage)."""
    counts = list(stayers)
    lines = [[row_edges(n, epsilon) for n in counts] for epsilon in epsilons]
    return pd.DataFrame(lines, index=pd.Index(epsilons, name="epsilon"), columns=counts)


def stayers(method: Method, stage: Stage) -> list[int]:
    """How many visual tokens stay at each stage of ``method``, tower first, by its schedule alone."""
    played = play(method, stage)
    walk = [*played.tower[: stage.used], *played.visual, played.kept]
    return [after for before, after in pairwise(walk) if after < before]


@dataclass(frozen=True)
class Watched:
    """A correlation as it is, noting for each call (layer, stayers, edges (leaving,), the largest weight received)."""

    correlate: Correlate
    seen: list[tuple[int, int, Tensor, float]] = field(default_factory=list)

    @property
    def needs(self) -> frozenset[str]:
        """What the correlation needs."""
        return self.correlate.needs

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor | Routes:
        weights = self.correlate(tokens, leaving, evidence)
        most = float(weights.sum(0).max()) if weights.numel() else 0.0
        self.seen.append((evidence.layer, weights.shape[1], (weights > 0).sum(1).cpu(), most))
        return weights


def watched(method: Method) -> tuple[Method, list[Watched]]:
    """``method`` with its correlations under watch."""
    found = [Watched(r.correlate) for r in method.reductions]
    parts = (replace(r, correlate=w) for r, w in zip(method.reductions, found, strict=True))
    return replace(method, reductions=tuple(parts)), found


def edges_of(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    task: str,
    rows: Sequence[Row],
    name: str,
    points: Mapping[str, Mapping[str, object]],
) -> pd.DataFrame:
    """Edges counted on training ``rows`` of ``task`` while the method ``name`` runs with the fields of each point.

    One line per point and leaver: point (its fields as text), layer, stayers, edges (of this leaver), most (the largest
    weight that a stayer received in that step besides its own).
    """
    out = []
    for label, fields in points.items():
        method, watches = watched(load_method(name, **fields))
        for row in rows:
            inputs = collate(processor, [row], training_task(task)).to(model.device, model.dtype)
            with torch.inference_mode(), reduce(model, method):
                model(**inputs, logits_to_keep=1)
        for layer, count, edges, most in (call for watch in watches for call in watch.seen):
            out += [(label, layer, count, k, most) for k in edges.tolist()]
    return pd.DataFrame(out, columns=["point", "layer", "stayers", "edges", "most"])
