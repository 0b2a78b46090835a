"""What a run will load, need and take, before it starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from thinsight.config.compose import load_task
from thinsight.costs.budgets import Stage, measured_budget, simulate
from thinsight.costs.conventions import PROFILER_LAST
from thinsight.costs.flops import decode_steps, flops, kv_bytes
from thinsight.errors import UserError
from thinsight.evaluation.answer import shareable
from thinsight.evaluation.sweep import SweepPoint, sweep_points
from thinsight.models.loading import checkpoint, torch_dtype
from thinsight.paths import ROOT
from thinsight.tasks.sources import files, local_files, patterns, task_table

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from torch import nn


@dataclass(frozen=True)
class Estimate:
    """What there is to do, in sizes.

    stage    sizes of the model and of a prompt;  lengths  tokens entering each decoder layer, under each budget
    tasks    (rows, most tokens of an answer) of each task
    weights  parameters;  vision  FLOPs of one picture in front of the decoder;  looks  how often each is looked at
    batch    rows at a time;  element  bytes of a number
    """

    stage: Stage
    lengths: Sequence[Sequence[int]]
    tasks: Sequence[tuple[int, int]]
    weights: int
    vision: int
    looks: int
    batch: int
    element: int

    @classmethod
    def of(
        cls,
        config: DictConfig,
        model: "nn.Module",
        points: Sequence[SweepPoint],
        tasks: Sequence[tuple[DictConfig, int]],
    ) -> "Estimate":
        """Of a config, its model on the meta device, its budgets and its tasks with their rows."""
        from thinsight.costs.meta_device import tower_flops
        from thinsight.models.image_tokens import largest_image

        stage = measured_budget(model, config)
        return cls(
            stage=stage,
            lengths=[_lengths(point, stage) for point in points],
            tasks=[(rows, task.max_new_tokens) for task, rows in tasks],
            weights=sum(p.numel() for p in model.parameters()),
            vision=sum(tower_flops(model, largest_image(model.config, config.model.processor)).values()),
            looks=1 if shareable([point.method for point in points]) else len(points),
            batch=config.batch_size,
            element=torch_dtype(config.model.dtype).itemsize,
        )

    @cached_property
    def rows(self) -> int:
        """Of all tasks."""
        return sum(rows for rows, _ in self.tasks)

    def need(self) -> dict[str, float]:
        """Gigabytes of memory; of activations those of one decoder layer for one batch, unreduced."""
        shape, tokens = self.stage.shape, self.stage.total + self.stage.text
        longest = max(most for _, most in self.tasks)
        weights = self.weights * self.element
        cache = self.batch * kv_bytes(shape, [tokens] * self.stage.depth, longest, self.element)
        states = self.batch * tokens * (3 * shape.ffn + 6 * shape.width) * self.element
        parts = {"weights": weights, "kv_cache": cache, "activations": states, "memory": weights + cache + states}
        return {f"{name}_gb": _short(size / 1e9) for name, size in parts.items()}

    def take(self, tflops: float) -> dict[str, Any]:
        """Answers, tokens, petaFLOP and hours at ``tflops`` teraFLOP per second."""
        prefill = self.rows * sum(self._flops(lengths) for lengths in self.lengths)
        whole = sum(rows * self._flops(lengths, most) for rows, most in self.tasks for lengths in self.lengths)
        vision = self.rows * self.looks * self.vision
        counts = {"prefill": prefill, "vision": vision, "decoding_at_most": whole - prefill}
        return {
            "rows": self.rows,
            "answers": self.rows * len(self.lengths),
            "generated_tokens_at_most": sum(rows * most for rows, most in self.tasks) * len(self.lengths),
            "pflop": {name: _short(count / 1e15) for name, count in counts.items()},
            "pflop_at_most": _short((whole + vision) / 1e15),
            "hours_at_most": _short((whole + vision) / (tflops * 1e12) / 3600),
        }

    def _flops(self, lengths: Sequence[int], tokens: int = 1) -> int:
        return flops(self.stage.shape, lengths, PROFILER_LAST, steps=decode_steps(lengths, tokens))


def assumptions(config: DictConfig, tflops: float) -> list[str]:
    """What the numbers of an `Estimate` take for granted, in sentences."""
    return [
        f"the device sustains {tflops:g} TFLOP/s (--tflops): not measured, so hours are a guess",
        f"prompts have {config.text_tokens} tokens of text (text_tokens), pictures are the largest that there are",
        "every answer takes all the tokens that it may; most end after a few",
        f"FLOPs are counted as {PROFILER_LAST.name} does: {PROFILER_LAST.sentence}",
        "activations are those of one decoder layer for one batch; what a method computes to choose is not counted",
    ]


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def _lengths(point: SweepPoint, stage: Stage) -> list[int]:
    """Tokens entering each decoder layer; of a method that decides that by the picture, those of the whole model."""
    try:
        visual = simulate(point.method, stage).visual
    except UserError:
        visual = [stage.total] * stage.depth
    return [n + stage.text for n in visual]


SECONDS = 5
"""How long the hub is waited for."""


@dataclass(frozen=True)
class Presence:
    """``where``: local, cached (of the hub), hub or missing; ``missing``: why, in one sentence; ``rows`` if known."""

    where: Literal["local_files", "cached", "hub", "missing"]
    missing: str | None = None
    rows: int | None = None

    @property
    def here(self) -> bool:
        """Whether nothing has to be fetched."""
        return self.where in ("local", "cached")

    @property
    def json(self) -> dict[str, Any]:
        """What a plan says of it."""
        return {"where": self.where, "here": self.here}


def model_presence(model: DictConfig) -> Presence:
    """Of a model's weights and its processor."""
    try:
        source = checkpoint(model)
    except UserError as error:
        return Presence("missing", str(error))
    if isinstance(source, Path):
        weights = [*source.glob("*.safetensors")]
        return Presence("local") if weights else Presence("missing", f"model {model.name} has no weights in {source}.")
    return _on_hub(f"model {model.name}", source, "model", model.revision, ["config.json", "*.safetensors"])


