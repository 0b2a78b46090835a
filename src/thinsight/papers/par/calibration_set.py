"""Training questions as PAR and TRSM see them: kept once, so that thresholds are tried without running the model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import fmean, pstdev
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from thinsight.analysis.prompt_awareness import training_batches
from thinsight.config.methods import load_method, read_method
from thinsight.evaluation.answer import answer
from thinsight.evaluation.sharing import shared_layers
from thinsight.methods.par import PromptAware, Routing
from thinsight.methods.prompt_relevance import QueriesAndTokens, Relevance
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.schedules import Keep
from thinsight.reduction.sites import Projected
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.attach import reduce
from thinsight.tasks.rows import Row

TASKS = ("exist", "attribute", "relation", "count", "read", "choice")


@dataclass(frozen=True)
class EvidenceRecorder:
    """A filter that no token leaves by; ``read(tokens, evidence)`` is called with what any filter is shown."""

    read: Callable[[Tokens, Evidence], Any]
    needs: frozenset[str]
    records: list[Any] = field(default_factory=list)
    among = "visual"
    adaptive = True

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: None) -> Tensor:
        self.records.append(self.read(tokens, evidence))
        return torch.empty(0, dtype=torch.int64)


def record_evidence(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    read: Callable[[Tokens, Evidence], Any],
    needs: frozenset[str],
) -> list[Any]:
    """What ``read`` returns for every prompt, in order, between projector and decoder."""
    recorder = EvidenceRecorder(read, needs)
    method = Method("recording", (Reduction(recorder, site=Projected(), schedule=Keep(None)),))
    with torch.inference_mode(), reduce(model, method):
        for inputs in batches:
            model(**inputs, logits_to_keep=1)
    return recorder.records


@dataclass(frozen=True)
class CachedQuestion:
    """One question: projected tokens ``v`` and features ``x`` (N, width), their cells, and the sides of each space."""

    v: Tensor
    x: Tensor
    cells: Tensor
    sides: Mapping[Relevance, QueriesAndTokens]


@dataclass
class CalibrationSet:
    """``rows`` of each task, put to ``model``; ``spaces``: the relevances that settings will ask for."""

    model: PreTrainedModel
    processor: ProcessorMixin
    rows: Mapping[str, Sequence[Row]]
    spaces: Sequence[Relevance]
    routed: dict[PromptAware, list[tuple[Routing, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needs = frozenset({"features"}).union(*(space.needs for space in self.spaces))
        batches = (inputs for _, _, inputs in training_batches(self.model, self.processor, self.rows))
        self.questions: list[CachedQuestion] = record_evidence(self.model, batches, self._cache, needs)

    @property
    def patches(self) -> int:
        """Visual tokens of a question."""
        return len(self.questions[0].v)

    def kept(self, stage: PromptAware) -> list[int]:
        """How many tokens a setting of PAR keeps of each question; the model does not run."""
        return [
            len(stage.router(routing.relevance, similarity, routing.clusters, routing.candidates, None))
            for routing, similarity in self.routings(stage)
        ]

    def routings(self, stage: PromptAware) -> list[tuple[Routing, Tensor]]:
        """What the router of ``stage`` works on, for each question; the same for all routers."""
        key = replace(stage, router=type(stage.router)())
        if key not in self.routed:
            routings = [
                stage.retrieve(q.sides[stage.relevance], q.x if stage.graph == "x" else q.v, q.cells)
                for q in self.questions
            ]
            self.routed = {key: routings}  # large: only the last
        return self.routed[key]

    def scores(self, methods: Sequence[Method]) -> list[dict[str, Any]]:
        """Of each method: the accuracy over all questions, the model's own answers, and mean, standard deviation, least
        and most of the tokens ``kept``."""
        records: list[list[dict]] = [[] for _ in methods]
        with shared_layers(self.model) as shared:
            for task, rows, inputs in training_batches(self.model, self.processor, self.rows):
                shared.begin(inputs)
                for answers, method in zip(records, methods, strict=True):
                    answers += answer(self.model, self.processor, method, inputs, rows, task)
        return [
            {"accuracy": fmean(bool(a["correct"]) for a in answers), "kept": spread([len(a["kept"]) for a in answers])}
            for answers in records
        ]

    def _cache(self, tokens: Tokens, evidence: Evidence) -> CachedQuestion:
        features = evidence.get("features")[evidence.place(tokens.index)]
        sides = {space: space.embed(tokens, evidence) for space in self.spaces}
        sides = {space: QueriesAndTokens(s.queries.cpu(), s.tokens.cpu(), s.blank) for space, s in sides.items()}
        return CachedQuestion(tokens.states.float().cpu(), features.float().cpu(), evidence.cells(tokens.index), sides)


def spread(counts: Sequence[int]) -> dict[str, float]:
    """Mean, standard deviation, least and most of some numbers of tokens."""
    return {"mean": fmean(counts), "sd": pstdev(counts), "min": min(counts), "max": max(counts)}


def par_method(fields: Mapping[str, Any]) -> Method:
    """PAR with these fields."""
    return load_method(_node(), **fields)


@cache
def _node() -> DictConfig:
    """Reading a file takes longer than routing a question."""
    return read_method("par")
