"""The whole pipeline, quickly and aloud: does what ``dvc repro`` does.

DVC says what is out of date. The runs among that are computed together (`thinsight.evaluation.campaign`), into their
journals, so that each run's notebook has only to read its own. A page is made as soon as the runs that it reads are
there, those pages first that need fewest. One line says how far all of it is. What fails is named at once, with its
reason and its log below ``.thinsight/logs``, and whatever does not need it goes on.

``JOBS``, an environment variable, says how many processes work at a time: one where a GPU is, else one for each core.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from thinsight.analysis.runs import group_of, is_wanted
from thinsight.code_hash import code_hash
from thinsight.config.compose import load_config, load_task
from thinsight.errors import UserError, command
from thinsight.paths import ROOT, save_whole
from thinsight.pipeline.params import read_params
from thinsight.pipeline.plan import DATA, wanted_runs
from thinsight.pipeline.warm import warm_python

if TYPE_CHECKING:  # torch takes seconds to import
    from thinsight.evaluation.campaign import Campaign

LOGS = ROOT / ".thinsight" / "logs"

QUIET = 30.0
"""Seconds between two lines where the output is no terminal."""

MODULES = (
    "dvc.cli", "dvc.repo", "dvc.commands.repro", "dvc.stage", "ipykernel.kernelapp", "papermill", "nbconvert",
    "thinsight.evaluation.run", "transformers.models.llava.modeling_llava", "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama", "thinsight.pipeline.repro:read_tasks",
)  # fmt: skip
"""What most stages import. Not matplotlib, which takes its backend from the environment when it is imported."""


def read_tasks() -> None:
    """Compose every task and read the code of an evaluation, which every run does, so that it is done already."""
    with suppress(UserError):  # whoever needs it says what is wrong
        for task in read_params(ROOT / "params.yaml").tasks:
            load_task(task)
        code_hash()


class Lines:
    """A stream without a terminal: what would overwrite a line becomes a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, ""

    def write(self, text: str) -> None:
        """Write ``text`` as a line, unless it only moves the cursor or says the same as the line before."""
        text = text.strip()
        if text not in ("", self.last):
            self.stream.write(text + "\n")
            self.last = text

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


class Progress:
    """The one line: runs and pages done of all, answers per second, time left, what is running."""

    def __init__(self, answers: int, done: int, runs: int, pages: int, counts: tuple[int, int] = (0, 0)) -> None:
        live = sys.stderr.isatty()
        self.runs, self.pages, self.shown = runs, pages, time.monotonic()
        counted = " | {n_fmt} of {total_fmt} answers, {rate_fmt}, {remaining} left" if answers > done else ""
        bar = "{l_bar}{bar}" if live and counted else "{desc}"
        self.bar = tqdm(
            total=answers, initial=done, desc=self._counts(*counts), unit=" answers", smoothing=0.05, miniters=1,
            file=sys.stderr if live else Lines(sys.stderr), mininterval=0.2 if live else QUIET, maxinterval=QUIET,
            dynamic_ncols=live, bar_format=f"{bar}{counted}{{postfix}}",
        )  # fmt: skip

    def _counts(self, runs: int, pages: int) -> str:
        return ", ".join([f"runs {runs} of {self.runs}"] * bool(self.runs) + [f"pages {pages} of {self.pages}"])

    def answered(self, number: int) -> None:
        """So many answers more."""
        self.bar.update(number)

    def show(self, runs: int, pages: int, running: Sequence[str]) -> None:
        """How many runs and pages are done, and what is running."""
        self.bar.set_description_str(self._counts(runs, pages), refresh=False)
        self.bar.set_postfix_str(f"now {', '.join(running)}" if running else "", refresh=False)
        if time.monotonic() - self.shown > self.bar.mininterval:
            self.shown = time.monotonic()
            self.bar.refresh()

    def close(self) -> None:
        """The end of the line."""
        self.bar.refresh()
        self.bar.close()

    def say(self, text: str) -> None:
        """Print a line above."""
        tqdm.write(text, file=sys.stderr)


