"""``python -m thinsight.costs.benchmark``: the benchmark of a machine, which benchmarks/cpu.sh and gpu.sh start.

It runs its parts in their order, the most important first, writes the file after each, and begins none when its time is
over: what was left out is named in the file, with the reason.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.costs.inputs import random_inputs
from thinsight.costs.parity import device_parity
from thinsight.costs.shapes import resized
from thinsight.costs.speed import RANDOM_WEIGHTS, TimedModel, machine_card
from thinsight.costs.timing import Arm, DeviceClock, Spread, time_pass
from thinsight.errors import UserError, about, command
from thinsight.models.image_tokens import largest_image
from thinsight.models.loading import random_model, torch_device
from thinsight.paths import ROOT, save_whole
from thinsight.reduction.method import Method
from thinsight.runtime.layer_selection import select_layer

LABELS = (192, 128, 64)  # of LLaVA-1.5's 576 visual tokens; of other models the same shares
PICTURE_TOKENS = 576
SMOKE = "6x128+6x64"  # the shape that only shows that every line runs
WHOLE_MODELS = "end_to_end or plain_model or logits or greedy or divergence"  # golden tests that run on a device
LEAST = 10.0  # seconds that have to be left for a part to begin
FOLDER = ROOT / "data" / "benchmarks"

DECODED = ("vtw", "fastv", "visionzip", "divprune", "ficoco_l")
"""Methods that are timed with answers too: one of each kind."""


@dataclass(frozen=True)
class Timings:
    """One part of a benchmark: all methods, or ``methods``, at one budget and batch on one model.

    shape    see `costs.shapes`; None: the true one
    label    tokens of 576 that the budget is named by
    answers  lengths of answer; none: the prefill alone
    rounds   at most;  group  methods that are interleaved with a plain model of their own
    """

    model: str
    dtype: str
    batch: int
    label: int
    shape: str | None = None
    answers: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    rounds: int = 5
    group: int = 6

    @property
    def title(self) -> str:
        """What the file calls it."""
        answers = f", answers of {' and '.join(map(str, self.answers))}" if self.answers else ""
        return f"{self.model} {self.shape or ''}".strip() + f", batch {self.batch}, {self.label} tokens{answers}"


@dataclass
class Benchmark:
    """The benchmark of ``device`` as it grows: ``result`` is what the file ``out`` holds."""

    device: torch.device
    out: Path
    seconds: float
    result: dict[str, Any]
    text: int = 64
    began: float = field(default_factory=time.monotonic)
    loaded: dict[tuple, TimedModel] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def run(self, title: str, part: Callable[[], None]) -> None:
        """One part, unless the time is over; whatever stops it is noted, and the next one is run."""
        if self.left < LEAST:
            self.result["not_run"].append({"part": title, "why": "the time of the benchmark was over"})
        else:
            print(f"{time.monotonic() - self.began:6.0f} s  {title}", file=sys.stderr, flush=True)
            try:
                part()
            except Exception as error:  # a benchmark always ends with a file
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.result["not_run"].append({"part": title, "why": f"{type(error).__name__}: {why}"})
        self.result["minutes"] = round((time.monotonic() - self.began) / 60, 2)
        self.save()

    def save(self) -> None:
        """Write the file."""
        save_whole(self.out, json.dumps(self.result, indent=1) + "\n")

    def time(self, part: Timings) -> None:
        """Run one part of timings, group by group."""
        model = self.model(part)
        inputs = self.inputs(model, part.batch)
        share = part.label / PICTURE_TOKENS
        methods, refused = [], []
        for name in part.methods or [name for name in names("method") if name != "identity"]:
            try:
                methods.append(model.budgeted(name, share))
            except UserError as error:
                refused.append({"method": name, "why": str(error)})
        entry = {**model.card, "shape": part.shape, "batch": part.batch, "label": part.label, "share": share}
        entry |= {"text_tokens": self.text, "visual_tokens": model.whole(inputs)[0], "answers": list(part.answers)}
        entry |= {"title": part.title, "records": [], "refused": refused}
        self.result["timings"].append(entry)
        groups = [methods[n : n + part.group] for n in range(0, len(methods), part.group)]
        for number, group in enumerate(groups):
            if self.left < LEAST + self.least_seconds(model, group, inputs, part):
                left = [method.name for rest in groups[number:] for method in rest]
                why = f"the time of the benchmark was over; without {', '.join(left)}"
                self.result["not_run"].append({"part": part.title, "why": why})
                return
            entry["records"] += self.compare(model, group, inputs, part)
            self.save()

    def least_seconds(
        self, model: TimedModel, group: Sequence[Method], inputs: Mapping[str, Any], part: Timings
    ) -> float:
        """What a group takes with one round, if every method were as slow as the plain model."""
        arm = Arm("plain", attention=model.fastest)
        taken = time_pass(model.model, arm, inputs)["prefill"]
        answer = max(part.answers, default=0) * taken / 10  # a token of an answer is far cheaper than a prompt
        return (len(group) + 1) * (7 * taken + 2 * answer)  # lengths, to warm up, one round, memory

    def compare(
        self, model: TimedModel, group: Sequence[Method], inputs: Mapping[str, Any], part: Timings
    ) -> list[dict[str, Any]]:
        """A group; where it does not fit into the memory, that is its record."""
        try:
            return model.compare(
                group, inputs, answers=part.answers, repeats=part.rounds, seconds=max(self.left - LEAST, 0)
            )
        except torch.OutOfMemoryError:
            why = "this batch does not fit into the memory of the device"
            return [{"method": method.name, "fields": dict(method.fields), "why": why} for method in group]

    def model(self, part: Timings) -> TimedModel:
        """The model of a part; one at a time is held."""
        key = (part.model, part.dtype, part.shape)
        if key not in self.loaded:
            self.loaded.clear()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            config = load_config(
                [f"model={part.model}", f"model.dtype={part.dtype}", f"model.device={self.device.type}",
                 f"text_tokens={self.text}"]
            )  # fmt: skip
            if part.shape is not None:
                config.model = resized(config.model, part.shape)
            model = random_model(config)
            first = random_inputs(model, largest_image(model.config, config.model.processor), 1, self.text)
            self.loaded[key] = TimedModel.of(model, config, "random", first)
        return self.loaded[key]

    def inputs(self, timed: TimedModel, batch: int) -> dict[str, Any]:
        """A batch of noise."""
        config = load_config([f"model={timed.sizes.name}"])
        image = largest_image(timed.model.config, config.model.processor)
        return random_inputs(timed.model, image, batch, self.text)

    def select_layer(self, part: Timings) -> None:
        """VTW's search on the model of a part: seconds beside those of a plain pass and of a pass per candidate."""
        timed = self.model(part)
        inputs, clock = self.inputs(timed, part.batch), DeviceClock(self.device)

        def seconds(call: Callable[[], Any]) -> float:
            clock.wait()
            start = clock.mark()
            call()
            end = clock.mark()
            clock.wait()
            return clock.seconds(start, end)

        def plain() -> None:
            with torch.inference_mode():
                timed.model(**inputs, use_cache=False, logits_to_keep=1)

        def search() -> None:
            select_layer(timed.model, [inputs], threshold=float("inf"))

        plain(), search()
        pairs = [(seconds(plain), seconds(search)) for _ in range(3)]
        one, whole = (Spread.of(taken).median for taken in zip(*pairs, strict=True))
        candidates = timed.sizes.prefill.depth - 1
        self.result["select_layer"] = {
            "model": timed.sizes.name, "batch": part.batch, "candidates": candidates, "plain": one, "seconds": whole,
            "passes": whole / one,
        }  # fmt: skip

    def parity(self) -> None:
        """Every method on this device against the CPU."""
        for record in device_parity(self.device):
            self.result["parity"].append(record)
            if self.left < LEAST:
                self.result["not_run"].append({"part": "parity", "why": "the time of the benchmark was over"})
                return

    def golden(self) -> None:
        """The golden files of the released codes, on this device."""
        line = [sys.executable, "-m", "pytest", "tests/test_golden.py", "-p", "no:cacheprovider"]
        line += ["--device", self.device.type, "-k", WHOLE_MODELS]
        done = subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=max(self.left, LEAST)
        )
        last = (done.stdout.strip().splitlines() or [""])[-1]
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        self.result["golden"] = {"status": done.returncode, **counts, "failed_tests": failed}
        if not counts:
            self.result["golden"]["output"] = (done.stdout + done.stderr)[-2000:]


