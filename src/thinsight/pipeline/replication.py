"""One model's rows of the papers' tables: the baseline first, then the methods in the order of their worth.

What `thinsight.pipeline.repro` does for params.yaml and data/runs, this does for another model, beside it and without
DVC, in one process that loads the model once:

    data/replicate/MODEL/configs, plan     what is run and shown (`thinsight.pipeline.plan`): the runs of params.yaml
    data/replicate/MODEL/gate/plain        the whole model on few questions
    data/replicate/MODEL/runs/<run>        results; ``key.txt``: the identity of the run that they are of
    data/replicate/MODEL/pages, notebooks  what the pages found, and their notebooks as they are executed
    reports/replicate/MODEL                index.html, pages, their executed notebooks: made again as runs end that they
                                           read, when they have waited a little

Stopped, it goes on where it was: a finished run keeps its results as long as its identity is the same, an unfinished
one its journal. Runs whose journals have been filled by jobs (`thinsight.pipeline.jobs`) are only read.
"""

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

from omegaconf import DictConfig

from thinsight.analysis.runs import group_of, is_wanted
from thinsight.config.compose import load_config
from thinsight.errors import UserError, nearest
from thinsight.evaluation.campaign import Campaign
from thinsight.evaluation.dry_run import GBPS, Workload, dry_run, shareable, tower_presence
from thinsight.evaluation.sweep import sweep_points
from thinsight.ledger.baseline_check import check_baseline
from thinsight.ledger.lines import PrintedTable, slug, task_benchmarks
from thinsight.ledger.published import PAPERS, load_all
from thinsight.models.loading import meta_model, torch_device, transformers_config
from thinsight.models.memory import free_memory as give_back
from thinsight.paths import ROOT, save_whole
from thinsight.pipeline.params import Params, read_params
from thinsight.pipeline.plan import needed_runs, wanted_runs, write_plan
from thinsight.pipeline.repro import MODULES, Progress, follow, log_failure
from thinsight.pipeline.warm import warm_python
from thinsight.tasks.rows import run_tasks

GATE = ("pope", "gqa", "textvqa")
"""The tasks that the baseline is held against first: LLaVA-1.5-7B has 85.9, 62.0 and 58.2 on them."""

TASKS = (*GATE, "scienceqa", "mmbench", "mme")

FEW = 500
"""Questions of each of these tasks that are asked before all of them are."""

BASE = "plain"

EARLIEST = 120.0
"""Seconds before a page is made for the first time, or once more, while runs go on."""

PAUSE = 10
"""It is also not made again before so many times the time have passed that it took: pages are a tenth of the work."""

LOOK = {
    "POPE": "the score is the mean F1 of three kinds of questions (task.protocol), and answers are yes or no",
    "GQA": "the question ends in the request for a single word or phrase",
    "TextVQA": "words that OCR found stand in LLaVA's prompt (task textvqa) and not in lmms-eval's (textvqa_plain)",
}
"""Printed benchmark -> what else its score hangs on."""


def replication_params(model: str, words: Sequence[str]) -> Params:
    """What there is to run: params.yaml with another model, all questions, and without the runs on pocket's own tasks.

    ``words``: ``preset=``, ``tasks=``, ``runs=`` (names with commas) and ``pages=`` replace these, others are overrides
    for every run. Layers to stop at are those of `stopping_layers`.
    """
    plan = read_params(ROOT / "params.yaml")
    pairs = dict(word.partition("=")[::2] for word in words)
    own = {key: pairs.pop(key) for key in ("preset", "tasks", "runs", "pages") if key in pairs}
    general = {name: more for name, more in plan.runs.items() if not any(word.startswith("task") for word in more)}
    chosen = own["runs"].split(",") if "runs" in own else list(general)
    for name in chosen:
        if name not in general:
            raise nearest("run", name, general)
    reading = [page for page in plan.pages if wanted_runs(page)]
    named = [f"model={model}", *(word for word in words if word.startswith("model."))]
    layers = stopping_layers(transformers_config(load_config(named).model))
    return Params.of(
        {
            "preset": own.get("preset", "full"),
            "overrides": [f"model={model}", f"layers={layers}", *(w for w in words if w.partition("=")[0] in pairs)],
            "tasks": own.get("tasks", ",".join(TASKS)),
            "runs": {name: list(general[name]) for name in dict.fromkeys([BASE, *chosen])},
            "pages": own.get("pages", ",".join(reading)),
        }
    )


