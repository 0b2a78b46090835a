"""PAR's thresholds, which its paper calls predefined and does not publish: chosen once, on training questions.

    python -m thinsight.par_calibration [override...] [--questions 50] [--out data/pocket/par.json]

For each candidate setting the redundancy threshold tau_r is solved so that the mean number of kept tokens meets the
target (a ninth: the paper's compression by 89 %); of those that meet it, the one with the best accuracy on the training
questions is kept, the first of equals: step by step, in each of the two spaces, and at last the better space. Every
setting that was tried is in the file, with each space's sign test and its test with shuffled questions (the same
pictures cut by another question of their task), and the curve over tau_r.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinsight.calibration import training_rows
from thinsight.config import ROOT, load_config, load_method, load_task
from thinsight.errors import UserError, command
from thinsight.heard import Given, Heard, par
from thinsight.models import load_model
from thinsight.protocol import weights_hash
from thinsight.reduction import Method, Projected, Reduction
from thinsight.schedule import Adaptive
from thinsight.sign import sign_test
from thinsight.stages.relevance import Relevance

TASKS = ("exist", "attribute", "relation", "count", "read", "choice")
TARGET = 1 / 9
CLOSE = 0.05
"""How far the mean may be off, as a share of the target; a setting that comes no closer is not eligible."""

SIGNED = Relevance(rewriting="rules", asked=("entities",), phrase="a {}")
"""What the sign test scores patches by, in each space."""

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


def calibrate(heard: Heard, space: str, target: float = TARGET) -> dict[str, Any]:
    """The fields of ``conf/method/par.yaml`` chosen in one space, what they give, and all that was tried."""
    best: dict[str, Any] = {"fields": {"space": space, **START}}
    tried, wanted = [], target * heard.patches
    for step, options in STEPS.items():
        found = [solved(heard, {**best["fields"], **option}, target) for option in options]
        fields = [one for one, mean in found if abs(mean - wanted) <= CLOSE * wanted]
        scores = heard.scores([par(one) for one in fields])
        lines = [{"step": step, "fields": one, **scored} for one, scored in zip(fields, scores, strict=True)]
        tried += lines + [{"step": step, "fields": one, "missed": mean} for one, mean in found if one not in fields]
        best = max([best, *lines], key=lambda one: one.get("accuracy", -1.0))
    if "accuracy" not in best:
        raise UserError(f"in the space {space} no setting keeps {target:.0%} of the visual tokens in the mean")
    return {name: best[name] for name in ("fields", "accuracy", "kept")} | {"tried": tried}


def solved(heard: Heard, fields: Mapping[str, Any], target: float) -> tuple[dict[str, Any], float]:
    """``fields`` with the tau_r, in hundredths, that brings the mean number of kept tokens closest to the target; and
    that mean."""
    wanted, means = target * heard.patches, {}
    stage = par(fields).reductions[0].filter

    def off(level: int) -> float:
        if level not in means:
            kept = heard.kept(replace(stage, router=replace(stage.router, redundant=level / 100)))
            means[level] = sum(kept) / len(kept)
        return means[level] - wanted

    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if off(middle) < 0 else (low, middle)
    near = min((low, max(low - 1, 0)), key=lambda level: abs(off(level)))
    return {**fields, "tau_r": near / 100}, off(near) + wanted


def curve(heard: Heard, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy and kept tokens over tau_r."""
    scores = heard.scores([par({**fields, "tau_r": level}) for level in CURVE])
    return [{"tau_r": level, **scored} for level, scored in zip(CURVE, scores, strict=True)]


def shuffled(heard: Heard, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What remains if each picture is cut by another question of its task, and asked its own.

    For a method that goes by the prompt the kept tokens differ and the accuracy falls. ``changed``: share of questions
    with other kept tokens; ``common``: mean share of the kept tokens that stay the same.
    """
    stage = par(fields).reductions[0].filter
    asked = [(name, row.question) for name, rows in heard.rows.items() for row in rows]
    kept, own = [], []
    for i, (name, question) in enumerate(asked):
        others = [j for j, (task, text) in enumerate(asked) if task == name and text != question]
        other = heard.sounds[min((j for j in others if j > i), default=others[0])]
        for asking, found in ((other, kept), (heard.sounds[i], own)):
            routing, similarity = heard.route(stage, heard.sounds[i], asking)
            found.append(stage.router(routing.relevance, similarity, routing.clusters, routing.candidates, None))
    common = [len({*a.tolist()} & {*b.tolist()}) / len(b) for a, b in zip(kept, own, strict=True)]
    site = Projected(positions="pack")
    method = Method("shuffled", (Reduction(Given(iter(kept)), site=site, schedule=Adaptive()),))
    changed = sum(a.tolist() != b.tolist() for a, b in zip(kept, own, strict=True)) / len(own)
    return {"changed": changed, "common": sum(common) / len(common), **heard.score(method)}


def main(arguments: list[str]) -> None:
    """``override... [--questions N] [--out FILE]``."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.par_calibration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides: model=pocket")
    parser.add_argument("--questions", type=int, default=50, help="training questions of each task")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "pocket" / "par.json")
    given = parser.parse_args(arguments)
    config = load_config(given.overrides)
    model, processor = load_model(config)
    rules = Relevance(rewriting=START["rewriting"], phrase=START["phrase"])
    relevances = [replace(rules, space=space, asked=o["asked"]) for space in SPACES for o in STEPS["queries"]]
    heard = Heard(model, processor, training_rows(config.tasks or TASKS, given.questions), relevances)
    found = {space: calibrate(heard, space) for space in SPACES}
    for space, one in found.items():
        one["sign"] = sign_test(model, processor, replace(SIGNED, space=space), load_task("exist")).plain()
        one["shuffled"] = shuffled(heard, one["fields"])
    best = max(found.values(), key=lambda one: one["accuracy"])
    trsm = heard.scores([load_method("trsm", **fields) for fields in TRSM])
    record = {
        "model": config.model.name,
        "weights_sha256": weights_hash(config.model),
        "questions": len(heard.sounds),
        "target": TARGET,
        "whole": heard.score(load_method("identity"))["accuracy"],
        "fields": best["fields"],
        "spaces": found,
        "curve": curve(heard, best["fields"]),
        "trsm": [fields | scored for fields, scored in zip(TRSM, trsm, strict=True)],
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    command(main)
