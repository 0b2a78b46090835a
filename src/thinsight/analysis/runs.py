"""Config and protocol card of finished runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from thinsight.config.schema import POINTS


@dataclass(frozen=True)
class FinishedRun:
    """One run: its name, its folder, its config and its protocol card as plain data."""

    name: str
    home: Path
    config: dict[str, Any]
    protocol: dict[str, Any]


def finished_runs(folder: Path) -> list[FinishedRun]:
    """Every finished run in ``folder``, by name; the unreduced model's first, since all others lean on it."""
    found = []
    for metrics in folder.glob("*/metrics.json"):
        home, card = metrics.parent, metrics.with_name("protocol.json")
        config = OmegaConf.to_container(OmegaConf.load(home / "config.yaml"), resolve=False)
        protocol = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
        found.append(FinishedRun(home.name, home, config, protocol))
    return sorted(found, key=lambda run: (run.config["method"]["name"] != "identity", run.name))


def run_budgets(run: FinishedRun) -> str:
    """The run's sweep in words: ``layer 1–11 × seed 0, 1``; a dash for a run at one budget."""
    sweep = dict(run.config["sweep"])
    variants = sweep.pop(POINTS, [])
    axes = [f"{field} {_listed(values)}" for field, values in sweep.items()]
    axes += [f"{len(variants)} variants"] if variants else []
    return " × ".join(axes) or "–"


def _listed(values: Sequence[Any]) -> str:
    """The values with commas; three or more whole numbers in a row as first–last."""
    whole = all(type(value) is int for value in values)
    if whole and len(values) > 2 and list(values) == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}–{values[-1]}"
    return ", ".join(map(str, values))


def differing_settings(runs: Sequence[FinishedRun]) -> list[str]:
    """The names of the facts besides the method in which the runs' cards differ; none is what a comparison needs."""
    cards = [dict(config_facts({key: of for key, of in run.protocol.items() if key != "method"})) for run in runs]
    return sorted({name for card in cards for name in card if any(other.get(name) != card[name] for other in cards)})


def config_facts(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text), hashes shortened, absent ones left out."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from config_facts(value, f"{prefix}{key}.")
        elif value is not None:
            text = str(value)
            yield f"{prefix}{key}", text[:12] if key.endswith("sha256") else text
