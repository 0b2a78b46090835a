"""The index of the report: cards of pages, verdicts at a glance, under what conditions runs were made."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.runs import FinishedRun, finished_runs
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry, method_entries
from thinsight.errors import UserError
from thinsight.ledger.baseline_check import check_baseline
from thinsight.ledger.ledger import count_all, each_number_once, headline
from thinsight.ledger.verdicts import BADGES, COST, SCORE, rules
from thinsight.paths import ROOT
from thinsight.pipeline.notebook import Summary, summarize
from thinsight.pipeline.plan import CONTENTS, OVERVIEW, read_contents
from thinsight.report.page import executed_notebook, link, markdown, pathless, relink, write_html

DEVICES = {"cpu": "CPU", "cuda": "GPU", "mps": "GPU"}


@dataclass(frozen=True)
class Counts:
    """The verdicts of one page, or of one document on it; ``arxiv`` may be empty.

    parts     question -> for each verdict its ``count``, its ``label``, and ``kind``, the name of its colour and anchor
    headline  what they come to, in sentences
    """

    page: str
    name: str
    arxiv: str
    parts: Mapping[str, Sequence[Mapping[str, Any]]]
    headline: str

    @property
    def total(self) -> int:
        """How many printed numbers."""
        return sum(part["count"] for question in (SCORE, COST) for part in self.parts[question])


@dataclass(frozen=True)
class VerdictCounts:
    """All pages together (each printed number once), each page, and each page's documents."""

    whole: Counts
    pages: Sequence[Counts]
    documents: Sequence[Counts]


def verdict_counts(folder: Path, order: Iterable[str] = ()) -> VerdictCounts | None:
    """The counts of every ledger in ``folder``, pages as in ``order``; None if no page has saved one."""
    files = {file.parent.name: file for file in sorted(folder.glob("*/ledger.csv"))}
    pages = [name for name in dict.fromkeys([*order, *files]) if name in files]
    ledgers = {page: pd.read_csv(files[page], dtype=str, keep_default_na=False) for page in pages}
    if not any(map(len, ledgers.values())):
        return None
    documents = [
        _counts(page, paper, lines)
        for page, ledger in ledgers.items()
        for paper, lines in ledger.groupby("paper", sort=False)
    ]
    once = each_number_once(pd.concat(ledgers.values()))
    return VerdictCounts(
        _counts("", "all pages", once), [_counts(page, page, ledger) for page, ledger in ledgers.items()], documents
    )


def _counts(page: str, name: str, lines: pd.DataFrame) -> Counts:
    counts = count_all(lines)
    for question, kinds in BADGES.items():
        if unknown := sorted({*lines[question]} - {*kinds, ""}):
            raise UserError(
                f"the ledger of {page} has a verdict that thinsight.ledger.verdicts does not know: {unknown[0]}"
            )
    numbers = set(lines.get("arxiv", ()))
    parts = {
        question: [
            {"kind": kind, "label": verdict, "count": counts[f"{question}: {verdict}"]}
            for verdict, kind in kinds.items()
        ]
        for question, kinds in BADGES.items()
    }
    return Counts(page, name, numbers.pop() if len(numbers) == 1 else "", parts, headline(counts))


@dataclass(frozen=True)
class Card:
    """A page: its notebook's name, its summary, its finding as HTML, and the ways from the index to the page and to the
    executed notebook."""

    name: str
    summary: Summary
    finding: str
    page: str
    notebook: str


def index_cards(reports: Path, order: Sequence[str]) -> list[Card]:
    """The cards of the pages in ``reports/pages``: as in ``order``, then by the order that their notebooks give."""
    cards = []
    for page in sorted((reports / "pages").glob("*.html")):
        notebook = reports / "notebooks" / f"{page.stem}.ipynb"
        summary = summarize(executed_notebook(notebook), notebook.name)
        finding = str(relink(markdown(summary.finding), reports, page.parent))
        cards.append(Card(page.stem, summary, finding, link(page, reports), link(notebook, reports)))
    place = {name: number for number, name in enumerate(order)}
    return sorted(cards, key=lambda card: (place.get(card.name, len(place)), card.summary.order, card.summary.title))


