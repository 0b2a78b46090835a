"""PAR's thresholds chosen on training questions, and the sign of CLIP relevance.

In some CLIP towers the features that LLaVA reads respond inversely to a text, so that a method which keeps the highest
products would keep what the question is not about (see `thinsight.methods.prompt_relevance`). Boxed pictures decide it.

python -m thinsight.papers.par.calibration [override...] [--questions 50] [--out data/pocket/par.json]

For each candidate setting the redundancy threshold tau_r is solved so that the mean number of kept tokens meets the
target (a ninth: the paper's compression by 89 %); of those that meet it, the one with the best accuracy on the training
questions is kept, the first of equals: step by step, in each of the two spaces, and at last the better space. Every
setting that was tried is in the file, with each space's sign test and its test with shuffled questions (the same
pictures cut by another question of their task), and the curve over tau_r.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from thinsight.analysis.prompt_awareness import FixedChoice
from thinsight.config.compose import load_config, load_task
from thinsight.config.methods import load_method
from thinsight.errors import UserError, command
from thinsight.evaluation.answer import answer, cache_tower
from thinsight.evaluation.protocol import weights_hash
from thinsight.methods.par import PromptAware, Routing
from thinsight.methods.prompt_relevance import Relevance, Sides
from thinsight.models.architecture import find_parts
from thinsight.models.loading import load_model
from thinsight.paths import ROOT
from thinsight.pocket.questions import pair, shapes_of, unique
from thinsight.pocket.scenes import PATCH, SIDE, TEST_SEEDS, Thing, draw, sample
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.schedules import Adaptive
from thinsight.reduction.sites import Projected
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.attach import reduce
from thinsight.tasks.rows import Row, collate, training_rows, training_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Listener:
    """A filter that no token leaves by; ``ear(tokens, evidence)`` is called with what any filter is shown."""

    ear: Callable[[Tokens, Evidence], Any]
    needs: frozenset[str] = frozenset()
    heard: list[Any] = field(default_factory=list)
    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: None) -> Tensor:
        self.heard.append(self.ear(tokens, evidence))
        return torch.empty(0, dtype=torch.int64)


def listen_to(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    ear: Callable[[Tokens, Evidence], Any],
    needs: frozenset[str] = frozenset(),
) -> list[Any]:
    """What ``ear`` says of every prompt, in order, between projector and decoder."""
    listener = Listener(ear, needs)
    method = Method("listening", (Reduction(listener, site=Projected(), schedule=Adaptive()),))
    with torch.inference_mode(), reduce(model, method):
        for inputs in batches:
            model(**inputs, logits_to_keep=1)
    return listener.heard


BATCH = 50


@dataclass(frozen=True)
class CachedQuestion:
    """One question: projected tokens ``v`` and features ``x`` (N, width), their cells, and the sides of each space."""

    v: Tensor
    x: Tensor
    cells: Tensor
    sides: Mapping[Relevance, Sides]


@dataclass
class CalibrationSet:
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
        self.sounds: list[CachedQuestion] = listen_to(self.model, batches, self._hear, needs)

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

    def route(self, stage: PromptAware, sound: CachedQuestion, asking: CachedQuestion) -> tuple[Routing, Tensor]:
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
        with cache_tower(find_parts(self.model).vision):
            for name, rows, inputs in self.batches():
                for found, method in zip(records, methods, strict=True):
                    found += answer(self.model, self.processor, method, inputs, rows, self.tasks[name])
        return [calibration_summary(found) for found in records]

    def _hear(self, tokens: Tokens, evidence: Evidence) -> CachedQuestion:
        features = evidence.get("features")[evidence.place(tokens.index)]
        sides = {space: on_cpu(space.sides(tokens, evidence)) for space in self.spaces}
        return CachedQuestion(tokens.states.float().cpu(), features.float().cpu(), evidence.cells(tokens.index), sides)


def on_cpu(sides: Sides) -> Sides:
    """The same beside the CPU's other numbers."""
    return Sides(sides.queries.cpu(), sides.tokens.cpu(), sides.blank)


def par_method(fields: Mapping[str, Any]) -> Method:
    """PAR with these fields."""
    return load_method(_node(), **fields)


@cache
def _node() -> DictConfig:
    """Composing a configuration takes longer than routing a question."""
    return load_config(["method=par"]).method


