"""What stands on the index: a card for each page, sorted onto shelves, and the methods as their page lists them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from thinsight.contents import OVERVIEW
from thinsight.glance import Counts, Glance
from thinsight.links import link
from thinsight.summary import Summary, executed, summarize


@dataclass(frozen=True)
class Card:
    """A page: its notebook's name, what it says, where it and the executed notebook are, as seen from the index."""

    name: str
    summary: Summary
    page: str
    notebook: str


def cards(pages: Iterable[Path], reports: Path, order: Sequence[str] = ()) -> list[Card]:
    """The cards of pages in ``reports/pages``: as in ``order``, then by the order that their notebooks give."""
    place = {name: number for number, name in enumerate(order)}
    found = [_card(page, reports) for page in pages]
    return sorted(found, key=lambda one: (place.get(one.name, len(place)), one.summary.order, one.summary.title))


def _card(page: Path, reports: Path) -> Card:
    notebook = reports / "notebooks" / f"{page.stem}.ipynb"
    links = [link(path, reports) for path in (page, notebook)]
    return Card(page.stem, summarize(executed(notebook), notebook.name), *links)


def shelves(cards: Iterable[Card], glance: Glance | None, findings: Mapping[str, str]) -> dict[str, list[Any]]:
    """``overview``; ``papers``, the pages with a ledger; ``others``: cards as the template wants them."""
    counts: Mapping[str, Counts] = {of.page: of for of in glance.pages} if glance else {}
    found: dict[str, list[Any]] = {"overview": [], "papers": [], "others": []}
    for one in cards:
        shelf = "overview" if one.name == OVERVIEW else "papers" if one.name in counts else "others"
        found[shelf].append(vars(one) | {"finding": findings[one.name], "counts": counts.get(one.name)})
    return found


def methods(page: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """(where they act, [(name, title)]) of the catalogue on the methods' page; empty without the page.

    Only methods that have a section on it, so that every link leads somewhere.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    table = re.search(r'<table class="catalogue.*?</table>', text, flags=re.DOTALL)
    sections = set(re.findall(r'<details id="method-(\w+)"', text))
    found = []
    for block in re.findall(r"<tbody>.*?</tbody>", table[0], flags=re.DOTALL) if table else []:
        family = re.search(r'<tr class="block"><th[^>]*>(.*?)</th>', block)
        entries = re.findall(r"<th[^>]*><code>(\w+)</code><small>(.*?)</small>", block)
        entries = [(name, unescape(title)) for name, title in entries if name in sections]
        if family and entries:
            found.append((unescape(family[1]), entries))
    return found