def cpu_parts(shape: str, labels: Sequence[int], rounds: int) -> list[Timings]:
    """On a CPU: all methods, one prompt at a time, each close to a plain model: a busy CPU drifts within a minute."""
    return [Timings("llava_1_5_7b", "float32", 1, label, shape, rounds=rounds, group=3) for label in labels]


def gpu_parts(rounds: int, smoke: bool = False) -> tuple[list[Timings], list[Timings]]:
    """On a GPU: what is timed before the checks of its results and after them, the most important first.

    smoke  tiny shapes, small batches and a method of each kind: for a machine without a GPU
    """
    small, large = "llava_1_5_7b", "llava_next_vicuna_7b"
    batch, dtype = (2, "float32") if smoke else (8, "bfloat16")  # bfloat16 takes minutes on a CPU

    def part(model: str, size: int, label: int, answers: tuple[int, ...] = ()) -> Timings:
        methods = DECODED if smoke or answers else ()
        shape, answers = (SMOKE, answers[:2]) if smoke else (None, answers)
        return Timings(model, dtype, size, label, shape, answers, methods, rounds)

    first = [part(small, batch, 64), part(small, batch, 192), part(small, 1, 64), part(small, batch, 128)]
    second = [
        part(small, 1, 64, (1, 32, 256)),
        *(part(small, 1, label) for label in (192, 128)),
        *(part(large, 1, label) for label in (64, 192, 128)),
        part(small, batch, 64, (1, 32, 256)),
        *(part(large, batch, label) for label in (64, 192, 128)),
    ]
    return (first[:1], [second[0], second[3], second[-1]]) if smoke else (first, second)