@dataclass
class Pipeline:
    """What is left to do, and the calls of DVC that do it.

    environment  of those calls
    pages        page -> the runs among ``stale`` that it reads
    stale        runs that have to be computed
    ready        those whose journals are full; ``finished``: those whose results are written; ``made``: pages done
    failed       runs and pages -> why
    running      calls under way -> the stages of each
    read         how many runs were finished when their results were last listed for the pages
    """

    environment: Mapping[str, str]
    stale: Collection[str]
    pages: Mapping[str, set[str]]
    ready: list[str] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[Future, list[str]] = field(default_factory=dict)
    read: int = -1

    def reproduce(self, stages: Sequence[str]) -> dict[str, str]:
        """Run ``stages`` in one call of DVC; those that fail, with the reason."""
        log = LOGS / f"{stages[0].replace('/', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--wait-for-lock", "repro", "--quiet", "--keep-going", "--single-item", *stages]
        with log.open("w", encoding="utf-8") as file:
            status = subprocess.run(
                ["python", "-m", "dvc", *arguments], env=self.environment, stdout=file, stderr=file, cwd=ROOT
            ).returncode
        if status == 0:
            return {}
        text = log.read_text(encoding="utf-8", errors="replace")
        names = re.findall(r"failed to reproduce '([^']+)'", text) or stages
        sentences = re.findall(r"^error: (.+)", text, re.MULTILINE) or text.strip().splitlines()[-1:]
        return {name: f"{sentences[-1] if sentences else 'no word'} (log: {log.relative_to(ROOT)})" for name in names}

    def start(self, pool: ThreadPoolExecutor, most: int) -> None:
        """Begin what can be begun, ``most`` calls at a time. Pages are made side by side, those that need no run when
        all runs are done; what writes results of runs, or lists them, goes alone: DVC lets nothing read meanwhile."""
        while len(self.running) < most:
            page = next(self._possible(), None)
            if self.ready:
                stages = [f"evaluate@{run}" for run in self.ready]
            elif page is not None and self.read != len(self.finished):
                stages = ["read"]
            elif page is not None:
                stages = [f"notebook@{page}", f"page@{page}"]
            else:
                return
            alone = stages[0].startswith(("evaluate", "read"))
            if self.running and (alone or self._alone):
                return
            if stages == ["read"]:
                self.read = len(self.finished)
            elif alone:
                self.ready = []
            self.running[pool.submit(self.reproduce, stages)] = stages

    @property
    def _alone(self) -> bool:
        return any(stages[0].startswith(("evaluate", "read")) for stages in self.running.values())

    def _possible(self) -> Iterator[str]:
        """Pages that could be made now, those that need fewest runs first."""
        begun = {name for stages in self.running.values() for name in stages} | self.made | self.failed.keys()
        whole = self.finished | self.failed.keys() >= set(self.stale)
        for page, reads in sorted(self.pages.items(), key=lambda item: len(item[1])):
            if reads <= self.finished and (reads or whole) and not {page, f"page@{page}"} & begun:
                yield page

    @property
    def over(self) -> bool:
        """Whether nothing more can be done."""
        return not (self.running or self.ready or next(self._possible(), None))

    def collect(self, seconds: float) -> list[str]:
        """Wait for a call to end, at most so long; sentences on what has failed."""
        ended, _ = wait(self.running, seconds, FIRST_COMPLETED) if self.running else (set(), None)
        words = []
        for call in ended:
            stages = self.running.pop(call)
            failures = call.result()
            for stage in stages:
                kind, _, name = stage.partition("@")
                if stage in failures:
                    self.failed[name or stage] = failures[stage]
                    words.append(f"{kind} {name} failed: {failures[stage]}")
                elif kind == "evaluate":
                    self.finished.add(name)
                elif kind == "page" and name not in self.failed:
                    self.made.add(name)
        return words

    @property
    def doing(self) -> list[str]:
        """What is under way, in words."""
        pages = [stages[0].partition("@")[2] for stages in self.running.values() if stages[0].startswith("notebook")]
        return [f"page {page}" for page in pages]


def reproduce_all(environment: Mapping[str, str], jobs: int) -> dict[str, str]:
    """Bring everything up to date; what has failed, and why. ``environment``: of the commands."""
    params = read_params(ROOT / "params.yaml")
    stale = [run for run in stale_stages(environment, "evaluate") if run in params.runs]
    groups = {run: group_of(DATA / "runs" / run) for run in stale}
    reads = {page: wanted_runs(page) for page in params.pages}
    needs = {page: {run for run in stale if is_wanted(run, groups[run], reads[page])} for page in params.pages}
    pipeline = Pipeline(environment, stale, needs)
    with ThreadPoolExecutor(jobs) as pool:
        if stale:
            compute_runs(pipeline, pool, jobs)
        counts = len(pipeline.finished), len(pipeline.made)
        progress = Progress(0, 0, len(stale), len(needs), counts)
        while not pipeline.over:
            pipeline.start(pool, jobs)
            show(pipeline, progress, 1.0)
        progress.close()
    return pipeline.failed


