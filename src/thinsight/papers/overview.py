"""Tables and findings of the overview."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_hex
from pandas.io.formats.style import Styler

from thinsight.analysis.comparisons import LEVEL, MEAN, OPPONENTS, SINGLE, kind_changes, survivors
from thinsight.analysis.ranks import BUDGETS, TASKS
from thinsight.analysis.results import PICTURE_TOKENS, budget_labels, not_run
from thinsight.config.catalogue import MethodEntry
from thinsight.ledger.ledger import MOST, merge_small, reasons
from thinsight.ledger.verdicts import VERDICTS
from thinsight.report.tables import BETTER, BLOCKS, WORSE, render, signed
from thinsight.report.wording import listed

HEAT_WORST, HEAT_BEST = -0.8, 0.25  # what the two ends of the colours stand for: a change against the whole model


HEAT_COLOURS = LinearSegmentedColormap.from_list(
    "loss", ["#9c3a0c", "#e0833f", "#f7d9b8", "#fbf9f4", "#a9cfe8", "#4a94c4"]
)


HEAT_MIDDLE = 0.6  # where on them no change stands


def budget_heat(table: pd.DataFrame, heads: Sequence[str]) -> str:
    """Relative scores of a `thinsight.analysis.results.budget_labels` frame of `thinsight.analysis.comparisons.comparisons`.

    heads  what the budgets are called, in the order of the table
    """
    tasks = [task for task in dict.fromkeys(table["task"]) if task != MEAN]
    groups = [
        {"head": head, "columns": tasks, "keys": [(keep, task) for task in tasks]}
        for keep, head in zip(dict.fromkeys(table["keep"]), heads, strict=True)
    ]
    return _heat(table, groups, ["keep", "task"], _heat_share)


def kind_heat(table: pd.DataFrame, keep: float) -> str:
    """Changes in points at one budget of a `thinsight.analysis.results.budget_labels` frame of `thinsight.analysis.comparisons.scores_by_kind`."""
    part = table[table["keep"] == keep]
    counts = part.drop_duplicates(["task", "kind"])
    groups = [
        {
            "head": task,
            "columns": [f"{kind} ({n})" for kind, n in zip(of["kind"], of["n"], strict=True)],
            "keys": [(task, kind) for kind in of["kind"]],
        }
        for task, of in counts.groupby("task", sort=False)
    ]
    return _heat(part, groups, ["task", "kind"], _change)


def shade(change: float) -> tuple[str, str]:
    """The colour of a cell and of its text; ``change`` is a share of the whole model's score, or a difference to it."""
    part = (
        HEAT_MIDDLE - HEAT_MIDDLE * min(1.0, change / HEAT_WORST)
        if change < 0
        else HEAT_MIDDLE + (1 - HEAT_MIDDLE) * min(1.0, change / HEAT_BEST)
    )
    red, green, blue, _ = HEAT_COLOURS(part)
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45
    return to_hex((red, green, blue)), "#ffffff" if dark else "#1c1e21"


def _heat(table: pd.DataFrame, groups: list[dict], keys: list[str], cell: Callable[[pd.Series], dict]) -> str:
    """Rows are methods, then controls, in the order of their means; columns are ``groups`` of values of ``keys``."""
    value = "relative" if "relative" in table else "change"
    means = table.groupby("run")[value].mean().sort_values(ascending=False, kind="stable")
    rows = {tuple(row[key] for key in ("run", *keys)): row for row in table.to_dict("records")}
    said = table.drop_duplicates("run").set_index("run")
    blocks = []
    for control, head in BLOCKS.items():
        runs = [run for run in means.index if said.loc[run, "control"] == control]
        lines = []
        for run in runs:
            cells: list[dict[str, Any]] = []
            for group in groups:
                for number, key in enumerate(group["keys"]):
                    row = rows.get((run, *key))
                    cells.append((cell(row) if row else _absent()) | {"first": number == 0})
            lines.append({"title": said.loc[run, "title"], "cells": cells})
        if lines:
            blocks.append({"head": head, "lines": lines})
    width = 1 + sum(len(group["keys"]) for group in groups)
    return render("heat.html.j2", groups=groups, blocks=blocks, width=width)


