"""Files that a page saves: facts, tables, figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


def save(
    folder: Path,
    facts: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """``folder/facts.json``, a ``.csv`` for each table and an ``.svg`` for each figure; equal content, equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (tables or {}).items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    for name, figure in (figures or {}).items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
