"""PAR's thresholds chosen on training questions of a model.

python -m thinsight.papers.par.calibration [override...] [--questions 50] [--out data/pocket/par.json]

For each candidate setting the redundancy threshold tau_r is solved so that the mean number of kept tokens meets the
target (a ninth: the paper's compression by 89 %); of those that meet it, the one with the best accuracy on the training
questions is kept, the first of equals: step by step, in each of the two spaces, and at last the better space. Every
setting that was tried is in the file, with each space's sign test and its test with shuffled questions (the same
pictures cut by another question of their task), and the curve over tau_r.
"""

import argparse
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from thinsight.analysis.prompt_awareness import prompt_swap, swap_summary
from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.errors import UserError, command
from thinsight.evaluation.protocol import weights_hash
from thinsight.methods.prompt_relevance import Relevance
from thinsight.models.loading import load_model
from thinsight.papers.par.calibration_set import TASKS, CalibrationSet, par_method, spread
from thinsight.papers.par.sign_test import SIGNED, sign_test
from thinsight.paths import ROOT
from thinsight.tasks.rows import Row, training_rows

TARGET = 1 / 9
CLOSE = 0.05
"""How far the mean may be off, as a share of the target; a setting that comes no closer is not eligible."""

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


def calibrate(training: CalibrationSet, space: str) -> dict[str, Any]:
    """The fields of ``conf/method/par.yaml`` chosen in one space, what they give, and all that was tried."""
    best: dict[str, Any] = {"fields": {"space": space, **START}}
    tried, wanted = [], TARGET * training.patches
    for step, options in STEPS.items():
        solved = [solve_threshold(training, {**best["fields"], **option}) for option in options]
        eligible = [fields for fields, mean in solved if abs(mean - wanted) <= CLOSE * wanted]
        scores = training.scores([par_method(fields) for fields in eligible])
        lines = [{"step": step, "fields": fields, **score} for fields, score in zip(eligible, scores, strict=True)]
        tried += lines + [
            {"step": step, "fields": fields, "missed": mean} for fields, mean in solved if fields not in eligible
        ]
        best = max([best, *lines], key=lambda line: line.get("accuracy", -1.0))
    if "accuracy" not in best:
        raise UserError(f"in the space {space} no setting keeps {TARGET:.0%} of the visual tokens in the mean")
    return {name: best[name] for name in ("fields", "accuracy", "kept")} | {"tried": tried}


def solve_threshold(training: CalibrationSet, fields: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """``fields`` with the tau_r, in hundredths, that brings the mean number of kept tokens closest to the target; and
    that mean."""
    wanted = TARGET * training.patches
    stage = par_method(fields).reductions[0].filter

    @cache
    def off(level: int) -> float:
        kept = training.kept(replace(stage, router=replace(stage.router, redundant=level / 100)))
        return sum(kept) / len(kept) - wanted

    low = bisect_left(range(100), 0.0, key=off)  # the mean rises with the threshold
    near = min((low, max(low - 1, 0)), key=lambda level: abs(off(level)))
    return {**fields, "tau_r": near / 100}, off(near) + wanted


def calibration_curve(training: CalibrationSet, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy and kept tokens over tau_r."""
    scores = training.scores([par_method({**fields, "tau_r": level}) for level in CURVE])
    return [{"tau_r": level, **scored} for level, scored in zip(CURVE, scores, strict=True)]


def shuffled(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Mapping[str, Sequence[Row]], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """What is answered if each picture is reduced by another question of its task, and asked its own.

    For a method that goes by the prompt the kept tokens differ (``changed``, ``common``) and the ``accuracy`` falls.
    """
    swap = prompt_swap(model, processor, par_method({**fields, "merge": "drop"}), rows)
    summary = swap_summary(swap)
    kept = spread(swap["others"].map(len).tolist())
    return {"changed": summary["changed"], "common": summary["common"], "accuracy": summary["other"], "kept": kept}


def main(arguments: list[str]) -> None:
    """``override... [--questions N] [--out FILE]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.papers.par.calibration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides: model=pocket")
    parser.add_argument("--questions", type=int, default=50, help="training questions of each task")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "pocket" / "par.json")
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.overrides)
    model, processor = load_model(config)
    rules = Relevance(rewriting=START["rewriting"], phrase=START["phrase"])
    relevances = [replace(rules, space=space, asked=step["asked"]) for space in SPACES for step in STEPS["queries"]]
    rows = training_rows(config.tasks or TASKS, options.questions)
    training = CalibrationSet(model, processor, rows, relevances)
    spaces = {space: calibrate(training, space) for space in SPACES}
    for space, chosen in spaces.items():
        chosen["sign"] = sign_test(model, processor, replace(SIGNED, space=space))
        chosen["shuffled"] = shuffled(model, processor, rows, chosen["fields"])
    best = max(spaces.values(), key=lambda chosen: chosen["accuracy"])
    whole, *trsm = training.scores([load_method("identity"), *(load_method("trsm", **fields) for fields in TRSM)])
    record = {
        "model": config.model.name,
        "weights_sha256": weights_hash(config.model),
        "questions": len(training.questions),
        "target": TARGET,
        "whole": whole["accuracy"],
        "fields": best["fields"],
        "spaces": spaces,
        "curve": calibration_curve(training, best["fields"]),
        "trsm": [fields | scored for fields, scored in zip(TRSM, trsm, strict=True)],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