def calibration_summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy, and mean, standard deviation, least and most of the tokens kept."""
    kept = [len(record["kept"]) for record in records]
    spread = {"mean": statistics.fmean(kept), "sd": statistics.pstdev(kept), "min": min(kept), "max": max(kept)}
    return {"accuracy": statistics.fmean(bool(record["correct"]) for record in records), "kept": spread}


SEEDS = range(TEST_SEEDS, TEST_SEEDS + 64)
"""Scenes of the training range."""


@dataclass(frozen=True)
class SignTest:
    """What the test found in one space.

    difference  mean over scenes of (mean score inside - mean score outside the box), scores being plus cosines
    error       its standard error
    positive    share of scenes where it is above zero
    scenes      how many
    """

    space: str
    difference: float
    error: float
    positive: float
    scenes: int

    @property
    def sign(self) -> int:
        """1 if patches that show the thing score higher, else -1."""
        return 1 if self.difference > 0 else -1

    def plain(self) -> dict:
        """As plain data."""
        return asdict(self) | {"sign": self.sign}


def sign_test(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    relevance: Relevance,
    task: "DictConfig",
    seeds: Sequence[int] = SEEDS,
) -> SignTest:
    """Score, in each scene, one thing that is the only one of its colour and shape, asked for as in the task exist."""
    asked = [found for seed in seeds if (found := _question(seed)) is not None]
    batches = [
        collate(processor, [row for row, _ in asked[start : start + 32]], task).to(model.device, model.dtype)
        for start in range(0, len(asked), 32)
    ]
    told = replace(relevance, sign=1)
    scores = listen_to(model, batches, told, told.needs)
    gaps = torch.stack([_gap(score.cpu(), box) for score, (_, box) in zip(scores, asked, strict=True)]).double()
    error = float(gaps.std() / len(gaps) ** 0.5)
    return SignTest(relevance.space, float(gaps.mean()), error, float((gaps > 0).double().mean()), len(gaps))


def inside(thing: Thing) -> Tensor:
    """(rows, columns) bool: patches whose centre lies in the box around a shape, by the largest radius of its size."""
    radius = 17.0 if thing.size == "large" else 9.5
    centre = torch.arange(SIDE // PATCH) * PATCH + PATCH / 2
    rows, columns = (centre - thing.y).abs() <= radius, (centre - thing.x).abs() <= radius
    return rows[:, None] & columns[None]


def _question(seed: int) -> tuple[Row, Tensor] | None:
    scene = sample(seed)
    things = unique(shapes_of(scene), pair)
    if not things:
        return None
    text = f"Is there a {things[0].color} {things[0].shape} in the image?"
    return Row(str(seed), draw(scene), text, "yes", "sign"), inside(things[0]).flatten()


def _gap(score: Tensor, box: Tensor) -> Tensor:
    return score[box].mean() - score[~box].mean()


TASKS = ("exist", "attribute", "relation", "count", "read", "choice")


TARGET = 1 / 9


CLOSE = 0.05
"""How far the mean may be off, as a share of the target; a setting that comes no closer is not eligible."""


SIGNED = Relevance(rewriting="rules", asked=("entities",), phrase="a {}")
"""What the sign test scores patches by, in each space."""


SPACES = ("llm", "clip")


START = {
    "rewriting": "rules",
    "asked": ["entities", "actions", "whole"],
    "phrase": "a {}",
    "graph": "x",
    "clusters": "components",
    "tau_g": 0.97,
    "tau_g_measure": "quantile",
    "scope": "global",
    "merge": "drop",
}


GRAPHS = (("components", 0.97), ("components", 0.99), ("mutual_knn", 0.9), ("window", 0.95), ("none", 1.0))


STEPS: dict[str, list[dict[str, Any]]] = {
    "thresholds": [{"tau_e": e, "tau_s": s} for e in (0.3, 0.5, 0.7, 0.2, 0.1) for s in (0.2, 0.1, 0.4)],
    "queries": [{"asked": a} for a in (START["asked"], ["entities", "whole"], ["entities"], ["whole"])],
    "graph": [{"graph": "x", "clusters": rule, "tau_g": level} for rule, level in GRAPHS]
    + [{"graph": "v", "clusters": "components", "tau_g": 0.99}],
    "router": [{"scope": scope, "merge": merge} for scope in ("global", "local") for merge in ("drop", "mean")],
}
"""What is tried at each step, on top of what the steps before have chosen. The order decides between equals."""


CURVE = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)


TRSM = [{"space": space, "keep": keep} for space in SPACES for keep in (0.8, 0.2)]
"""The two readings of TRSM's budget in both spaces, scored beside it."""


