"""The pages of the report in their order: the bar on top of every page and what lies before and after it.

A page is written before the others are, so it learns of them from ``data/plan/contents.json``, which is made of the
notebooks' titles: a changed cell does not change it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thinsight.config import ROOT
from thinsight.notebook import load
from thinsight.summary import summarize

PLACE = ROOT / "data" / "plan" / "contents.json"
OVERVIEW = "overview"  # the page that stands before all others
SHORT = 16  # letters of a title's first part that still fit in the bar


@dataclass(frozen=True)
class Listed:
    """A page: its notebook's name, its title, and what the bar calls it."""

    name: str
    title: str
    short: str


def contents(names: Sequence[str], notebooks: Path) -> str:
    """The list of the pages ``names``, in this order, as JSON; titles are those of the folder ``notebooks``."""
    titles = {name: summarize(load(notebooks / f"{name}.ipynb"), f"{name}.ipynb").title for name in names}
    pages = [asdict(Listed(name, title, _short(name, title))) for name, title in titles.items()]
    return json.dumps(pages, indent=1, ensure_ascii=False) + "\n"


def _short(name: str, title: str) -> str:
    """``VTW`` of ``VTW: withdraw every visual token``; else the notebook's name in letters."""
    head, colon, _ = title.partition(":")
    return head if colon and len(head) <= SHORT else name.replace("_", " ").capitalize()


def read(path: Path) -> list[Listed]:
    """The saved list; empty if there is none, and the pages then have no bar."""
    if not path.is_file():
        return []
    return [Listed(**page) for page in json.loads(path.read_text(encoding="utf-8"))]
