"""One model's rows of the papers' tables: the baseline first, then the methods in the order of their worth.

What `thinsight.pipeline.repro` does for params.yaml and data/runs, this does for another model, beside it and without
DVC, in one process that loads the model once:

    data/replicate/MODEL/configs, plan     what is run and shown (`thinsight.pipeline.plan`): the runs of params.yaml
    data/replicate/MODEL/gate/plain        the whole model on few questions
    data/replicate/MODEL/runs/<run>        results; ``key.txt``: the identity of the run that they are of
    data/replicate/MODEL/pages, notebooks  what the pages found, and their executed notebooks
    reports/replicate/MODEL/index.html     the pages, made again whenever a run has ended that they read

Stopped, it goes on where it was: a finished run keeps its results as long as its identity is the same, an unfinished
one its journal. Runs whose journals have been filled by jobs (`thinsight.pipeline.jobs`) are only read.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from thinsight.analysis.runs import group_of, is_wanted
from thinsight.config.compose import load_config
from thinsight.errors import UserError, nearest
from thinsight.evaluation.campaign import Campaign
from thinsight.evaluation.dry_run import dry_run
from thinsight.ledger.baseline_check import check_baseline
from thinsight.ledger.lines import PrintedTable, slug, task_benchmarks
from thinsight.ledger.published import PAPERS, load_all
from thinsight.models.loading import torch_device, transformers_config
from thinsight.paths import ROOT, save_whole
from thinsight.pipeline.params import Params, read_params
from thinsight.pipeline.plan import wanted_runs, write_plan
from thinsight.pipeline.repro import Progress, log_failure

GATE = ("pope", "gqa", "textvqa")
"""The tasks that the baseline is held against first: LLaVA-1.5-7B has 85.9, 62.0 and 58.2 on them."""

TASKS = (*GATE, "scienceqa", "mmbench", "mme")

FEW = 500
"""Questions of each of these tasks that are asked before all of them are."""

BASE = "plain"

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
    layers = stopping_layers(transformers_config(load_config([f"model={model}"]).model))
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
    takes = [plan["take"], *(dry_run(config, tflops)["take"] for run, config in configs.items() if run != BASE)]
    memory, cache = check_fit(need, base)
    answers, hours = sum(take["answers"] for take in takes), sum(take["hours_estimated"] for take in takes)
    return [
        f"model    {base.model.name}: {need['weights_gb']:g} GB of weights, {plan['load']['model']['where']}",
        f"memory   {need['memory_gb']:g} GB at batch_size={base.batch_size}, of {memory:.1f} GB that are free",
        f"disk     {need['disk_gb']:g} GB to fetch, of {cache:.1f} GB that are free",
        f"work     {len(configs)} runs, {answers:,} answers, an estimate of {hours:.3g} hours at {tflops:g} TFLOP/s",
    ]


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
    """The pages over the results in ``home``, made in the background into ``reports``, one at a time.

    reads    page -> names and patterns of the runs that it reads
    waiting  pages that will be made; ``failed``: page -> why it was not
    """

    home: Path
    reports: Path
    reads: Mapping[str, Sequence[str]]
    waiting: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    calls: list[Future] = field(default_factory=list)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def show(self, run: str) -> None:
        """Make all pages again that read ``run``, unless they wait for it already."""
        group = group_of(self.home / "runs" / run)
        for page, wanted in self.reads.items():
            if is_wanted(run, group, wanted) and page not in self.waiting:
                self.waiting.add(page)
                self.calls.append(self.pool.submit(self._make, page))

    def finish(self) -> None:
        """Wait until all are made."""
        for call in self.calls:
            call.result()

    def _make(self, page: str) -> None:
        self.waiting.discard(page)
        executed, home = self.home / "notebooks" / f"{page}.ipynb", self.home
        report = ["thinsight.report", "--runs", home / "runs", "--pages", home / "pages"]
        report += ["--contents", home / "plan" / "contents.json"]
        (home / "pages" / page).mkdir(parents=True, exist_ok=True)
        values = ["-d", f"runs={home / 'runs'}", "-d", f"out={home / 'pages' / page}"]
        source = ROOT / "notebooks" / f"{page}.ipynb"
        steps = [
            ["thinsight.pipeline.notebook", source, executed, *values, "-f", home / "plan" / "parameters.json"],
            [*report, "page", executed, self.reports / "pages" / f"{page}.html"],
            [*report, "index", self.reports],
        ]
        for step in steps:
            command = [sys.executable, "-m", *map(str, step)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            if done.returncode:
                sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
                whole = log_failure(page, done.stderr.strip() or "no word")
                self.failed[page] = sentences[-1].removeprefix("error: ") if sentences else whole
                return
        self.failed.pop(page, None)
        self.made.add(page)


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
    campaign = Campaign.open(opened)
    total = campaign.total
    made = Pages(home, reports, {page: wanted_runs(page) for page in pages})
    replication = Replication(campaign, folders, made, gate)
    try:
        for run, why in campaign.failures.items():
            print(f"run {run} failed: {why}", file=sys.stderr)
        replication.take_up()
        progress = Progress(total, total - campaign.total + campaign.done, len(opened), len(made.reads))
        try:
            _compute(replication, progress, 1 if campaign.on_gpu else jobs, list(opened))
        finally:
            progress.close()
        made.finish()
    finally:
        campaign.close()
        made.pool.shutdown(cancel_futures=True)
    for page, why in made.failed.items():
        print(f"page {page} failed: {why}", file=sys.stderr)
    failed = [*campaign.failures, *made.failed]
    if failed:
        raise UserError(f"not all was made: {', '.join(failed)} failed (see above)")


def _compute(replication: Replication, progress: Progress, jobs: int, order: Iterable[str]) -> None:
    """Compute what is left, one run after the other, and finish each."""
    campaign, pages = replication.campaign, replication.pages
    for told in campaign.compute(jobs, [[name] for name in order]):
        if told.failure is not None:
            campaign.failures[told.run] = log_failure(told.run, told.failure)
            progress.say(f"run {told.run} failed: {campaign.failures[told.run]}")
        elif told.records is not None:
            progress.answered(len(told.records))
            if campaign.is_full(told.run):
                replication.finish(told.run)
        progress.show(len(replication.done), len(pages.made), [told.run])