def slug(name: str) -> str:
    """``NVIDIA H100 80GB HBM3`` as the name of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main(arguments: list[str]) -> None:
    """``cpu|gpu [--seconds N] [--shape SHAPE] [--smoke] [--note TEXT] [--out FILE]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.costs.benchmark", description=about(__doc__))
    parser.add_argument("kind", choices=("cpu", "gpu"))
    parser.add_argument("--seconds", type=float, help="when no new part begins (cpu: 1800, gpu: 440)")
    parser.add_argument("--rounds", type=int, default=5, help="of each part, in which every arm runs once")
    parser.add_argument("--shape", default="8x512+8x256", help="of the model on a CPU")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, one round, any device: does every line run?")
    parser.add_argument("--note", default="", help="a sentence that stands in the file and on the page")
    parser.add_argument("--out", type=Path, help="the file (default: data/benchmarks/DEVICE.json)")
    options = parser.parse_args(arguments)
    smoke, gpu = options.smoke, options.kind == "gpu"
    device = torch_device(("auto" if smoke else "cuda") if gpu else "cpu")
    card = machine_card(device)
    name = card["hardware"].get("gpu", card["hardware"]["cpu"])
    out = options.out or FOLDER / f"{slug(name)}.json"
    result = {
        "device": name, "kind": device.type, "note": options.note, "weights": RANDOM_WEIGHTS,
        "started": datetime.now(UTC).isoformat(timespec="minutes"), **card, "smoke": smoke,
        "timings": [], "select_layer": None, "parity": [], "golden": None, "not_run": [],
    }  # fmt: skip
    seconds = options.seconds or (440 if gpu else 1800)
    benchmark = Benchmark(device, out, seconds, result, text=8 if smoke else 64)
    rounds = 1 if smoke else options.rounds
    if not gpu:
        for part in cpu_parts(SMOKE if smoke else options.shape, LABELS[-1:] if smoke else LABELS, rounds):
            benchmark.run(part.title, partial(benchmark.time, part))
        result["not_run"].append({"part": "CUDA", "why": "no GPU was at hand"})
    else:
        first, second = gpu_parts(rounds, smoke)
        for part in first:
            benchmark.run(part.title, partial(benchmark.time, part))
        benchmark.run("select_layer", partial(benchmark.select_layer, first[0]))
        benchmark.run("parity", benchmark.parity)
        benchmark.run("golden files", benchmark.golden)
        for part in second:
            benchmark.run(part.title, partial(benchmark.time, part))
    benchmark.save()
    print(out)


if __name__ == "__main__":
    command(main)
