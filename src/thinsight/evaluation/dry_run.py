"""What a run will load, need and take, before it starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from torch import nn

from thinsight.costs.budgets import PrefillSizes, prefill_sizes_of, simulate
from thinsight.costs.conventions import PROFILER_LAST
from thinsight.costs.flops import decode_steps, flops, kv_bytes
from thinsight.costs.meta_device import tower_flops
from thinsight.errors import UserError
from thinsight.evaluation.sweep import SweepPoint, sweep_points
from thinsight.models.image_tokens import largest_image
from thinsight.models.loading import checkpoint, meta_model
from thinsight.paths import ROOT
from thinsight.reduction.method import Method
from thinsight.reduction.sites import Decoder, Projected, RandomDecoder
from thinsight.tasks import sources
from thinsight.tasks.functions import function_name, task_function
from thinsight.tasks.hub import files, local_files, patterns
from thinsight.tasks.rows import run_tasks

TFLOPS = 50.0
"""Sustained teraFLOP per second that hours are estimated for, unless another number is given."""

GBPS = 1000.0
"""Gigabytes per second that the device is taken to read of its memory, unless another number is given."""

SLOWEST, FASTEST = 1e-6, 1e9
"""Of the speeds that hours are estimated for."""

LAUNCH = 1e-4
"""Seconds that starting the kernels of one decoder layer takes, whatever they compute: some twenty of 5 us each."""

COPIES = 2
"""A data set lies on disk as it was fetched and as it is mapped into memory."""

SECONDS = 5
"""How long the hub is waited for."""


def dry_run(config: DictConfig, tflops: float = TFLOPS, gbps: float = GBPS) -> dict[str, Any]:
    """The plan of ``config`` as plain data: ``load``, ``need``, ``take``, ``assumptions``, ``missing`` (sentences).

    ``tflops``, ``gbps``: what the device is taken to sustain, and to read of its memory in a second. A config that
    could not run is a `UserError`, as in a real run;
    data or weights that are not here are not: they are named. ``need`` and ``take`` are None if the model's shape
    stands only in files that are not here.
    """
    for option, speed in {"--tflops": tflops, "--gbps": gbps}.items():
        if not SLOWEST <= speed <= FASTEST:
            raise UserError(
                f"{option} is the speed of a device, a number from {SLOWEST:g} to {FASTEST:g}, not {speed:g}."
            )
    points, tasks = sweep_points(config), run_tasks(config)
    with_tower = any("text_tower" in point.method.needs for point in points)
    with ThreadPoolExecutor() as pool:  # a hub that cannot be reached takes its time to say so
        model_future = pool.submit(model_presence, config.model)
        tower_future = pool.submit(tower_presence, config.model) if with_tower else None
        data = list(pool.map(task_presence, tasks))
    model, tower = model_future.result(), tower_future.result() if tower_future else None
    rows = [place.rows if None in (place.rows, config.limit) else min(place.rows, config.limit) for place in data]
    need, take = None, None
    try:
        meta = meta_model(config.model)
    except UserError:
        if model.here or config.model.architecture:
            raise
        # its shape stands only in files that are not here
    else:
        questions = [(n or 0, task.max_new_tokens) for n, task in zip(rows, tasks, strict=True)]
        work = Workload(config, meta, points, questions)
        need, take = work.memory(), work.compute(tflops, gbps)
        fetched = sum(task.gigabytes or 0 for task, place in zip(tasks, data, strict=True) if not place.here)
        need["disk_gb"] = round(COPIES * fetched + (0 if model.here else need["weights_gb"]), 2)
    return {
        "run": config.run,
        "load": {
            "model": {key: config.model[key] for key in ("name", "checkpoint", "revision")} | model.card,
            "text_tower": {"checkpoint": config.model.text_tower, **tower.card} if tower else None,
            "tasks": {
                task.name: {"source": task.path or task.hub or task.source, "revision": task.revision}
                | {"split": task.split, "rows": n, **place.card}
                for task, n, place in zip(tasks, rows, data, strict=True)
            },
            "method": {"name": config.method.name, "budgets": [str(point.budget) for point in points]},
        },
        "need": need,
        "take": take,
        "assumptions": assumptions(config, tflops, gbps),
        "missing": [place.missing for place in (model, tower, *data) if place and place.missing],
    }


def assumptions(config: DictConfig, tflops: float, gbps: float) -> list[str]:
    """What the numbers of a `Workload` take for granted, in sentences."""
    return [
        f"hours are an estimate, not a bound: the device is taken to sustain {tflops:g} TFLOP/s (--tflops), to read "
        f"{gbps:g} GB/s of its memory (--gbps) and to start a layer's kernels in {1000 * LAUNCH:g} ms; a token of an "
        "answer reads all weights and the cache once a batch",
        f"prompts have {config.text_tokens} tokens of text (text_tokens), pictures are the largest that there are",
        "every answer takes all the tokens that it may; most end after a few",
        f"FLOPs are counted as {PROFILER_LAST.name} does: {PROFILER_LAST.sentence}",
        "activations are those of one decoder layer for one batch; what a method computes to choose, and what reading "
        "and preparing pictures takes, is not counted",
    ]


class Workload:
    """What there is to do, in sizes: for ``model`` on the meta device, at the budgets ``points``.

    tasks  (rows, most tokens of an answer) of each task
    """

    def __init__(
        self, config: DictConfig, model: nn.Module, points: Sequence[SweepPoint], tasks: Sequence[tuple[int, int]]
    ) -> None:
        self.tasks, self.batch = tasks, config.batch_size
        self.sizes = prefill_sizes_of(model, config)
        self.lengths = [_lengths(point, self.sizes) for point in points]  # tokens entering each decoder layer
        self.parameters = sum(p.numel() for p in model.parameters())
        self.element = model.dtype.itemsize  # bytes of a number
        # FLOPs of one picture in front of the decoder, and how often they are spent on a row
        self.vision = sum(tower_flops(model, largest_image(model.config, config.model.processor)).values())
        self.passes = 1 if shareable([point.method for point in points]) else len(points)

    def memory(self) -> dict[str, float]:
        """Gigabytes of memory; of activations those of one decoder layer for one batch, unreduced."""
        shape, tokens = self.sizes.shape, self.sizes.total + self.sizes.text
        longest = max(most for _, most in self.tasks)
        weights, cache = self.parameters * self.element, self._cache(longest)
        states = self.batch * tokens * (3 * shape.ffn + 6 * shape.width) * self.element
        parts = {"weights": weights, "kv_cache": cache, "activations": states, "memory": weights + cache + states}
        return {f"{name}_gb": _rounded(size / 1e9) for name, size in parts.items()}

    def _cache(self, tokens: int) -> float:
        """Bytes of the cache of one batch with answers of ``tokens``, unreduced."""
        lengths = [self.sizes.total + self.sizes.text] * self.sizes.depth
        return self.batch * kv_bytes(self.sizes.shape, lengths, tokens, self.element)

    def compute(self, tflops: float, gbps: float) -> dict[str, Any]:
        """Answers, tokens, petaFLOP and, at ``tflops`` and ``gbps``, hours."""
        rows, budgets = sum(rows for rows, _ in self.tasks), len(self.lengths)
        prefill = rows * sum(self._flops(lengths) for lengths in self.lengths)
        decoder = sum(rows * self._flops(lengths, most) for rows, most in self.tasks for lengths in self.lengths)
        vision = rows * self.passes * self.vision
        steps = sum(ceil(rows / self.batch) * most for rows, most in self.tasks) * budgets  # of decoding
        step = (self.parameters * self.element + self._cache(0)) / (gbps * 1e9) + LAUNCH * self.sizes.depth
        seconds = (prefill + vision) / (tflops * 1e12) + steps * step
        counts = {"prefill": prefill, "vision": vision, "decoding_at_most": decoder - prefill}
        return {
            "rows": rows,
            "answers": rows * budgets,
            "generated_tokens_at_most": sum(rows * most for rows, most in self.tasks) * budgets,
            "pflop": {name: _rounded(count / 1e15) for name, count in counts.items()},
            "pflop_at_most": _rounded((decoder + vision) / 1e15),
            "hours_estimated": _rounded(seconds / 3600),
        }

    def _flops(self, lengths: Sequence[int], tokens: int = 1) -> int:
        return flops(self.sizes.shape, lengths, PROFILER_LAST, steps=decode_steps(lengths, tokens))


def _lengths(point: SweepPoint, sizes: PrefillSizes) -> list[int]:
    """Tokens entering each decoder layer; of a method that decides that by the picture, those of the whole model."""
    try:
        visual = simulate(point.method, sizes).visual
    except UserError:
        visual = [sizes.total] * sizes.depth
    return [n + sizes.text for n in visual]


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


@dataclass(frozen=True)
class Presence:
    """Where something lies (cached: in the hub's cache); why it is ``missing``, in one sentence; ``rows`` if known."""

    where: Literal["local", "cached", "hub", "missing"]
    missing: str | None = None
    rows: int | None = None

    @property
    def here(self) -> bool:
        """Whether nothing has to be fetched."""
        return self.where in ("local", "cached")

    @property
    def card(self) -> dict[str, Any]:
        """What a plan says of it."""
        return {"where": self.where, "here": self.here}


def model_presence(model: DictConfig) -> Presence:
    """Of a model's weights and its processor."""
    try:
        source = checkpoint(model)
    except UserError as error:
        return Presence("missing", str(error))
    if isinstance(source, str):
        return _hub_presence(f"model {model.name}", source, "model", model.revision, ["config.json", "*.safetensors"])
    if not any(source.glob("*.safetensors")):
        return Presence("missing", f"model {model.name} has no weights in {source}.")
    return Presence("local")


def tower_presence(model: DictConfig) -> Presence:
    """Of the text tower that methods in CLIP's space read, where a model names one."""
    if not model.text_tower:
        return Presence("missing", f"model {model.name} names no aligned text tower, which this method needs.")
    if (ROOT / model.text_tower / "config.json").is_file():
        return Presence("local")
    return _hub_presence(
        f"the text tower of model {model.name}", model.text_tower, "model", model.text_tower_revision, ["config.json"]
    )


def task_presence(task: DictConfig) -> Presence:
    """Of a task's data; ``rows`` is read off the files where they are here, else it is what the task's file says."""
    kind = function_name(task.kind)
    try:
        if kind == "parquet" and task.path:
            return Presence("local", rows=_parquet_rows([sources.parquet_file(task)]))
        if kind != "hub":
            return Presence("local", rows=len(task_function(task, "kind", sources)(task)))
        if task.path:
            return Presence("local", rows=_split_rows(task, local_files(task)))
    except UserError as error:
        return Presence("missing", str(error), task.rows)
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors
        return Presence("missing", f"the data of task {task.name} at {task.path} cannot be read.", task.rows)
    if folder := _cached(task.hub, "dataset", task.revision, patterns(task)):
        return Presence("cached", rows=_split_rows(task, folder))
    place = _hub_presence(f"task {task.name}", task.hub, "dataset", task.revision, patterns(task))
    return Presence(place.where, place.missing, task.rows)


def _split_rows(task: DictConfig, folder: Path) -> int:
    if task.pictures:
        files(task, folder, task.pictures)
    return _parquet_rows(files(task, folder, task.subset))


def _parquet_rows(paths: list[Path]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in paths)


def _hub_presence(whose: str, name: str, kind: str, revision: str | None, needed: list[str]) -> Presence:
    from huggingface_hub import HfApi

    if _cached(name, kind, revision, needed):
        return Presence("cached")
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
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


def shareable(methods: Sequence[Method]) -> bool:
    """Whether all ``methods`` act behind the vision tower, so that it gives each of them the same features.

    A kind of site that is not known here counts as one inside the tower.
    """
    return all(isinstance(r.site, Projected | Decoder | RandomDecoder) for method in methods for r in method.reductions)
