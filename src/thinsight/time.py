"""``python -m thinsight.time``: seconds and memory of a method, beside the plain model and what FLOPs allow."""

import argparse
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig

from thinsight.config.compose import load_config, parse
from thinsight.config.schema import GROUPS, Config
from thinsight.costs.shapes import resized
from thinsight.errors import UserError, about, command, nearest

WEIGHTS = ("checkpoint", "random")

EXAMPLES = """
  thinsight time model=pocket method=fastv
  thinsight time model=llava_1_5_7b method=ficoco_l method.keep=64 weights=random model.dtype=bfloat16
  thinsight time model=llava_1_5_7b method=vtw weights=random shape=8x512+6x256 model.dtype=float32

words of this command, besides those of a config:
  weights=random        random weights of the model's shape; checkpoint (the default): its own, on questions of the task
  shape=8x512+6x256     with random weights: 8 decoder layers of width 512, and a tower of 6 blocks of width 256
  batch=[1,8,32]        prompts at a time (default on a CPU: 1)
  answers=[1,32,256]    tokens generated (default on a CPU: 1 and 8); [] times the prefill alone
  repeats=20            rounds, in each of which every arm runs once (default on a CPU: 5)
  seconds=60            no new round for a batch after so long"""


@dataclass(frozen=True)
class Words:
    """The words of the command that no config has; None: as the device suggests."""

    shape: str | None = None
    weights: str = "checkpoint"
    batch: Sequence[int] | None = None
    answers: Sequence[int] | None = None
    repeats: int | None = None
    seconds: float = float("inf")

    @classmethod
    def read(cls, texts: Sequence[str]) -> tuple["Words", list[str]]:
        """The words among ``texts``, and the others, which are a config's overrides."""
        names = [field.name for field in fields(cls)]
        own = [text for text in texts if text.split("=")[0] in names]
        for key in {text.split("=")[0] for text in texts} - set(names) - {f.name for f in fields(Config)} - set(GROUPS):
            if difflib.get_close_matches(key, names, cutoff=0.7):
                raise nearest("word", key, names)
        values = {override.key_or_group: override.value() for override in parse(own)}
        for name in ("batch", "answers"):
            if name in values:
                given = values[name] if isinstance(values[name], list) else [values[name]]
                if not all(type(n) is int and n > 0 for n in given) or (name == "batch" and not given):
                    raise UserError(f"{name} is a number from 1 or a list of them, {name}=[1,8], not {values[name]}")
                values[name] = sorted(set(given))
        for name, kind in (("repeats", int), ("seconds", (int, float))):
            if name in values and (not isinstance(values[name], kind) or values[name] is True or values[name] < 1):
                raise UserError(f"{name} is a number from 1, not {values[name]}")
        words = cls(**values | ({"shape": str(values["shape"])} if values.get("shape") is not None else {}))
        if words.weights not in WEIGHTS:
            raise nearest("weights", str(words.weights), WEIGHTS)
        if words.shape is not None and words.weights != "random":
            raise UserError("a checkpoint has the shape that it has: shape goes with weights=random")
        return words, [text for text in texts if text not in own]


def time_method(config: DictConfig, words: Words) -> dict[str, Any]:
    """The model and the method of ``config`` timed as ``words`` say, as plain data; see `costs.speed`."""
    import torch

    from thinsight.costs.inputs import random_inputs
    from thinsight.costs.speed import RANDOM_WEIGHTS, TimedModel, machine_card
    from thinsight.models.image_tokens import largest_image
    from thinsight.models.loading import load_model, random_model

    if words.shape is not None:
        config.model = resized(config.model, words.shape)
    if words.weights == "random":
        model = random_model(config)
        image = largest_image(model.config, config.model.processor)

        def prompts(count: int) -> dict[str, Any]:
            return random_inputs(model, image, count, int(config.text_tokens), config.seed)
    else:
        model, processor = load_model(config)
        prompts = _questions(config, model, processor)
    weights = "random" if words.weights == "random" else str(config.model.checkpoint)
    first = prompts(1)
    timed = TimedModel.of(model, config, weights, first)
    method = timed.fitted(config.method)
    cuda = model.device.type == "cuda"
    answers = ((1, 32, 256) if cuda else (1, 8)) if words.answers is None else words.answers
    runs = []
    for count in ((1, 8, 32) if cuda else (1,)) if words.batch is None else words.batch:
        try:
            inputs, repeats = prompts(count), words.repeats or (20 if cuda else 5)
            found = timed.compare([method], inputs, answers=answers, repeats=repeats, seconds=words.seconds)
        except torch.OutOfMemoryError:
            found = [{"batch": count, "why": "this batch does not fit into the memory of the device"}]
        for record in found:
            if "why" in record and "method" in record:
                raise UserError(record["why"])
        runs += found
    return {
        **timed.card,
        "shape": words.shape,
        "method": method.name,
        "fields": dict(method.fields),
        "text_tokens": int(config.text_tokens) if words.weights == "random" else None,
        "visual_tokens": timed.whole(first)[0],
        "note": RANDOM_WEIGHTS if words.weights == "random" else f"Questions of the task {config.task.name}.",
        "arms": _arms(timed),
        "answers": list(answers),
        **machine_card(model.device),
        "runs": runs,
    }