def methods_by_place() -> dict[str, list[MethodEntry]]:
    """Where they act -> the methods that do so; controls last."""
    entries = method_entries()
    return {place: [entry for entry in entries if entry.family == place] for place in (*FAMILIES, CONTROL)}


@dataclass(frozen=True)
class RunConditions:
    """Facts that a group of runs shares (name -> text), their tasks' cards, and the names of the runs."""

    model: str
    facts: Mapping[str, str]
    tasks: Mapping[str, Mapping[str, Any]]
    runs: Sequence[str]


def run_conditions(runs: Sequence[FinishedRun]) -> list[RunConditions]:
    """The runs grouped by everything on their cards besides the method and the tasks; the largest group first.

    ``tasks`` is the card of the run with most questions: a run about one method may use fewer.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in (run for run in runs if run.protocol):
        shared = {key: value for key, value in run.protocol.items() if key not in ("method", "tasks")}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    conditions = []
    for group in sorted(groups.values(), key=len, reverse=True):
        card = max((run.protocol for run in group), key=lambda card: sum(t["rows"] for t in card["tasks"].values()))
        conditions.append(
            RunConditions(card["model"]["name"], _facts(card), card["tasks"], [run.name for run in group])
        )
    return conditions


def _facts(card: Mapping[str, Any]) -> dict[str, str]:
    """What the index says of a protocol card, by name; what the card does not have is left out."""
    model, processor, machine = card["model"], card.get("processor"), card.get("hardware")
    hardware = [DEVICES.get(model["device"], model["device"])]
    if machine:
        cpu = f"{machine['cpu']} ({machine['instructions']}, threads {machine['threads']})"
        kernels = [f"{name} {version}" for name, version in machine["kernels"].items() if version]
        hardware += [*filter(None, [machine.get("gpu")]), cpu, *kernels]
    checkpoint, sha, revision = pathless(model["checkpoint"]), model.get("weights_sha256"), model.get("revision")
    checkpoint += f", weights {sha[:12]}" if sha else f", revision {revision}" if revision else ""
    facts = {"hardware": ", ".join(hardware), "checkpoint": checkpoint}
    if attention := model.get("attention"):
        kinds = ", ".join(f"{kind} ({place})" for place, kind in attention.items())
        facts["numbers"] = f"{model['dtype']}, attention {kinds}"
    if processor:
        crop = processor["image"].get("crop_size") or {}
        size = f", {crop['width']} × {crop['height']} pixels" if {"width", "height"} <= set(crop) else ""
        facts["processor"] = f"{processor['class']}, {processor['image_processor']}{size}"
    if decoding := card.get("decoding"):
        facts["decoding"] = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in decoding.items())
    return facts | {"versions": " · ".join(f"{name} {number}" for name, number in card["versions"].items() if number)}


def index(reports: Path, folder: Path, listed: Path = CONTENTS, saved: Path = ROOT / "data" / "pages") -> None:
    """Write ``reports/index.html``: the ledgers in ``saved`` counted, a card for each page in ``reports/pages``, the
    methods, what the runs were made with, and a line for each run in ``folder``.
    """
    order = read_contents(listed)
    cards = index_cards(reports, [page.name for page in order])
    if not cards:
        raise UserError(f"no pages in {reports / 'pages'}: dvc repro makes them")
    counted = verdict_counts(saved, [card.name for card in cards])
    ledgers = {counts.page: counts for counts in counted.pages} if counted else {}
    runs, plots = finished_runs(folder), ROOT / "dvc_plots" / "index.html"
    write_html(
        reports / "index.html",
        "index.html.j2",
        overview=[card for card in cards if card.name == OVERVIEW],
        papers=[card for card in cards if card.name in ledgers and card.name != OVERVIEW],
        others=[card for card in cards if card.name not in ledgers and card.name != OVERVIEW],
        ledgers=ledgers,
        verdicts=counted,
        made=[card.name for card in cards],
        names={page.name: page.short for page in order} or {card.name: card.summary.title for card in cards},
        rules=rules(),
        kinds=BADGES,
        methods=methods_by_place() if (reports / "pages" / "methods.html").is_file() else {},
        settings=run_conditions(runs),
        gate=check_baseline(folder) if runs else [],
        runs=runs,
        dvc_plots=link(plots, reports) if plots.is_file() else "",
    )
