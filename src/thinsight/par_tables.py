"""The tables of PAR's and TRSM's pages, styled for reading."""

import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.par_flops import PICTURE, meets, wide

ABSENT = "not run"


def budget(table: pd.DataFrame) -> Styler:
    """`thinsight.par_findings.at_budget` in words and per cent."""
    out = pd.DataFrame(index=table["method"].rename(None))
    rows = [line._asdict() for line in table.itertuples()]
    out["tokens left"] = [_percent(line, "kept", ".0%") for line in rows]
    out["FLOPs"] = [_percent(line, "flops", ".0%") for line in rows]
    out["score kept"] = [_interval(line, "score", "low", "high") for line in rows]
    out["needs for PAR's score"] = [_needs(line) for line in rows]
    out["says yes"] = [_percent(line, "yes") for line in rows]
    out["false yes"] = [_interval(line, "false_yes", "false_low", "false_high") for line in rows]
    out["precision"] = [_percent(line, "precision") for line in rows]
    out["F1"] = [_percent(line, "f1") for line in rows]
    return out.style


def ways(found: pd.DataFrame, printed: float) -> Styler:
    """`thinsight.par_flops.reductions` in %, a column per number of whole layers; bold where it is as ``printed``."""
    table = wide(found)
    hits = table.apply(lambda column: meets(column.to_frame("reduction"), printed))
    shown = (100 * table).map("{:.1f}".format)
    shown = shown.where(~hits, shown + " ◀")
    shown.columns = [f"K = {layers}" for layers in shown.columns]
    shown.index = pd.Index([f"{name}, L = {text}" for name, text in shown.index])
    marks = hits.set_axis(shown.columns, axis=1).set_axis(shown.index)
    return shown.style.apply(lambda _: marks.map(lambda hit: "font-weight: bold" if hit else ""), axis=None)


def _there(line: dict, name: str) -> bool:
    return name in line and pd.notna(line[name])


def _percent(line: dict, name: str, form: str = ".1%") -> str:
    return format(line[name], form) if _there(line, name) else ABSENT


def _interval(line: dict, name: str, low: str, high: str) -> str:
    if not _there(line, name):
        return ABSENT
    return f"{line[name]:.1%} ({100 * line[low]:.0f}–{100 * line[high]:.0f})"


def _needs(line: dict) -> str:
    """``17.3%, 1.6 ×``; with ≤ where the smallest budget that was run is enough."""
    if not _there(line, "needs"):
        return ""
    return f"{'≤ ' if bool(line['least']) else ''}{line['needs']:.0%}, {line['times']:.1f} ×"


def saving(found: pd.DataFrame) -> Styler:
    """`thinsight.par_flops.reductions` of several numbers of tokens (columns ``reading`` and ``tokens``): a line
    each, a column per convention, in %."""
    lines = found["reading"] + ", " + found["tokens"].astype(str) + f" of {PICTURE} tokens"
    out = found.assign(line=lines).pivot_table(index="line", columns="convention", values="reduction", sort=False)
    return (100 * out).map("{:.1f}".format).rename_axis(index=None, columns=None).style