def calibrate(heard: CalibrationSet, space: str, target: float = TARGET) -> dict[str, Any]:
    """The fields of ``conf/method/par.yaml`` chosen in one space, what they give, and all that was tried."""
    best: dict[str, Any] = {"fields": {"space": space, **START}}
    tried, wanted = [], target * heard.patches
    for step, options in STEPS.items():
        found = [solved_threshold(heard, {**best["fields"], **option}, target) for option in options]
        fields = [one for one, mean in found if abs(mean - wanted) <= CLOSE * wanted]
        scores = heard.scores([par_method(one) for one in fields])
        lines = [{"step": step, "fields": one, **scored} for one, scored in zip(fields, scores, strict=True)]
        tried += lines + [{"step": step, "fields": one, "missed": mean} for one, mean in found if one not in fields]
        best = max([best, *lines], key=lambda one: one.get("accuracy", -1.0))
    if "accuracy" not in best:
        raise UserError(f"in the space {space} no setting keeps {target:.0%} of the visual tokens in the mean")
    return {name: best[name] for name in ("fields", "accuracy", "kept")} | {"tried": tried}


def solved_threshold(heard: CalibrationSet, fields: Mapping[str, Any], target: float) -> tuple[dict[str, Any], float]:
    """``fields`` with the tau_r, in hundredths, that brings the mean number of kept tokens closest to the target; and
    that mean."""
    wanted, means = target * heard.patches, {}
    stage = par_method(fields).reductions[0].filter

    def off(level: int) -> float:
        if level not in means:
            kept = heard.kept(replace(stage, router=replace(stage.router, redundant=level / 100)))
            means[level] = sum(kept) / len(kept)
        return means[level] - wanted

    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if off(middle) < 0 else (low, middle)
    near = min((low, max(low - 1, 0)), key=lambda level: abs(off(level)))
    return {**fields, "tau_r": near / 100}, off(near) + wanted


def calibration_curve(heard: CalibrationSet, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy and kept tokens over tau_r."""
    scores = heard.scores([par_method({**fields, "tau_r": level}) for level in CURVE])
    return [{"tau_r": level, **scored} for level, scored in zip(CURVE, scores, strict=True)]


def shuffled(heard: CalibrationSet, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What remains if each picture is cut by another question of its task, and asked its own.

    For a method that goes by the prompt the kept tokens differ and the accuracy falls. ``changed``: share of questions
    with other kept tokens; ``common``: mean share of the kept tokens that stay the same.
    """
    stage = par_method(fields).reductions[0].filter
    asked = [(name, row.question) for name, rows in heard.rows.items() for row in rows]
    kept, own = [], []
    for i, (name, question) in enumerate(asked):
        others = [j for j, (task, text) in enumerate(asked) if task == name and text != question]
        other = heard.sounds[min((j for j in others if j > i), default=others[0])]
        for asking, found in ((other, kept), (heard.sounds[i], own)):
            routing, similarity = heard.route(stage, heard.sounds[i], asking)
            found.append(stage.router(routing.relevance, similarity, routing.clusters, routing.candidates, None))
    common = [len({*a.tolist()} & {*b.tolist()}) / len(b) for a, b in zip(kept, own, strict=True)]
    site = Projected(positions="pack")
    method = Method("shuffled", (Reduction(FixedChoice(iter(kept)), site=site, schedule=Adaptive()),))
    changed = sum(a.tolist() != b.tolist() for a, b in zip(kept, own, strict=True)) / len(own)
    return {"changed": changed, "common": sum(common) / len(common), **heard.score(method)}


def main(arguments: list[str]) -> None:
    """``override... [--questions N] [--out FILE]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.papers.par.calibration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides: model=pocket")
    parser.add_argument("--questions", type=int, default=50, help="training questions of each task")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "pocket" / "par.json")
    given = parser.parse_args(arguments)
    config = load_config(given.overrides)
    model, processor = load_model(config)
    rules = Relevance(rewriting=START["rewriting"], phrase=START["phrase"])
    relevances = [replace(rules, space=space, asked=o["asked"]) for space in SPACES for o in STEPS["queries"]]
    heard = CalibrationSet(model, processor, training_rows(config.tasks or TASKS, given.questions), relevances)
    found = {space: calibrate(heard, space) for space in SPACES}
    for space, one in found.items():
        one["sign"] = sign_test(model, processor, replace(SIGNED, space=space), load_task("exist")).plain()
        one["shuffled"] = shuffled(heard, one["fields"])
    best = max(found.values(), key=lambda one: one["accuracy"])
    trsm = heard.scores([load_method("trsm", **fields) for fields in TRSM])
    record = {
        "model": config.model.name,
        "weights_sha256": weights_hash(config.model),
        "questions": len(heard.sounds),
        "target": TARGET,
        "whole": heard.score(load_method("identity"))["accuracy"],
        "fields": best["fields"],
        "spaces": found,
        "curve": calibration_curve(heard, best["fields"]),
        "trsm": [fields | scored for fields, scored in zip(TRSM, trsm, strict=True)],
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
