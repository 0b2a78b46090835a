"""Inside FiCoCo: edges per token under its quantile, and its redundancy terms under each reading.

A quantile of each row keeps the same number of entries in every row, whatever they are:

    K = floor((1 - epsilon) (n - 1)) + 1

of n stayers, ties apart. So "token-adaptive K" is a constant of the layer; only a quantile of the whole matrix adapts.

At every stage of a run all readings are computed on the tokens that are there; the method goes on by its own one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise

import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from thinsight.config.methods import load_method
from thinsight.costs.budgets import Stage, simulate
from thinsight.methods.ficoco import READINGS, DecoderRedundancy, EncoderRedundancy
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method
from thinsight.reduction.stages import Correlate, Routes
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.attach import reduce
from thinsight.tasks.rows import Row, collate, training_task


def row_edges(stayers: int, epsilon: float) -> int:
    """K of one row of ``stayers`` entries without ties."""
    return math.floor((1 - epsilon) * (stayers - 1) + 1e-9) + 1


def stayers(method: Method, stage: Stage) -> list[int]:
    """How many visual tokens stay at each stage of ``method``, tower first, by its schedule alone."""
    played = simulate(method, stage)
    walk = [*played.tower[: stage.used], *played.visual, played.kept]
    return [after for before, after in pairwise(walk) if after < before]


@dataclass(frozen=True)
class RecordingCorrelate:
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


def recording_edges(method: Method) -> tuple[Method, list[RecordingCorrelate]]:
    """``method`` with correlations that note their edges."""
    recordings = [RecordingCorrelate(r.correlate) for r in method.reductions]
    parts = (replace(r, correlate=w) for r, w in zip(method.reductions, recordings, strict=True))
    return replace(method, reductions=tuple(parts)), recordings


def edges_of(
    model: PreTrainedModel,
    processor: ProcessorMixin,
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
        method, recordings = recording_edges(load_method(name, **fields))
        for row in rows:
            inputs = collate(processor, [row], training_task(task)).to(model.device, model.dtype)
            with torch.inference_mode(), reduce(model, method):
                model(**inputs, logits_to_keep=1)
        for layer, count, edges, most in (call for recording in recordings for call in recording.seen):
            out += [(label, layer, count, k, most) for k in edges.tolist()]
    return pd.DataFrame(out, columns=["point", "layer", "stayers", "edges", "most"])


OTHER = "other term"  # what is subtracted: the class token's attention, or the question's


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


@dataclass(frozen=True)
class RecordingFilter:
    """A filter of FiCoCo as it is, noting a `Moment` at each call."""

    filter: EncoderRedundancy | DecoderRedundancy
    seen: list[Moment] = field(default_factory=list)
    among = "visual"

    @property
    def needs(self) -> frozenset[str]:
        """What the filter needs."""
        return self.filter.needs

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        filters = {reading: replace(self.filter, reading=reading) for reading in READINGS}
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
        return self.filter(tokens, evidence, leave)


def moments(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    task: str,
    rows: Sequence[Row],
    name: str,
    **fields: object,
) -> list[list[Moment]]:
    """For each of the training ``rows`` of ``task`` the moments of one prefill under the method ``name``."""
    out, method = [], load_method(name, **fields)
    for row in rows:
        filters = [RecordingFilter(r.filter) for r in method.reductions]
        parts = tuple(replace(r, filter=recording) for r, recording in zip(method.reductions, filters, strict=True))
        inputs = collate(processor, [row], training_task(task)).to(model.device, model.dtype)
        with torch.inference_mode(), reduce(model, replace(method, reductions=parts)):
            model(**inputs, logits_to_keep=1)
        out.append([moment for recording in filters for moment in recording.seen])
    return out


def spreads(pictures: Sequence[Sequence[Moment]], weight: float) -> pd.DataFrame:
    """How far each reading tells tokens apart: layer, reading, variation, share, same; means over pictures.

    variation  standard deviation of u over the tokens, divided by the size of its mean
    share      of the score's spread that u brings: weight * sd(u) / (weight * sd(u) + (1 - weight) * sd(a))
    same       share of the leavers that would leave under the first of the other readings as well: col_softmax
    """
    out = []
    for moment in (moment for picture in pictures for moment in picture):
        usual = set(moment.leaves["col_softmax"].tolist())
        for reading, u in moment.redundant.items():
            own, other = weight * float(u.std()), (1 - weight) * float(moment.matters[reading].std())
            line = {"layer": moment.layer, "reading": reading, "variation": float(u.std() / u.mean().abs())}
            leaves = moment.leaves[reading].tolist()
            out.append(line | {"share": own / (own + other), "same": len(usual & set(leaves)) / len(leaves)})
    return pd.DataFrame(out).groupby(["layer", "reading"], sort=False).mean().reset_index()


def ranks(pictures: Sequence[Sequence[Moment]]) -> pd.DataFrame:
    """Spearman's rank correlation over tokens between readings, and of each with the term that is subtracted: layer,
    first, second, rho; means over pictures."""
    out = []
    for moment in (moment for picture in pictures for moment in picture):
        terms = {**moment.redundant, OTHER: moment.matters["col_softmax"]}
        for first, second in combinations(terms, 2):
            rho = stats.spearmanr(terms[first].numpy(), terms[second].numpy()).statistic
            out.append({"layer": moment.layer, "first": first, "second": second, "rho": float(rho)})
    return pd.DataFrame(out).groupby(["layer", "first", "second"], sort=False).mean().reset_index()


def maps(moment: Moment, side: int) -> dict[str, Tensor]:
    """The terms of one moment laid out on the picture's grid of ``side`` x ``side`` patches; NaN where none is left."""
    terms = {**moment.redundant, OTHER: moment.matters["col_softmax"]}
    out = {}
    for name, values in terms.items():
        grid = torch.full((side, side), torch.nan)
        grid[moment.cells[:, 1], moment.cells[:, 2]] = values.float()
        out[name] = grid
    return out
