"""The index of the report: cards of pages, verdicts at a glance, under what conditions runs were made."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinsight.analysis.runs import FinishedRun, finished_runs
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry, method_entries
from thinsight.errors import UserError
from thinsight.ledger.baseline_check import check_baseline
from thinsight.ledger.verdicts import BADGES, RANGE, rules
from thinsight.paths import ROOT
from thinsight.pipeline.notebook import Summary, summarize
from thinsight.pipeline.plan import CONTENTS, OVERVIEW, read_contents
from thinsight.report.page import executed_notebook, link, markdown, pathless, relink, write_html

LABELS = {RANGE: "within range"}  # verdicts that the index calls by a shorter name
CELL = ("file", "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "printed", "unit")
"""What makes two lines of ledgers the same printed number."""


@dataclass(frozen=True)
class Part:
    """A share of a bar: how many numbers have a verdict, what it is called, and the name of its colour and anchor."""

    kind: str
    label: str
    count: int


@dataclass(frozen=True)
class Counts:
    """The verdicts of one page, or of one document on it; ``arxiv`` may be empty."""

    page: str
    name: str
    arxiv: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """How many printed numbers."""
        return sum(part.count for part in self.parts)


@dataclass(frozen=True)
class VerdictCounts:
    """All pages together (each printed number once), each page, and each page's documents."""

    whole: Counts
    pages: tuple[Counts, ...]
    documents: tuple[Counts, ...]


def verdict_counts(folder: Path, order: Iterable[str] = ()) -> VerdictCounts | None:
    """The counts of every ledger in ``folder``, pages as in ``order``; None if no page has saved one."""
    ledgers = {file.parent.name: _lines(file) for file in sorted(folder.glob("*/ledger.csv"))}
    if not any(ledgers.values()):
        return None
    first = [name for name in order if name in ledgers]
    ledgers = {name: ledgers[name] for name in dict.fromkeys([*first, *ledgers])}
    once = {tuple(line.get(key) for key in CELL): line for lines in ledgers.values() for line in lines}
    documents = [
        _counts(page, paper, [line for line in lines if line["paper"] == paper])
        for page, lines in ledgers.items()
        for paper in dict.fromkeys(line["paper"] for line in lines)
    ]
    pages = tuple(_counts(page, page, lines) for page, lines in ledgers.items())
    return VerdictCounts(_counts("", "all pages", once.values()), pages, tuple(documents))


