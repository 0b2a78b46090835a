"""Training questions with all that PAR looks at, heard once, so that many settings can be played through."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import Tensor

from thinsight.anatomy import find
from thinsight.answer import answer
from thinsight.calibration import training_task
from thinsight.config import load_config, load_method
from thinsight.evidence import Evidence
from thinsight.listening import listen_to
from thinsight.reduction import Method
from thinsight.sharing import looking_once
from thinsight.stages.prompt_aware import PromptAware, Routing
from thinsight.stages.relevance import Relevance, Sides
from thinsight.tasks import Row, collate
from thinsight.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BATCH = 50


@dataclass(frozen=True)
class Sound:
    """One question: projected tokens ``v`` and features ``x`` (N, width), their cells, and the sides of each space."""

    v: Tensor
    x: Tensor
    cells: Tensor
    sides: Mapping[Relevance, Sides]


@dataclass
class Heard:
    """``rows`` of each task, put to ``model``; ``spaces``: the relevances that settings will ask for."""

    model: "PreTrainedModel"
    processor: "ProcessorMixin"
    rows: Mapping[str, Sequence[Row]]
    spaces: Sequence[Relevance]
    routed: dict[PromptAware, list[tuple[Routing, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = {name: training_task(name) for name in self.rows}
        needs = frozenset({"features"}).union(*(space.needs for space in self.spaces))
        batches = (inputs for _, _, inputs in self.batches())
        self.sounds: list[Sound] = listen_to(self.model, batches, self._hear, needs)

    @property
    def patches(self) -> int:
        """Visual tokens of a question."""
        return len(self.sounds[0].v)

    def batches(self) -> Iterator[tuple[str, Sequence[Row], Any]]:
        """Task, rows and model inputs, in the order of ``sounds``."""
        for name, rows in self.rows.items():
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                inputs = collate(self.processor, part, self.tasks[name])
                yield name, part, inputs.to(self.model.device, self.model.dtype)

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
            self.routed = {key: [self.route(stage, sound, sound) for sound in self.sounds]}  # large: only the last
        return self.routed[key]

    def route(self, stage: PromptAware, sound: Sound, asking: Sound) -> tuple[Routing, Tensor]:
        """The picture of ``sound`` routed by the question of ``asking``."""
        own, other = sound.sides[stage.relevance], asking.sides[stage.relevance]
        seen = sound.x if stage.graph == "x" else sound.v
        return stage.retrieve(Sides(other.queries, own.tokens, other.blank), seen, sound.cells)

    def score(self, method: Method) -> dict[str, Any]:
        """Accuracy over all questions, the model's own answers, and the numbers of tokens kept."""
        return self.scores([method])[0]

    def scores(self, methods: Sequence[Method]) -> list[dict[str, Any]]:
        """The same for several methods."""
        records: list[list[dict]] = [[] for _ in methods]
        with looking_once(find(self.model).vision):
            for name, rows, inputs in self.batches():
                for found, method in zip(records, methods, strict=True):
                    found += answer(self.model, self.processor, method, inputs, rows, self.tasks[name])
        return [summary(found) for found in records]

    def _hear(self, tokens: Tokens, evidence: Evidence) -> Sound:
        features = evidence.get("features")[evidence.place(tokens.index)]
        sides = {space: on_cpu(space.sides(tokens, evidence)) for space in self.spaces}
        return Sound(tokens.states.float().cpu(), features.float().cpu(), evidence.cells(tokens.index), sides)


@dataclass(frozen=True)
class Given:
    """A filter that keeps what it is given, one prompt after the other."""

    rows: Iterator[Tensor]
    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        return tokens.rest(next(self.rows))


def on_cpu(sides: Sides) -> Sides:
    """The same beside the CPU's other numbers."""
    return Sides(sides.queries.cpu(), sides.tokens.cpu(), sides.blank)


def par(fields: Mapping[str, Any]) -> Method:
    """PAR with these fields."""
    return load_method(_node(), **fields)


@cache
def _node() -> DictConfig:
    """Composing a configuration takes longer than routing a question."""
    return load_config(["method=par"]).method


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy, and mean, standard deviation, least and most of the tokens kept."""
    kept = [len(record["kept"]) for record in records]
    spread = {"mean": statistics.fmean(kept), "sd": statistics.pstdev(kept), "min": min(kept), "max": max(kept)}
    return {"accuracy": statistics.fmean(bool(record["correct"]) for record in records), "kept": spread}
