"""What a run will load, need and take, before it starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
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
from thinsight.tasks import mini, sources
from thinsight.tasks.functions import function_name, task_function
from thinsight.tasks.hub import local_files, patterns
from thinsight.tasks.rows import count_rows, run_tasks

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
        data = list(pool.map(partial(task_presence, limit=config.limit), tasks))
    model, tower = model_future.result(), tower_future.result() if tower_future else None
    rows = [place.rows for place in data]
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
                | {"split": task.split, "rows": place.rows, "rows_by": place.rows_by, **place.card}
                for task, place in zip(tasks, data, strict=True)
            },
            "method": {"name": config.method.name, "budgets": [str(point.budget) for point in points]},
        },
        "need": need,
        "take": take,
        "assumptions": [*assumptions(config, tflops, gbps), *_estimated_rows(tasks, data)],
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


def _estimated_rows(tasks: Sequence[DictConfig], data: Sequence["Presence"]) -> list[str]:
    """A sentence for each task whose number of rows is an estimate."""
    return [
        f"task {task.name} has {place.rows_by.replace(ABOUT, f'{ABOUT} {place.rows} rows', 1)}"
        for task, place in zip(tasks, data, strict=True)
        if place.rows_by.startswith(ABOUT)
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
    """Where something lies (cached: in the hub's cache); why it is ``missing``, in one sentence.

    ``rows``: how many a run asks of a task, if known; ``rows_by``: what says so, which begins with about where it is an
    estimate.
    """

    where: Literal["local", "cached", "hub", "missing"]
    missing: str | None = None
    rows: int | None = None
    rows_by: str = "not known"

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


def task_presence(task: DictConfig, limit: int | None = None) -> Presence:
    """Of a task's data. ``rows``: as many as a run with this ``limit`` asks, counted in the files where they are here,
    else by what the task's file says."""
    told, by = _told_rows(task, limit)
    try:
        mini.check(task)
        if not task.path and function_name(task.kind) == "hub":
            names = [name for name in (task.hub, task.formerly) if name]
            folders = [_cached(name, "dataset", task.revision, patterns(task)) for name in names]
            if folder := next(filter(None, folders), None):
                return Presence("cached", rows=_counted_rows(task, folder, limit), rows_by=FILES)
        else:
            return Presence("local", rows=_local_rows(task, limit), rows_by=FILES)
    except UserError as error:
        return Presence("missing", str(error), told, by)
    except (OSError, ValueError):  # pyarrow's errors are ValueErrors
        where = task.path or task.hub
        return Presence("missing", f"the data of task {task.name} at {where} cannot be read.", told, by)
    place = _hub_presence(f"task {task.name}", task.hub, "dataset", task.revision, patterns(task))
    return Presence(place.where, place.missing, told, by)


FILES, ABOUT = "counted in its files", "about"


def _told_rows(task: DictConfig, limit: int | None) -> tuple[int | None, str]:
    """How many rows a run with this ``limit`` asks by the task's own file, and what that goes by."""
    if task.rows is None:
        return None, "not known"
    bounds = [task.first, mini.most(task) if task.selection else None, limit]
    rows = min([task.rows, *(bound for bound in bounds if bound is not None)])
    about = task.rows_about and rows in (task.rows, task.first)  # a line may hold several questions, or none
    return rows, f"{ABOUT}, by {task.rows_about}" if about else "the data set's card"


def _local_rows(task: DictConfig, limit: int | None) -> int:
    kind = function_name(task.kind)
    if kind == "hub":
        return _counted_rows(task, local_files(task), limit)
    if kind != "parquet":
        return count_rows(task, task_function(task, "kind", sources)(task), limit)
    rows = pq.read_metadata(sources.parquet_file(task)).num_rows
    return rows if limit is None else min(rows, limit)


def _counted_rows(task: DictConfig, folder: Path, limit: int | None) -> int:
    paths = [path for part in patterns(task) for path in sorted(folder.glob(part))]
    stamps = tuple((path, path.stat().st_mtime_ns) for path in paths)
    return _count(OmegaConf.to_yaml(task), folder, limit, stamps)


@lru_cache(maxsize=64)
def _count(task: str, folder: Path, limit: int | None, stamps: tuple) -> int:
    """Rows of a task, its config a text; counted once for many runs as long as its files stay as they are."""
    config = OmegaConf.create(task)
    return count_rows(config, sources.hub_questions(config, folder), limit)


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