def _lines(file: Path) -> list[Mapping[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def _counts(page: str, name: str, lines: Iterable[Mapping[str, str]]) -> Counts:
    lines = list(lines)
    left = Counter(line["verdict"] for line in lines)
    parts = [Part(kind, LABELS.get(verdict, verdict), left.pop(verdict, 0)) for verdict, kind in BADGES.items()]
    if left:
        raise UserError(f"the ledger of {page} has a verdict that thinsight.ledger.verdicts does not know: {min(left)}")
    numbers = {line.get("arxiv", "") for line in lines}
    return Counts(page, name, numbers.pop() if len(numbers) == 1 else "", tuple(parts))


@dataclass(frozen=True)
class Card:
    """A page: its notebook's name, what it says, where it and the executed notebook are, as seen from the index."""

    name: str
    summary: Summary
    page: str
    notebook: str


def index_cards(pages: Iterable[Path], reports: Path, order: Sequence[str] = ()) -> list[Card]:
    """The cards of pages in ``reports/pages``: as in ``order``, then by the order that their notebooks give."""
    place = {name: number for number, name in enumerate(order)}
    cards = [_card(page, reports) for page in pages]
    return sorted(cards, key=lambda card: (place.get(card.name, len(place)), card.summary.order, card.summary.title))


def _card(page: Path, reports: Path) -> Card:
    notebook = reports / "notebooks" / f"{page.stem}.ipynb"
    links = [link(path, reports) for path in (page, notebook)]
    return Card(page.stem, summarize(executed_notebook(notebook), notebook.name), *links)


def shelves(
    cards: Iterable[Card], verdicts: VerdictCounts | None, findings: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """``overview``; ``papers``, the pages with a ledger; ``others``: cards as the template wants them."""
    counts = {page.page: page for page in verdicts.pages} if verdicts else {}
    out: dict[str, list[dict[str, Any]]] = {"overview": [], "papers": [], "others": []}
    for card in cards:
        shelf = "overview" if card.name == OVERVIEW else "papers" if card.name in counts else "others"
        out[shelf].append(vars(card) | {"finding": findings[card.name], "counts": counts.get(card.name)})
    return out


def methods_by_place() -> list[tuple[str, list[MethodEntry]]]:
    """(where they act, the methods that do so), controls last."""
    entries = method_entries()
    places = {place: [entry for entry in entries if entry.family == place] for place in (*FAMILIES, CONTROL)}
    return [(place, group) for place, group in places.items() if group]


DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU"}


@dataclass(frozen=True)
class RunConditions:
    """Facts that a group of runs shares (name, text), their tasks' cards, and the names of the runs."""

    model: str
    facts: tuple[tuple[str, str], ...]
    tasks: Mapping[str, Mapping[str, Any]]
    runs: tuple[str, ...]


def run_conditions(runs: Sequence[FinishedRun]) -> list[RunConditions]:
    """The runs grouped by everything on their cards besides the method and the tasks; the largest group first.

    ``tasks`` is the card of the run with most questions: a run about one method may use fewer.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in (run for run in runs if run.protocol.get("model")):
        shared = {key: value for key, value in run.protocol.items() if key not in ("method", "tasks")}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    conditions = []
    for group in groups.values():
        widest = max(group, key=_questions).protocol
        names = tuple(run.name for run in group)
        conditions.append(RunConditions(widest["model"]["name"], tuple(_facts(widest)), widest.get("tasks", {}), names))
    return sorted(conditions, key=lambda condition: -len(condition.runs))


def _questions(run: FinishedRun) -> int:
    return sum(task.get("rows", 0) for task in run.protocol.get("tasks", {}).values())


def _facts(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, processor = card["model"], card.get("processor", {})
    if model.get("device"):
        yield (
            "hardware",
            ", ".join([DEVICES.get(model["device"], model["device"]), *_hardware(card.get("hardware", {}))]),
        )
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


def _hardware(hardware: Mapping[str, Any]) -> list[str]:
    """The GPU if there is one, the CPU with its instruction set and threads, the versions of torch's kernels."""
    if not hardware:  # a card made before cards named it
        return []
    cpu = f"{hardware['cpu']} ({hardware['instructions']}, threads {hardware['threads']})"
    kernels = [f"{name} {version}" for name, version in hardware["kernels"].items() if version]
    return [*filter(None, [hardware.get("gpu")]), cpu, *kernels]


def _checkpoint(model: Mapping[str, Any]) -> str:
    """Its name without the folders around it, and what identifies its weights."""
    name = pathless(str(model.get("checkpoint") or model["name"]))
    sha, revision = model.get("weights_sha256"), model.get("revision")
    return f"{name}, weights {sha[:12]}" if sha else f"{name}, revision {revision}" if revision else name


def index(reports: Path, folder: Path, listed: Path = CONTENTS, saved: Path = ROOT / "data" / "pages") -> None:
    """Write ``reports/index.html``: the ledgers in ``saved`` counted, a card for each page in ``reports/pages``, the
    methods, what the runs were made with, and a line for each run in ``folder``.
    """
    pages = sorted((reports / "pages").glob("*.html"))
    if not pages:
        raise UserError(f"no pages in {reports / 'pages'}: dvc repro makes them")
    order = read_contents(listed)
    cards = index_cards(pages, reports, [page.name for page in order])
    counted = verdict_counts(saved, [card.name for card in cards])
    runs, plots = finished_runs(folder), ROOT / "dvc_plots" / "index.html"
    relinked = {card.name: relink(markdown(card.summary.finding), reports, reports / "pages") for card in cards}
    write_html(
        reports / "index.html",
        "index.html.j2",
        **shelves(cards, counted, relinked),
        verdicts=counted,
        made=[card.name for card in cards],
        names={page.name: page.short for page in order} or {card.name: card.summary.title for card in cards},
        rules=rules(),
        kinds=BADGES,
        methods=methods_by_place() if (reports / "pages" / "methods.html").is_file() else [],
        settings=run_conditions(runs),
        gate=check_baseline(folder) if runs else [],
        runs=runs,
        dvc_plots=link(plots, reports) if plots.is_file() else "",
    )