def _arms(timed: Any) -> str:
    """Whether the method's attention is the plain model's fastest."""
    if timed.attention == timed.fastest:
        return f"The method runs on {timed.fastest}, the plain model's fastest here: one plain arm stands for both."
    return f"The plain model is fastest on {timed.fastest}; a second plain arm runs on the method's {timed.attention}."


def _questions(config: DictConfig, model: Any, processor: Any) -> Any:
    """count -> inputs of so many questions of the task, repeated where there are fewer."""
    from thinsight.tasks.rows import collate, load_rows

    rows = load_rows(config.task, config.limit or 64)

    def prompts(count: int) -> dict[str, Any]:
        chosen = [rows[n % len(rows)] for n in range(count)]
        inputs = collate(processor, chosen, config.task)
        return {key: value.to(model.device) for key, value in inputs.items()}

    return prompts


def table(answer: Mapping[str, Any]) -> str:
    """The answer as text: a block for each batch, a line for each phase."""
    fields_ = ", ".join(f"{key}={value}" for key, value in answer["fields"].items() if key in ("keep", "layer"))
    hardware = answer["hardware"]
    shape = f" {answer['shape']}" if answer["shape"] else ""
    lines = [
        f"{answer['model']}{shape}, {answer['parameters'] / 1e6:,.0f} M parameters, {answer['weights']} weights, "
        f"{answer['dtype']}, on {hardware.get('gpu', hardware['cpu'])}",
        f"{answer['method']} {fields_}, {answer['visual_tokens']} visual tokens",
        answer["note"],
        answer["arms"],
    ]
    for batch in dict.fromkeys(run["batch"] for run in answer["runs"]):
        runs = [run for run in answer["runs"] if run["batch"] == batch]
        if "why" in runs[0]:
            lines += ["", f"batch {batch}: {runs[0]['why']}"]
            continue
        lines += ["", *_block(batch, runs, answer["answers"])]
    return "\n".join(lines)


def _block(batch: int, runs: Sequence[Mapping[str, Any]], answers: Sequence[int]) -> list[str]:
    from thinsight.costs.speed import phases

    *plain, method = runs
    heads = [f"batch {batch}, ms", *(run["arm"] for run in plain), method["method"]]
    heads += ["speed-up", "by FLOPs", "share of it"]
    rows = []
    for phase in phases(answers):
        cells = [phase, *(_milliseconds(run["seconds"].get(phase)) for run in [*plain, method])]
        if phase == "own work":
            cells[1:-1] = ["" for _ in plain]
            cells += ["", "", f"{method['own_share']:.1%} of the plain prefill"]
        elif phase in method["bound"]:
            faster, bound = method["speedup"][phase]["median"], method["bound"][phase]
            cells += [f"{faster:.2f}", f"{bound:.2f}", f"{faster / bound:.2f}"]
        rows.append(cells + [""] * (len(heads) - len(cells)))
    peaks = [f"{run['peak_bytes'] / 1e6:,.1f}" for run in [*plain, method]]
    rows.append(["peak memory, MB", *peaks, "", "", ""])
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _milliseconds(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return ""
    low, median, high = (1000 * spread[key] for key in ("low", "median", "high"))
    digits = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def main(arguments: list[str]) -> None:
    """``override... word... [--json]``: print a small table, or one JSON object where the output is no terminal."""
    parser = argparse.ArgumentParser(
        prog="python -m thinsight.time", description=about(__doc__), epilog=f"examples:{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model=NAME method=NAME weights=random ...")
    parser.add_argument("--json", action="store_true", help="one JSON object on a terminal, too")
    options = parser.parse_intermixed_args(arguments)
    words, overrides = Words.read(options.overrides)
    config = load_config(overrides)
    answer = time_method(config, words)
    print(json.dumps(answer, indent=1) if options.json or not sys.stdout.isatty() else table(answer))


if __name__ == "__main__":
    command(main)
