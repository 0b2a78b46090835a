"""Config, group and protocol card of finished runs.

A run's results lie in ``data/runs/<run>``; the config that they were made with is ``data/configs/<run>.yaml``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from thinsight.config.schema import POINTS
from thinsight.errors import UserError

MAIN = "main"
"""The group of a run that names none: the methods at the same budgets on all tasks."""


@dataclass(frozen=True)
class FinishedRun:
    """One run: its name, its folder, the file of its config, this config and its protocol card as plain data."""

    name: str
    home: Path
    config_file: Path
    config: dict[str, Any]
    protocol: dict[str, Any]

    @property
    def group(self) -> str:
        """The runs that it may be compared with."""
        return self.config.get("group", MAIN)


def read_json(file: Path) -> dict[str, Any]:
    """What a ``metrics.json`` or a ``protocol.json`` holds."""
    try:
        return parse_json(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error})") from error


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object in ``text``; ``where`` names its file in the error."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} is not the JSON object that a run writes")
    return value


def finished_runs(folder: Path) -> list[FinishedRun]:
    """Every finished run in ``folder``, by name; the unreduced model's first, since all others lean on it."""
    runs = []
    for home in _homes(folder):
        card = home / "protocol.json"
        config = _read(config_file(home).read_text(encoding="utf-8"))
        protocol = read_json(card) if card.is_file() else {}
        runs.append(FinishedRun(home.name, home, config_file(home), config, protocol))
    return sorted(runs, key=lambda run: (run.config["method"]["name"] != "identity", run.name))


def finished(folder: Path, runs: Sequence[str] | None = None, name: str = "metrics.json") -> list[Path]:
    """The file ``name`` of every finished run in ``folder`` that ``runs`` asks for, by run.

    runs  names of runs, or patterns as of a shell: ``vtw*`` means runs of the group main, ``exist/*`` those of the
          group exist; None: all of the group main
    """
    return [home / name for home in _homes(folder) if is_wanted(home.name, group_of(home), runs)]


def is_wanted(name: str, group: str, runs: Sequence[str] | None) -> bool:
    """Whether ``runs`` ask for the run ``name`` of a group; see `finished`."""
    wanted = ["*"] if runs is None else runs
    patterns = [pattern if "/" in pattern else f"{MAIN}/{pattern}" for pattern in wanted]
    return name in wanted or any(fnmatchcase(f"{group}/{name}", pattern) for pattern in patterns)


def _homes(folder: Path) -> list[Path]:
    """The folders of all finished runs, by name. One that has left params.yaml keeps its results, but is in no plan."""
    homes = sorted(file.parent for file in folder.glob("*/metrics.json"))
    plan = folder.parent / "plan" / "runs"
    return [home for home in homes if not plan.is_dir() or (plan / f"{home.name}.txt").is_file()]


def config_file(run_folder: Path) -> Path:
    """The config of the run with its results in ``run_folder``, ``data/runs/<run>``: ``data/configs/<run>.yaml``."""
    return run_folder.parent.parent / "configs" / f"{run_folder.name}.yaml"


def group_of(run_folder: Path) -> str:
    """The group of the run in ``run_folder``, from its config; main for one without a config."""
    path = config_file(run_folder)
    return _read(path.read_text(encoding="utf-8")).get("group", MAIN) if path.is_file() else MAIN


@cache
def _read(text: str) -> dict[str, Any]:
    """A resolved config; by libyaml where it is there, since every page reads all of them."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


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
    cards = [dict(config_facts({key: value for key, value in run.protocol.items() if key != "method"})) for run in runs]
    return sorted(name for name in set().union(*cards) if len({card.get(name) for card in cards}) > 1)


def config_facts(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text), hashes shortened, absent ones left out."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from config_facts(value, f"{prefix}{key}.")
        elif value is not None:
            text = str(value)
            yield f"{prefix}{key}", text[:12] if key.endswith("sha256") else text
