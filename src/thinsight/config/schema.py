"""The schema of every config, and which keys of a yaml describe it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from thinsight.errors import UserError
from thinsight.paths import CONF


@dataclass
class ModelConfig:
    """Where a model comes from and how it is loaded."""

    name: str = MISSING
    checkpoint: str | None = None  # a folder, relative to the project's root, or a hub id
    revision: str | None = None  # on the hub: a commit, a tag or a branch; null: the newest. The card names the commit
    dtype: str = "float32"  # or float16, bfloat16, or auto: what the checkpoint says
    device: str = "auto"
    device_map: str | None = None  # auto: spread over all devices and the memory of the CPU (needs accelerate)
    quantization: str | None = None  # 4bit: weights in 4 bits (needs bitsandbytes)
    attn_implementation: str = "sdpa"
    processor: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the processor
    architecture: dict[str, Any] | None = None  # a transformers config with `model_type`, for the meta device
    text_tower: str | None = None  # a CLIP checkpoint with the same vision tower: a folder or a hub id
    text_tower_revision: str | None = None  # of it on the hub, as `revision`
    text_sign: int = 1  # in that space: 1 if patches that show what a text names score higher, -1 if lower
    printed_as: dict[str, int] = field(default_factory=dict)  # what papers call it -> visual tokens of a picture there
    notes: str = ""


@dataclass
class TaskConfig:
    """Where questions come from, how they are asked, and how an answer is scored."""

    name: str = MISSING
    title: str = ""
    about: str = ""
    after: list[str] = field(default_factory=list)  # published benchmarks that it stands for
    kind: Any = "parquet"  # or "easyvqa", or "hub": a data set of the hub (see thinsight.tasks.sources)
    path: str | None = None  # relative to the project's root; of kind "hub" a folder with a copy of the data set
    hub: str | None = None  # of kind "hub": its id, e.g. lmms-lab-encoder/POPE
    formerly: str | None = None  # its id before it moved, under which an older copy may lie in the local cache
    subset: str = "default"  # of it, what the hub calls a configuration
    data_files: str | None = None  # the split's files, where they are not laid out as `datasets` does: a pattern
    pictures: str | None = None  # the subset that holds the pictures, where they lie apart from the questions
    revision: str | None = None  # of it, a commit; null: the newest
    reader: Any = None  # of kind "hub": the function that makes questions of its rows (see thinsight.tasks.benchmarks)
    columns: dict[str, str] = field(default_factory=dict)  # what it reads: column -> sort (thinsight.tasks.sources)
    rows: int | None = None  # how many questions the split has: for plans
    rows_about: str = ""  # where `rows` is not by its card: what it is by, in words
    gigabytes: float | None = None  # to fetch, by its card: for plans
    split: str = "test"
    first: int | None = None  # of kind "hub": only the first rows of the split, in the order of its files
    calibration: dict[str, Any] = field(default_factory=dict)  # fields that differ for questions to fit settings on
    selection: str = ""  # of kind "hub": mini, some of its rows, the same for everybody (see thinsight.tasks.mini)
    suffix: str = ""  # appended to each question, e.g. an answer-format instruction
    suffixes: dict[str, str] = field(default_factory=dict)  # protocol -> suffix, where `suffix` takes it from here
    max_new_tokens: int = 8
    protocol: str = ""  # of a benchmark: whose rules score an answer and word some questions, a key of `protocols`
    protocols: dict[str, str] = field(default_factory=dict)  # protocol -> the file that its scorer equals
    unavailable: dict[str, str] = field(default_factory=dict)  # protocol that the benchmark cannot have -> why
    differences: dict[str, str] = field(default_factory=dict)  # in what protocols, or copies, differ -> a sentence
    metric: Any = "exact"  # the function that scores an answer (see thinsight.tasks.metrics)
    judge: str = ""  # who scores its answers, where no rule does: they are not scored here
    summary: Any = None  # the function that sums up all answers of a benchmark, if it has one (same place)
    source: str = ""
    license: str = ""


@dataclass
class Config:
    """What one run is: a model, a method with its budgets, and the tasks they are scored on."""

    run: str = ""  # the name of the run in params.yaml; empty for a run by hand
    group: str = "main"  # the runs that it may be compared with; main: the methods at the same budgets on all tasks
    model: ModelConfig = field(default_factory=ModelConfig)
    method: dict[str, Any] = field(default_factory=dict)
    task: TaskConfig = field(default_factory=TaskConfig)
    tasks: list[str] = field(default_factory=list)  # names in conf/task; empty: just `task`
    overridden: list[str] = field(default_factory=list)  # fields of `task` that overrides set, also for `tasks`
    sweep: dict[str, list[Any]] = field(default_factory=dict)  # method field -> values (see thinsight.evaluation.sweep)
    layers: list[int] = field(default_factory=list)  # what a preset offers to conf/sweep
    budgets: list[float] = field(default_factory=list)  # likewise, fractions of the visual tokens: every method's keep
    keeps: list[float] = field(default_factory=list)  # likewise: the controls' keep, the budgets among them
    curve: list[float] = field(default_factory=list)  # likewise: the keep of a compression curve, budgets and all
    limit: int | None = None  # rows per task; null: all of them
    pages: dict[str, Any] = field(default_factory=dict)  # parameter of notebooks -> value, where a preset sets one
    batch_size: int = 32
    shard: str | None = None  # 0/4: compute this part of the batches only (see thinsight.evaluation.shards)
    seed: int = 0
    text_tokens: int = 64  # prompt length besides the image, for the cost command line


GROUPS = ("method", "model", "preset", "sweep", "task")
NAMED = ("method", "model", "task")  # whose files have a name
DESCRIBING = frozenset({"paper", "arxiv", "version", "about", "scores", "acts", "needs", "cost", "deviations"})
RESERVED = DESCRIBING | {"name", "title", "official", "reductions"}
"""Keys of a method's yaml which describe it; every other key is a field, a knob that its paper publishes."""

POINTS = "points"
"""The key of a sweep under which variants of a method stand, each a mapping of fields (see `evaluation.sweep`)."""

MEASURES = ("kept", "layer_mean", "flops")
"""Measures of a budget, which a sweep may name in place of a field: see `thinsight.solve`."""

FOR_ALL = frozenset({"suffix", "max_new_tokens", "protocol", "metric", "summary", "selection"})
"""Fields of a task that an override may set for several tasks: how they are asked and scored, not what they read."""

COUNT, TOKENS = 2**31 - 1, 2**20
RANGES = {
    "limit": (1, COUNT),
    "batch_size": (1, COUNT),
    "text_tokens": (0, TOKENS),
    "seed": (0, 2**64 - 1),
    "task.max_new_tokens": (1, TOKENS),
    "task.rows": (0, COUNT),
    "task.first": (1, COUNT),
    "task.gigabytes": (0, COUNT),
}
"""Numbers of a config: the least and the most that each may be."""

WORDS = DESCRIBING | {
    "after",
    "notes",
    "printed_as",
    "source",
    "license",
    "unavailable",
    "differences",
    "rows_about",
    "judge",
}


def names(group: str) -> list[str]:
    """The options of a group, sorted: the files below ``conf/<group>`` without suffix, as ``ablation/par_parts``."""
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def check_name(group: str, option: str, name: str | None) -> None:
    """Refuse a file of a group whose ``name`` is not that of the file: scores go by it."""
    if name != option:
        found = f"the name {name}" if name else "no name"
        raise UserError(f"conf/{group}/{option}.yaml has {found}: it goes by that of its file, so write name: {option}")