def _heat_share(row: dict) -> dict[str, Any]:
    """A relative score: bold where the loss is sure, marked where it surely differs from random."""
    back, ink = shade(row["relative"] - 1)
    against = {name: row[f"{name}_holm"] < LEVEL for name in ("random", "whole")}
    title = (
        f"{row['title']}, {row['task']}: {row['accuracy']:.1%} on {row['n']} questions, {row['relative']:.1%} of the "
        f"whole model ({row['low']:.1%} to {row['high']:.1%}; p {row['whole_holm']:.2g} after Holm)"
    )
    if pd.notna(row["random"]):
        title += f"; {signed(100 * row['random'], 1)} points to random (p {row['random_holm']:.2g})"
    mark = (BETTER if row["random"] > 0 else WORSE) if against["random"] else ""
    sure = against["whole"] and row["whole"] < 0
    return {
        "text": f"{100 * row['relative']:.0f}",
        "sure": sure,
        "mark": mark,
        "title": title,
        "shade": back,
        "ink": ink,
    }


def _change(row: dict) -> dict[str, Any]:
    """A change in points: bold where its interval excludes zero."""
    back, ink = shade(row["change"])
    points = [signed(100 * row[name], 1) for name in ("change", "low", "high")]
    title = (
        f"{row['title']}, {row['task']}, {row['kind']}: {row['whole']:.1%} to {row['accuracy']:.1%} on {row['n']} "
        f"questions, {points[0]} points ({points[1]} to {points[2]})"
    )
    text = signed(100 * row["change"])
    sure = row["low"] > 0 or row["high"] < 0
    return {"text": text, "sure": sure, "mark": "", "title": title, "shade": back, "ink": ink}


def _absent() -> dict[str, Any]:
    return {"text": "–", "sure": False, "mark": "", "title": "not run", "shade": "transparent", "ink": "inherit"}


OFTEN = 0.05  # points off the front are listed if they are on it in this share of the resamples


PAGED = ("vtw", "par", "ficoco")  # files of data/published whose lines stand on the pages of their papers


AGAINST = {"random": "random at equal kept tokens", "whole": "the whole model"}


def task_heads(keeps: Sequence[float], picture: float) -> list[str]:
    """What the budgets are called: ``48 of 144 tokens (as 192 of 576)``."""
    as_papers = [
        f" (as {round(keep * PICTURE_TOKENS)} of {PICTURE_TOKENS})" if round(picture) != PICTURE_TOKENS else ""
        for keep in keeps
    ]
    return [
        f"{round(keep * picture)} of {picture:.0f} tokens{said}" for keep, said in zip(keeps, as_papers, strict=True)
    ]


def named_runs(results: pd.DataFrame, entries: Mapping[str, MethodEntry]) -> pd.DataFrame:
    """run -> its title, place and whether it is a control (`thinsight.analysis.results.budget_labels`), for all runs."""
    return budget_labels(results[["run"]].drop_duplicates(), results, entries).set_index("run")


def compared_methods(table: pd.DataFrame) -> list[str]:
    """The runs of published methods in a labelled frame."""
    return list(dict.fromkeys(table.loc[~table["control"], "run"]))


