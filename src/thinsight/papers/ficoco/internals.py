"""Inside FiCoCo: edges per token under its quantile, and its redundancy terms under each reading.

A quantile of each row keeps the same number of entries in every row, whatever they are:

    K = floor((1 - epsilon) (n - 1)) + 1

of n stayers, ties apart. So "token-adaptive K" is a constant of the layer; only a quantile of the whole matrix adapts.

At every stage of a run all readings are computed on the tokens that are present; the method goes on by its own one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from typing import Any

import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from thinsight.config.methods import load_method
from thinsight.methods.ficoco import READINGS
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.attach import reduce

Batch = Mapping[str, Any]  # one row, as `tasks.rows.collate` gives it
OTHER = "other term"  # what is subtracted: the class token's attention, or the question's


def row_edges(stayers: int, epsilon: float) -> int:
    """K of one row of ``stayers`` entries without ties."""
    return math.floor((1 - epsilon) * (stayers - 1) + 1e-9) + 1


@dataclass(frozen=True)
class Recorder:
    """A stage of a reduction as it is, noting in ``seen`` what comes by at each call."""

    stage: Any
    seen: list[Any] = field(default_factory=list)
    alone = True

    @property
    def needs(self) -> frozenset[str]:
        """What the stage needs."""
        return self.stage.needs


class RecordingCorrelate(Recorder):
    """Notes (layer, stayers, edges (leaving,), the largest weight that a stayer receives)."""

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        weights = self.stage(tokens, leaving, evidence)
        most = float(weights.sum(0).max()) if weights.numel() else 0.0
        self.seen.append((evidence.layer, weights.shape[1], (weights > 0).sum(1).cpu(), most))
        return weights


@dataclass(frozen=True)
class Moment:
    """One stage of one picture: ``cells`` (tokens, 3) of those present, and the terms of each reading, (tokens,) each.

    ``redundant``: reading -> u; ``matters``: reading -> a, scaled as that reading has it; ``leaves``: rows that leave.
    """

    layer: int
    cells: Tensor
    redundant: dict[str, Tensor]
    matters: dict[str, Tensor]
    leaves: dict[str, Tensor]

    @property
    def terms(self) -> dict[str, Tensor]:
        """Redundancy in each reading, and what is subtracted."""
        return {**self.redundant, OTHER: self.matters["col_softmax"]}


class RecordingFilter(Recorder):
    """Notes a `Moment` of a filter of FiCoCo."""

    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        filters = {reading: replace(self.stage, reading=reading) for reading in READINGS}
        bare = {reading: replace(score, penalty=1.0) for reading, score in filters.items()}
        self.seen.append(
            Moment(
                evidence.layer,
                evidence.cells(tokens.index),
                {r: replace(score, weight=1.0).scores(tokens, evidence) for r, score in bare.items()},
                {r: -replace(score, weight=0.0).scores(tokens, evidence) for r, score in bare.items()},
                {r: choose(tokens, evidence, leave) for r, choose in filters.items()},
            )
        )
        return self.stage(tokens, evidence, leave)


def _record(model: PreTrainedModel, inputs: Batch, method: Method, **recorders: type[Recorder]) -> list[Any]:
    """What ``recorders`` around a stage of each reduction (its name -> class) note in one prefill."""
    reductions = []
    for reduction in method.reductions:
        stages = {name: record(getattr(reduction, name)) for name, record in recorders.items()}
        reductions.append(replace(reduction, **stages))
    with torch.inference_mode(), reduce(model, replace(method, reductions=tuple(reductions))):
        model(**inputs, logits_to_keep=1)
    return [note for reduction in reductions for name in recorders for note in getattr(reduction, name).seen]


def edges_of(
    model: PreTrainedModel, batches: Sequence[Batch], name: str, points: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """Edges counted in a prefill of each of ``batches`` (one row each) by the method ``name`` with each point's fields.

    One line per point and leaver: point (its fields as text), layer, stayers, edges (of this leaver), most (the largest
    weight that a stayer received in that step besides its own).
    """
    out = []
    for label, fields in points.items():
        method = load_method(name, **fields)
        for inputs in batches:
            for layer, count, edges, most in _record(model, inputs, method, correlate=RecordingCorrelate):
                out += [(label, layer, count, k, most) for k in edges.tolist()]
    return pd.DataFrame(out, columns=["point", "layer", "stayers", "edges", "most"])


def moments(model: PreTrainedModel, batches: Sequence[Batch], name: str, **fields: Any) -> list[list[Moment]]:
    """The moments of a prefill of each of ``batches`` (one row each) under the method ``name``."""
    method = load_method(name, **fields)
    return [_record(model, inputs, method, filter=RecordingFilter) for inputs in batches]


def spreads(pictures: Sequence[Sequence[Moment]], weight: float) -> pd.DataFrame:
    """How far each reading tells tokens apart: layer, reading, variation, share, same; means over pictures.

    variation  standard deviation of u over the tokens, divided by the size of its mean
    share      of the score's spread that u brings: weight * sd(u) / (weight * sd(u) + (1 - weight) * sd(a))
    same       share of the leavers that would leave under the first of the other readings as well: col_softmax
    """
    out = []
    for moment in chain.from_iterable(pictures):
        usual = set(moment.leaves["col_softmax"].tolist())
        for reading, u in moment.redundant.items():
            redundant, other = weight * float(u.std()), (1 - weight) * float(moment.matters[reading].std())
            leaves = moment.leaves[reading].tolist()
            line = {"layer": moment.layer, "reading": reading, "variation": float(u.std() / u.mean().abs())}
            line |= {"share": redundant / (redundant + other), "same": len(usual & set(leaves)) / len(leaves)}
            out.append(line)
    return pd.DataFrame(out).groupby(["layer", "reading"], sort=False, as_index=False).mean()


def ranks(pictures: Sequence[Sequence[Moment]]) -> pd.DataFrame:
    """Spearman's rank correlation over tokens between readings, and of each with the term that is subtracted: layer,
    first, second, rho; means over pictures."""
    out = [
        (moment.layer, first, second, float(stats.spearmanr(u.numpy(), v.numpy()).statistic))
        for moment in chain.from_iterable(pictures)
        for (first, u), (second, v) in combinations(moment.terms.items(), 2)
    ]
    table = pd.DataFrame(out, columns=["layer", "first", "second", "rho"])
    return table.groupby(["layer", "first", "second"], sort=False, as_index=False).mean()


def maps(moment: Moment, side: int) -> dict[str, Tensor]:
    """The terms of one moment laid out on the picture's grid of ``side`` x ``side`` patches; NaN where none is left."""
    out = {}
    for name, values in moment.terms.items():
        out[name] = torch.full((side, side), torch.nan)
        out[name][moment.cells[:, 1], moment.cells[:, 2]] = values.float()
    return out