def tower_presence(model: DictConfig) -> Presence:
    """Of the text tower that methods in CLIP's space read, where a model names one."""
    if model.text_tower and (ROOT / model.text_tower / "config.json").is_file():
        return Presence("local")
    if not model.text_tower:
        return Presence("missing", f"model {model.name} names no aligned text tower, which this method needs.")
    return _on_hub(f"the text tower of model {model.name}", model.text_tower, "model", None, ["config.json"])


def task_presence(task: DictConfig) -> Presence:
    """Of a task's data; ``rows`` is read off the files where they are here, else it is what the task's file says."""
    try:
        if task.kind != "hub":
            return Presence("local", rows=_parquet_rows([ROOT / task.path]) if task.path else len(task_table(task)))
        if task.path:
            return Presence("local", rows=_split_rows(task, local_files(task)))
    except (UserError, OSError) as error:
        text = str(error) if isinstance(error, UserError) else f"task {task.name} has no data at {task.path}."
        return Presence("missing", text, task.rows)
    if folder := _cached(task.hub, "dataset", task.revision, patterns(task)):
        return Presence("cached", rows=_split_rows(task, folder))
    found = _on_hub(f"task {task.name}", task.hub, "dataset", task.revision, patterns(task))
    return Presence(found.where, found.missing, task.rows)


def _split_rows(task: DictConfig, folder: Path) -> int:
    if task.pictures:
        files(task, folder, task.pictures)
    return _parquet_rows(files(task, folder, task.subset))


def _parquet_rows(paths: list[Path]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in paths)


def _on_hub(whose: str, name: str, kind: str, revision: str | None, needed: list[str]) -> Presence:
    if _cached(name, kind, revision, needed):
        return Presence("cached")
    try:
        _api().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
    except Exception as error:  # the network's and the hub's errors share no base class
        reason = "does not have it" if "NotFound" in type(error).__name__ else "cannot be reached"
        return Presence("missing", f"{whose} is not in the local cache, and the hub {reason} as {name}.")
    return Presence("hub")


def _cached(name: str, kind: str, revision: str | None, needed: list[str]) -> Path | None:
    """The snapshot in the hub's cache, if it has a file of each pattern."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except Exception:  # whatever is wrong with it, it cannot be used
        return None
    return folder if all(any(folder.glob(pattern)) for pattern in needed) else None


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi()


TFLOPS = 50.0
"""Sustained teraFLOP per second that hours are told for, unless another number is given."""


COPIES = 2
"""A data set lies on disk as it was fetched and as it is mapped into memory."""


def dry_run(config: DictConfig, tflops: float = TFLOPS) -> dict[str, Any]:
    """The plan of ``config`` as plain data: ``load``, ``need``, ``take``, ``assumptions``, ``missing`` (sentences).

    ``tflops``: what the device is taken to sustain. A config that could not run is a `UserError`, as in a real run;
    data or weights that are not here are not: they are named. ``need`` and ``take`` are None if the model's shape
    stands only in files that are not here.
    """
    if tflops <= 0:
        raise UserError(f"--tflops is the speed of a device, so more than 0, not {tflops:g}.")
    points = sweep_points(config)
    chosen = [load_task(name) for name in config.tasks] or [config.task]
    with_tower = any("text_tower" in point.method.needs for point in points)
    with ThreadPoolExecutor() as pool:  # a hub that cannot be reached takes its time to say so
        of_model = pool.submit(model_presence, config.model)
        of_tower = pool.submit(tower_presence, config.model) if with_tower else None
        tasks = dict(zip([task.name for task in chosen], pool.map(task_presence, chosen), strict=True))
    model, tower = of_model.result(), of_tower.result() if of_tower else None
    rows = {name: _limited(task.rows, config.limit) for name, task in tasks.items()}
    need, take = None, None
    if (shape := _shape(config)) is not None:
        estimate = Estimate.of(config, shape, points, [(task, rows[task.name] or 0) for task in chosen])
        need, take = estimate.need(), estimate.take(tflops)
        fetched = sum(task.gigabytes or 0 for task in chosen if not tasks[task.name].here)
        need["disk_gb"] = round(COPIES * fetched + (0 if model.here else need["weights_gb"]), 2)
    return {
        "run": config.run,
        "load": {
            "model": {**_named(config.model, "name", "checkpoint", "revision"), **model.json},
            "text_tower": {"checkpoint": config.model.text_tower, **tower.json} if tower else None,
            "tasks": {task.name: _task(task, rows[task.name]) | tasks[task.name].json for task in chosen},
            "method": {"name": config.method.name, "budgets": [point.name for point in points]},
        },
        "need": need,
        "take": take,
        "assumptions": assumptions(config, tflops),
        "missing": [one.missing for one in (model, tower, *tasks.values()) if one and one.missing],
    }


def _task(task: DictConfig, rows: int | None) -> dict[str, Any]:
    return {"source": task.path or task.hub or task.source, **_named(task, "revision", "split"), "rows": rows}


def _named(node: DictConfig, *keys: str) -> dict[str, Any]:
    return {key: node[key] for key in keys}


def _limited(rows: int | None, limit: int | None) -> int | None:
    return rows if limit is None or rows is None else min(rows, limit)


def _shape(config: DictConfig) -> "nn.Module | None":
    """The model on the meta device; None if its shape stands only in files that are not here."""
    from thinsight.models.loading import meta_model

    try:
        return meta_model(config.model)
    except UserError:
        return None