def stopping_layers(config: Any) -> list[int]:
    """Quarters to seven eighths of a decoder by eighths, and the layer before its middle: of 32 layers 8, 12, 15, 16,
    20, 24 and 28."""
    depth = config.get_text_config().num_hidden_layers
    return sorted({depth * part // 8 for part in range(2, 8)} | {depth // 2 - 1})


def by_worth(runs: Mapping[str, DictConfig], model: str) -> list[str]:
    """The runs, those first that measure what most printed numbers of ``model`` are about; the baseline before all."""
    printed = load_all()
    tasks = task_benchmarks()
    numbers = [
        line
        for line in PrintedTable(printed, printed).lines
        if slug(line.model) == model and line.source in PAPERS and line.is_score
    ]

    def worth(run: str) -> int:
        config = runs[run]
        return sum(line.name == config.method.name and tasks.get(line.column) in config.tasks for line in numbers)

    return sorted(runs, key=lambda run: (run != BASE, -worth(run)))


def estimate(configs: Mapping[str, DictConfig], tflops: float) -> list[str]:
    """What the runs will load, need and take, in sentences; a `UserError` says what is missing or does not fit."""
    base = configs[BASE]
    plan = dry_run(base, tflops)
    if plan["missing"]:
        raise UserError(" ".join(plan["missing"]))
    need = plan["need"]
    work = workload(configs.values(), [task["rows"] for task in plan["load"]["tasks"].values()])
    take = work.compute(tflops, GBPS)
    memory, cache = check_fit(need, base)
    return [
        f"model    {base.model.name}: {need['weights_gb']:g} GB of weights, {plan['load']['model']['where']}",
        f"memory   {need['memory_gb']:g} GB at batch_size={base.batch_size}, of {memory:.1f} GB that are free",
        f"disk     {need['disk_gb']:g} GB to fetch, of {cache:.1f} GB that are free",
        f"work     {len(configs)} runs, {take['answers']:,} answers, an estimate of {take['hours_estimated']:.3g} "
        f"hours at {tflops:g} TFLOP/s",
        *missing_tower(configs),
    ]


def missing_tower(configs: Mapping[str, DictConfig]) -> list[str]:
    """A line that names the runs which need a text tower that is not there; else none."""
    reading = [
        run
        for run, config in configs.items()
        if any("text_tower" in point.method.needs for point in sweep_points(config))
    ]
    why = tower_presence(configs[BASE].model).missing if reading else None
    return [f"missing  {why} Without it fail the runs {', '.join(reading)}."] if why else []


def workload(configs: Iterable[DictConfig], rows: Sequence[int]) -> Workload:
    """The work of all runs, which differ in their method alone, on tasks of so many ``rows``."""
    base, *_ = configs = list(configs)
    points = [sweep_points(config) for config in configs]
    questions = [(n, task.max_new_tokens) for n, task in zip(rows, run_tasks(base), strict=True)]
    work = Workload(base, meta_model(base.model), [point for some in points for point in some], questions)
    alike = [[point for point in some if shareable([point.method])] for some in points]
    towers = sum(len(some) - len(same) for some, same in zip(points, alike, strict=True))
    work.passes = towers + (1 if any(alike) else 0)  # what leaves the tower alone is encoded once for all runs
    return work


def check_fit(need: Mapping[str, float], config: DictConfig) -> tuple[float, float]:
    """Free gigabytes of memory and of disk; a `UserError` where a run cannot have what it needs of them."""
    memory, disk = free_memory(config.model.device) / 1e9, free_disk() / 1e9
    row = (need["memory_gb"] - need["weights_gb"]) / config.batch_size
    fitting = int((memory - need["weights_gb"]) / row)
    if fitting < 1:
        raise UserError(
            f"model {config.model.name} needs {need['weights_gb'] + row:.1f} GB of memory for a single row, and "
            f"{memory:.1f} GB are free here."
        )
    if fitting < config.batch_size:
        raise UserError(
            f"batch_size={config.batch_size} needs {need['memory_gb']:.1f} GB of memory, and {memory:.1f} GB are free "
            f"here: batch_size={fitting} would fit."
        )
    if need["disk_gb"] > disk:
        raise UserError(
            f"{need['disk_gb']:.1f} GB are to be fetched, and {disk:.1f} GB are free for the hub's cache: set HF_HOME "
            "to a folder with more."
        )
    return memory, disk


def free_memory(device: str) -> int:
    """Bytes that a model on ``device`` can have now."""
    import torch

    place = torch_device(device)
    if place.type == "cuda":
        return torch.cuda.mem_get_info(place)[0]
    known = Path("/proc/meminfo")  # Linux; elsewhere all that is built in
    lines = dict(line.split(":", 1) for line in known.read_text().splitlines()) if known.is_file() else {}
    if "MemAvailable" in lines:
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_disk() -> int:
    """Bytes that are free where the hub's files are kept."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def check_gate(folder: Path) -> None:
    """Refuse to go on with a baseline in ``folder`` that is off what papers print for its model."""
    off = check_baseline(folder, BASE)
    if not off:
        return
    hints = [f"{name}: {words}" for name, words in LOOK.items() if any(f" on {name}:" in line for line in off)]
    card = folder / BASE / "protocol.json"
    raise UserError(
        f"{' '.join(off)} No method is run on a baseline that is off; look at the prompt, the checkpoint's revision "
        f"and the picture's preparation (do_pad) in {card}, at answers in {card.with_name('predictions.parquet')}"
        f"{'; '.join(['', *hints])}. --no-gate goes on all the same."
    )


@dataclass
class Pages:
    """The pages over the results in ``home``, made in the background into ``reports``.

    reads    page -> names and patterns of the runs that it reads
    needs    page -> the runs without which it is not made
    values   of the notebooks' parameters, where they declare them
    python   the environment in which ``python`` starts quickly (`thinsight.pipeline.warm`)
    pool     of threads: how many pages are made at a time
    due      page -> the time from which it is made again; ``behind``: pages that newer results wait for
    runs     those whose results are there
    failed   page -> why it was not made
    """

    home: Path
    reports: Path
    reads: Mapping[str, Sequence[str]]
    needs: Mapping[str, Sequence[str]]
    values: Mapping[str, str]
    python: Mapping[str, str]
    pool: ThreadPoolExecutor
    due: dict[str, float] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    calls: list[Future] = field(default_factory=list)
    index: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.due = dict.fromkeys(self.reads, time.monotonic() + EARLIEST)

    def show(self, run: str) -> None:
        """Newer results of ``run`` are there: make all pages again that read it and are due."""
        group = group_of(self.home / "runs" / run)
        self.runs.add(run)
        self.behind |= {page for page, wanted in self.reads.items() if is_wanted(run, group, wanted)}
        ready = {page for page in self.behind if self.runs.issuperset(self.needs[page])}
        self._start({page for page in ready if self.due[page] <= time.monotonic()})

    def finish(self) -> None:
        """Make those that are behind, and wait until all are made; what lacks runs is not."""
        for page in list(self.behind):
            if lacking := [run for run in self.needs[page] if run not in self.runs]:
                self.behind.remove(page)
                self.failed[page] = f"it needs runs that are not there: {', '.join(lacking)}"
        while self.calls or self.behind:
            self._start(self.behind)
            self.calls.pop(0).result()

    def _start(self, pages: Collection[str]) -> None:
        for page in self.reads:  # those that are made at a time are not the same
            if page in pages:
                self.behind.discard(page)
                self.due[page] = inf
                self.calls.append(self.pool.submit(self._make, page))

    def _make(self, page: str) -> None:
        began = time.monotonic()
        why = self._failure(page)
        if why is None:
            self.failed.pop(page, None)
            self.made.add(page)
        else:
            self.failed[page] = why
        now = time.monotonic()
        self.due[page] = now + max(EARLIEST, PAUSE * (now - began))

    def _failure(self, page: str) -> str | None:
        """Make the page; why it could not be made, or None."""
        home, name = self.home, f"{page}.ipynb"
        # the index, which another page may be making, reads a notebook of every page that is there
        executed, shown = home / "notebooks" / name, self.reports / "notebooks" / name
        report = ["thinsight.report", "--runs", home / "runs", "--pages", home / "pages"]
        report += ["--contents", home / "plan" / "contents.json"]
        (home / "pages" / page).mkdir(parents=True, exist_ok=True)
        values = {"runs": home / "runs", "out": home / "pages" / page, **self.values}
        given = [word for key, value in values.items() for word in ("-d", f"{key}={value}")]
        notebook = ["thinsight.pipeline.notebook", ROOT / "notebooks" / name, executed, *given, "--about", home.name]
        if why := self._call(page, [*notebook, "-f", home / "plan" / "parameters.json"]):
            return why
        save_whole(shown, executed.read_text(encoding="utf-8"))
        if why := self._call(page, [*report, "page", shown, self.reports / "pages" / f"{page}.html"]):
            return why
        with self.index:
            return self._call(page, [*report, "index", self.reports])

    def _call(self, page: str, step: Sequence[object]) -> str | None:
        """Run a module of ours with its arguments; why it failed, or None."""
        command = ["python", "-m", *map(str, step)]
        done = subprocess.run(command, env=self.python, capture_output=True, text=True, cwd=ROOT, check=False)
        if not done.returncode:
            return None
        sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        whole = log_failure(page, done.stderr.strip() or "no word")
        return sentences[-1].removeprefix("error: ") if sentences else whole


@dataclass
class Replication:
    """Opened runs, each with the folder of its results; ``done``: those that were, or are, finished."""

    campaign: Campaign
    folders: Mapping[str, Path]
    pages: Pages
    gate: bool
    done: set[str] = field(default_factory=set)

    def take_up(self) -> None:
        """Leave out the runs whose results are there, and finish those whose journals are full."""
        for name in list(self.campaign.runs):
            run, kept = self.campaign.runs[name], self.folders[name] / "key.txt"
            if kept.is_file() and kept.read_text(encoding="utf-8").strip() == run.journal.head:
                run.journal.remove()
                self.campaign.runs.pop(name)
                self._note(name)
            elif self.campaign.is_full(name):
                self.finish(name)

    def finish(self, name: str) -> None:
        """Write the results of a run whose journal is full."""
        run, out = self.campaign.runs[name], self.folders[name]
        out.mkdir(parents=True, exist_ok=True)
        try:
            run.finish(out)
        except UserError as error:  # a method that reduced nothing
            self.campaign.failures[name] = str(error)
            print(f"run {name} failed: {error}", file=sys.stderr)
            return
        save_whole(out / "key.txt", f"{run.journal.head}\n")
        self._note(name)

    def _note(self, name: str) -> None:
        """A run is finished: hold a baseline against what is printed, and show it."""
        self.done.add(name)
        folder = self.folders[name].parent
        if self.gate and name in ("gate", BASE):
            check_gate(folder)
        if folder.name == "runs":
            self.pages.show(name)


def plan_runs(params: Params, home: Path) -> dict[str, DictConfig]:
    """Write the plan below ``home``; the config of each run."""
    write_plan(params, home)
    return {run: load_config(path=home / "configs" / f"{run}.yaml") for run in params.runs}


def replicate(
    configs: Mapping[str, DictConfig], pages: Sequence[str], home: Path, reports: Path, *, gate: bool, jobs: int
) -> None:
    """Compute the runs of `plan_runs` into ``home``, and make ``pages`` in ``reports``; what failed is a `UserError`.

    ``gate``: stop at a baseline that is off. ``jobs``: processes on a CPU.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    base = configs[BASE]
    order = by_worth(configs, base.model.name)
    opened, folders = {run: configs[run] for run in order}, {run: home / "runs" / run for run in order}
    first = [task for task in GATE if task in base.tasks]
    if gate and first and (base.limit is None or base.limit > FEW):
        few = load_config([f"limit={FEW}", f"tasks=[{','.join(first)}]"], home / "configs" / f"{BASE}.yaml")
        opened, folders = {"gate": few} | opened, {"gate": home / "gate" / BASE} | folders
    with warm_python(MODULES) if pages else nullcontext(os.environ) as python:
        campaign = Campaign.open(opened)
        at_a_time = 1 if campaign.on_gpu else jobs
        values = {"model": home / "configs" / f"{BASE}.yaml", "task": base.tasks[0]}
        reads = {page: wanted_runs(page) for page in pages}
        needs = {page: needed_runs(page) for page in pages}
        made = Pages(home, reports, reads, needs, values, python, ThreadPoolExecutor(at_a_time))
        total = campaign.total
        replication = Replication(campaign, folders, made, gate)
        try:
            for run, why in campaign.failures.items():
                print(f"run {run} failed: {why}", file=sys.stderr)
            replication.take_up()
            progress = Progress(total, total - campaign.total + campaign.done, len(opened), len(made.reads))
            try:
                for run, is_full in follow(campaign, at_a_time, [[run] for run in opened], progress):
                    if is_full and run not in campaign.failures:
                        replication.finish(run)
                    progress.show(len(replication.done), len(made.made), [run])
            finally:
                progress.close()
            campaign.close()
            campaign.runs.clear()  # the pages may need the memory that the model has taken
            gc.unfreeze()
            give_back()
            made.finish()
        finally:
            campaign.close()
            made.pool.shutdown(cancel_futures=True)
    for page, why in made.failed.items():
        print(f"page {page} failed: {why}", file=sys.stderr)
    failed = [*campaign.failures, *made.failed]
    if failed:
        raise UserError(f"not all was made: {', '.join(failed)} failed (see above)")
