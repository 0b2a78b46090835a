"""With what the runs were made, for the index: one card for each model and machine, never a path."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinsight.runs import Run

DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU"}


@dataclass(frozen=True)
class Setting:
    """Facts that a group of runs shares (name, text), their tasks' cards, and the names of the runs."""

    model: str
    facts: tuple[tuple[str, str], ...]
    tasks: Mapping[str, Mapping[str, Any]]
    runs: tuple[str, ...]


def settings(runs: Sequence[Run]) -> list[Setting]:
    """The runs grouped by everything on their cards besides the method and the tasks; the largest group first.

    ``tasks`` is the card of the run with most questions: a run about one method may use fewer.
    """
    groups: dict[str, list[Run]] = {}
    for run in (run for run in runs if run.protocol.get("model")):
        shared = {key: value for key, value in run.protocol.items() if key not in ("method", "tasks")}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    found = []
    for group in groups.values():
        widest = max(group, key=_questions).protocol
        names = tuple(run.name for run in group)
        found.append(Setting(widest["model"]["name"], tuple(_facts(widest)), widest.get("tasks", {}), names))
    return sorted(found, key=lambda setting: -len(setting.runs))


def _questions(run: Run) -> int:
    return sum(task.get("rows", 0) for task in run.protocol.get("tasks", {}).values())


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, processor = card["model"], card.get("processor", {})
    if model.get("device"):
        yield "hardware", DEVICES.get(model["device"], model["device"])
    yield "checkpoint", _checkpoint(model)
    if attention := model.get("attention"):
        kinds = ", ".join(f"{kind} ({place})" for place, kind in attention.items())
        yield "numbers", f"{model.get('dtype', '')}, attention {kinds}"
    if processor:
        crop = (processor.get("image") or {}).get("crop_size") or {}
        size = f", {crop['width']} × {crop['height']} pixels" if {"width", "height"} <= set(crop) else ""
        yield "processor", f"{processor['class']}, {processor['image_processor']}{size}"
    if decoding := card.get("decoding"):
        yield "decoding", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in decoding.items())
    yield "versions", " · ".join(f"{name} {number}" for name, number in card.get("versions", {}).items() if number)


def _checkpoint(model: Mapping[str, Any]) -> str:
    """Its name without the folders around it, and what identifies its weights."""
    name = str(model.get("checkpoint") or model["name"])
    name = name.rstrip("/").rpartition("/")[2] if name.startswith(("/", "~")) else name
    sha, revision = model.get("weights_sha256"), model.get("revision")
    return f"{name}, weights {sha[:12]}" if sha else f"{name}, revision {revision}" if revision else name