def compute_runs(pipeline: Pipeline, pool: ThreadPoolExecutor, jobs: int) -> None:
    """Compute all runs that are out of date, and make what can be made meanwhile."""
    from transformers.utils.logging import disable_progress_bar

    from thinsight.evaluation.campaign import Campaign  # torch takes seconds, and often no run is out of date

    disable_progress_bar()
    campaign = Campaign.open({run: load_config(path=DATA / "configs" / f"{run}.yaml") for run in pipeline.stale})
    on_gpu = campaign.on_gpu
    progress = Progress(campaign.total, campaign.done, len(pipeline.stale), len(pipeline.pages))
    for run, reason in campaign.failures.items():
        pipeline.failed[run] = reason
        progress.say(f"run {run} failed: {reason}")
    order = [list(reads) for reads in sorted(pipeline.pages.values(), key=len) if reads]
    for run in filter(campaign.is_full, campaign.runs):  # by jobs on a cluster, or before a kill
        campaign.release(run)
        pipeline.ready.append(run)
    try:
        for run, is_full in follow(campaign, 1 if on_gpu else jobs, order, progress):
            if run in campaign.failures:
                pipeline.failed[run] = campaign.failures[run]
            elif is_full:
                campaign.release(run)
                pipeline.ready.append(run)
            if not on_gpu:  # there each notebook loads the model once more
                pipeline.start(pool, 1)
                show(pipeline, progress, 0.0, run)
    finally:
        campaign.close()
        progress.close()


def follow(
    campaign: "Campaign", jobs: int, order: Sequence[Sequence[str]], progress: Progress
) -> Iterator[tuple[str, bool]]:
    """Compute a campaign (see `Campaign.compute`) and count its answers; yields the name of the run that is worked on,
    and whether it has just become full.

    Why a run has failed is said once, though each process finds it, and stands in ``campaign.failures``.
    """
    said = set(campaign.failures)
    for told in campaign.compute(jobs, order):
        if told.failure is not None and told.run not in said:
            said.add(told.run)
            campaign.failures[told.run] = log_failure(told.run, told.failure)
            progress.say(f"run {told.run} failed: {campaign.failures[told.run]}")
        elif told.records is not None:
            progress.answered(len(told.records))
        yield told.run, told.records is not None and campaign.is_full(told.run)


def show(pipeline: Pipeline, progress: Progress, seconds: float, run: str | None = None) -> None:
    """Wait for calls to end, at most so long, and say how far it is."""
    for sentence in pipeline.collect(seconds):
        progress.say(sentence)
    progress.show(len(pipeline.finished), len(pipeline.made), [*([run] if run else []), *pipeline.doing])


def log_failure(run: str, text: str) -> str:
    """The last line of a traceback, which is kept as a file; a sentence as it is."""
    if "\n" not in text:
        return text
    log = LOGS / f"evaluate@{run}.log"
    save_whole(log, text)
    return f"{text.strip().splitlines()[-1]} (log: {log.relative_to(ROOT)})"


def stale_stages(environment: Mapping[str, str], kind: str) -> list[str]:
    """The items of the stage ``kind`` that DVC finds out of date, in the order of params.yaml."""
    found = call_dvc(environment, "status", "--json")
    return [name.partition("@")[2] for name in json.loads(found) if name.startswith(f"{kind}@")]


def call_dvc(environment: Mapping[str, str], *arguments: str) -> str:
    """What ``dvc`` prints; if it fails, what it says is a `UserError`."""
    called = subprocess.run(
        ["python", "-m", "dvc", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if called.returncode:
        words = [line for line in called.stderr.splitlines() if line.lower().startswith("error")] or [called.stderr]
        raise UserError(re.sub(r"(?i)^(error: )+", "", words[0]))
    return called.stdout


def job_count() -> int:
    """How many processes work at a time, each with one thread if there are several: see the top."""
    text = os.environ.get("JOBS") or str(1 if shutil.which("nvidia-smi") else len(os.sched_getaffinity(0)))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"JOBS={text} is no number of processes from 1 on")
    if int(text) > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    return int(text)


def main(arguments: list[str]) -> None:
    """No arguments."""
    if arguments:
        raise UserError("usage: python -m thinsight.pipeline.repro")
    jobs = job_count()
    with warm_python(MODULES) as environment:
        call_dvc(environment, "repro", "--quiet", "plan")
        failed = reproduce_all(environment, jobs)
        call_dvc(environment, "plots", "show", "--quiet")  # the index leads to it
        call_dvc(environment, "repro", "--quiet", *(["--single-item", "index"] if failed else []))
    if failed:
        raise UserError(f"not all was made: {', '.join(failed)} failed, and what needs them (see above)")


if __name__ == "__main__":
    command(main)
