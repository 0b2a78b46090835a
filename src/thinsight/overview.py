"""The tables of the page of all results: relative scores beside random and the whole model, the front, the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.catalogue import Entry, render
from thinsight.comparisons import LEVEL, OPPONENTS, SINGLE, survivors
from thinsight.heat import BETTER, BLOCKS, WORSE, signed
from thinsight.scoreboard import OF, labelled, not_run
from thinsight.standing import MEAN
from thinsight.tally import MOST, gathered, reasons
from thinsight.verdict import VERDICTS

OFTEN = 0.05  # points off the front are listed if they are on it in this share of the resamples
PAGED = ("vtw", "par", "ficoco")  # files of data/published whose lines stand on the pages of their papers
AGAINST = {"random": "random at equal kept tokens", "whole": "the whole model"}


def heads(keeps: Sequence[float], picture: float) -> list[str]:
    """What the budgets are called: ``48 of 144 tokens (as 192 of 576)``."""
    as_papers = [f" (as {round(keep * OF)} of {OF})" if round(picture) != OF else "" for keep in keeps]
    return [
        f"{round(keep * picture)} of {picture:.0f} tokens{said}" for keep, said in zip(keeps, as_papers, strict=True)
    ]


def named(results: pd.DataFrame, entries: Mapping[str, Entry]) -> pd.DataFrame:
    """run -> its title, place and whether it is a control (`thinsight.scoreboard.labelled`), for all runs."""
    return labelled(results[["run"]].drop_duplicates(), results, entries).set_index("run")


def methods(table: pd.DataFrame) -> list[str]:
    """The runs of published methods in a labelled frame."""
    return list(dict.fromkeys(table.loc[~table["control"], "run"]))


def relative_table(
    table: pd.DataFrame, results: pd.DataFrame, entries: Mapping[str, Entry], titles: Sequence[str]
) -> str:
    """A `thinsight.scoreboard.labelled` frame of `thinsight.comparisons.comparisons` as HTML.

    Methods, then controls, by their mean over budgets; under them how many comparisons survive correction, and what
    was not run.
    """
    means = table[table["task"] == MEAN]
    order = means.groupby("run")["relative"].mean().sort_values(ascending=False, kind="stable").index
    keeps, blocks = list(dict.fromkeys(means["keep"])), []
    for control, head in BLOCKS.items():
        lines = []
        for run in order:
            own = means[(means["run"] == run) & (means["control"] == control)].set_index("keep")
            if not len(own):
                continue
            cells = [cell for keep in keeps for cell in (_pair(own.loc[keep]) if keep in own.index else _gap())]
            note = "" if control else own["place"].iloc[0]
            lines.append({"title": own["title"].iloc[0], "note": note, "cells": cells})
        if lines:
            blocks.append({"head": head, "control": control, "lines": lines})
    said = [*survived(table), *([f"not run: {', '.join(missing)}"] if (missing := not_run(results, entries)) else [])]
    return render("relative.html.j2", heads=titles, blocks=blocks, said=said)


def survived(table: pd.DataFrame) -> list[str]:
    """A sentence for each opponent, how many comparisons are left after correction."""
    counts, out = survivors(table).set_index(["kind", "against"]), []
    for name in OPPONENTS:
        of, single = counts.loc[(MEAN, name)], counts.loc[(SINGLE, name)]
        out.append(
            f"Against {AGAINST[name]}: of {of['comparisons']} comparisons {of['nominal']} have p below {LEVEL}, "
            f"{of['fdr']} after Benjamini and Hochberg, {of['holm']} after Holm ({of['better']} better, {of['worse']} "
            f"worse). On single tasks {single['nominal']} of {single['comparisons']} have, {single['holm']} after Holm."
        )
    return out


def front_table(points: pd.DataFrame, titles: Mapping[str, str], picture: float) -> Styler:
    """The front of `thinsight.pareto.pareto`, numbered as in its figure, and what is on it `OFTEN` enough."""
    listed = front_list(points)
    number = listed["front"].cumsum().where(listed["front"])
    out = pd.DataFrame(
        {
            "method": listed["run"].map(titles),
            "number": number.map(lambda n: "" if np.isnan(n) else f"{n:.0f}"),
            "budget": [budget_name(budget, picture) or "–" for budget in listed["budget"]],
            "FLOPs": listed["flops"].map("{:.1%}".format),
            "relative score": listed["score"].map("{:.1%}".format),
            "95 % interval": [f"{low:.1%}–{high:.1%}" for low, high in zip(listed["low"], listed["high"], strict=True)],
            "on the front": listed["frequency"].map("{:.0%}".format),
            "any budget": listed["run_frequency"].map("{:.0%}".format),
        }
    )
    return out.style.hide(axis="index")


def front_list(points: pd.DataFrame) -> pd.DataFrame:
    """The lines of `front_table`, by FLOPs."""
    listed = points[points["front"] | (points["frequency"] >= OFTEN)]
    return listed.sort_values(["flops", "score"], kind="stable", ignore_index=True)


def budget_name(budget: str, picture: float) -> str:
    """``keep=0.1111`` -> ``16 tokens``; ``layer=3`` -> ``layer 3``; empty where nothing was swept but seeds."""
    field, _, value = budget.partition("=")
    if field == "keep" and "," not in budget and "." in value:
        return f"{round(float(value) * picture)} tokens"
    return "" if budget == "fixed" else budget.replace("=", " ").replace(",", ", ")


def ledger_table(counts: pd.DataFrame, ledger: pd.DataFrame) -> str:
    """`thinsight.tally.tally` as HTML; on a click all papers, and why numbers of ``ledger`` were not run."""
    total = counts.drop(columns="paper").sum()
    parts = [gathered(counts)] + ([counts] if len(counts) > MOST else [])
    return render(
        "tally.html.j2",
        verdicts=VERDICTS,
        parts=[part.to_dict("records") for part in parts],
        total=total.to_dict(),
        reasons=reasons(ledger).to_dict("records"),
    )


def elsewhere(ledger: pd.DataFrame) -> pd.DataFrame:
    """The lines of papers that have no page of their own: tables in which others ran these methods."""
    return ledger[~ledger["file"].isin(PAGED)]


def _pair(row: pd.Series) -> list[dict[str, Any]]:
    """A method's two cells at a budget."""
    points, ends = signed(100 * row["whole"], 1), [signed(100 * row[f"whole_{end}"], 1) for end in ("low", "high")]
    first = {
        "text": f"{100 * row['relative']:.1f}",
        "small": f"{100 * row['low']:.0f}–{100 * row['high']:.0f}",
        "sure": row["whole_holm"] < LEVEL and row["whole"] < 0,
        "title": f"{points} points to the whole model ({' to '.join(ends)}); {_told(row, 'whole')}",
    }
    if pd.isna(row["random"]):
        return [first, {"text": "", "small": "", "sure": False, "title": ""}]
    second = {
        "text": signed(100 * row["random"], 1),
        "small": " to ".join(signed(100 * row[f"random_{end}"]) for end in ("low", "high")),
        "sure": False,
        "mark": (BETTER if row["random"] > 0 else WORSE) if row["random_holm"] < LEVEL else "",
        "title": _told(row, "random"),
    }
    return [first, second]


def _told(row: pd.Series, name: str) -> str:
    return f"McNemar's p {row[f'{name}_p']:.2g}, after Holm {row[f'{name}_holm']:.2g}"


def _gap() -> list[dict[str, Any]]:
    return [{"text": "–", "small": "not run", "sure": False, "title": ""}] * 2