def relative_table(
    table: pd.DataFrame, results: pd.DataFrame, entries: Mapping[str, MethodEntry], titles: Sequence[str]
) -> str:
    """A `thinsight.analysis.results.budget_labels` frame of `thinsight.analysis.comparisons.comparisons` as HTML.

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
    said = [
        *survivors_text(table),
        *([f"not run: {', '.join(missing)}"] if (missing := not_run(results, entries)) else []),
    ]
    return render("relative.html.j2", heads=titles, blocks=blocks, said=said)


def survivors_text(table: pd.DataFrame) -> list[str]:
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
    """The front of `thinsight.analysis.curves.pareto`, numbered as in its figure, and what is on it `OFTEN` enough."""
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
    """`thinsight.ledger.ledger.count_verdicts` as HTML; on a click all papers, and why numbers of ``ledger`` were not run."""
    total = counts.drop(columns="paper").sum()
    parts = [merge_small(counts)] + ([counts] if len(counts) > MOST else [])
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


FACT_SHARE = 0.25  # methods on the front in this share of the resamples or more are named


def overview_finding(
    table: pd.DataFrame, points: pd.DataFrame, taus: pd.DataFrame, lost: pd.DataFrame, counts: pd.DataFrame
) -> str:
    """In paragraphs of markdown.

    table, lost  labelled frames of `thinsight.analysis.comparisons.comparisons` and `thinsight.analysis.comparisons.scores_by_kind`
    points, taus, counts  of `thinsight.analysis.curves.pareto`, `thinsight.analysis.ranks.rank_agreement` and `thinsight.ledger.ledger.count_verdicts`
    """
    means = table[(table["task"] == MEAN) & ~table["control"]]
    if not len(means):
        return "No published method has been run yet, so there is nothing to set beside random."
    last = means[means["keep"] == means["keep"].min()]
    beat, lose = _sure(last, "random", 1), _sure(last, "whole", -1)
    sentences = [
        f"With {last['keep'].iloc[0]:.1%} of the tokens **{beat} of {len(last)} published methods beat a random "
        f"subset** of as many and {lose} lose to the whole model, after correction for {_asked(table)} comparisons."
    ]
    titles = table.drop_duplicates("run").set_index("run")["title"]
    sentences += filter(None, [front_finding(points, titles)])
    hurt = kind_changes(lost[~lost["control"] & (lost["keep"] == lost["keep"].min())])
    ends = hurt.iloc[[0, -1]].to_dict("records")
    worst, best = (f"{of['task']}, {of['kind']} ({signed(100 * of['change'])} points)" for of in ends)
    between = taus[taus["first"] != taus["second"]].groupby("of")["tau"].mean().dropna()
    said = [f"{between[of]:.2f} between {of}" for of in (TASKS, BUDGETS) if of in between]
    orders = f"; the methods' orders agree with a Kendall's τ of {listed(said)}" if said else ""
    sentences.append(f"The most is lost on {worst}, the least on {best}{orders}.")
    sentences += filter(None, [counted_finding(counts)])
    return "\n\n".join(sentences)


def front_finding(points: pd.DataFrame, titles: "pd.Series[str]") -> str:
    """Which runs (run -> title) are often on the front of `thinsight.analysis.curves.pareto`."""
    often = points[points["run"].isin(titles.index) & (points["run_frequency"] >= FACT_SHARE)].drop_duplicates("run")
    often = often.sort_values("run_frequency", ascending=False, kind="stable")
    names = listed([f"{titles[line.run]} ({line.run_frequency:.0%})" for line in often.itertuples()])
    return f"On the front of score against FLOPs in a quarter of the resamples or more: {names}." if names else ""


def counted_finding(counts: pd.DataFrame) -> str:
    """The verdicts of `thinsight.ledger.ledger.count_verdicts`, summed."""
    total = counts.drop(columns=["paper", "total"]).sum()
    parts = listed([f"{n} {verdict}" for verdict, n in total.items() if n])
    return f"Of {total.sum()} printed numbers of {len(counts)} documents: {parts}." if parts else ""


def overview_facts(
    table: pd.DataFrame, points: pd.DataFrame, taus: pd.DataFrame, counts: pd.DataFrame
) -> dict[str, Any]:
    """The same for a machine: budgets, survivors, the front, mean taus, verdicts."""
    front = points[points["front"]].sort_values("flops", kind="stable")
    between = taus[taus["first"] != taus["second"]].groupby("of")["tau"].mean().dropna()
    return {
        "budgets": list(dict.fromkeys(table["keep"])),
        "survivors": survivors(table).to_dict("records"),
        "front": [f"{run} {budget}" for run, budget in zip(front["run"], front["budget"], strict=True)],
        "tau": {of: round(tau, 6) for of, tau in between.items()},
        "verdicts": {name: int(n) for name, n in counts.drop(columns="paper").sum().items()},
    }


def _sure(part: pd.DataFrame, name: str, sign: int) -> int:
    return int(((part[f"{name}_holm"] < LEVEL) & (sign * part[name] > 0)).sum())


def _asked(table: pd.DataFrame) -> int:
    counts = survivors(table)
    return int(counts.loc[counts["kind"] == MEAN, "comparisons"].sum())
