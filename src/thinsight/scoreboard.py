"""The table of all methods at equal budgets, as HTML, and what it says in two sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from thinsight.catalogue import CONTROL, FAMILIES, Entry, render
from thinsight.standing import ABOVE, BELOW, INSIDE, MEAN
from thinsight.words import listed

MARKS = {INSIDE: "○", BELOW: "▾"}
OF = 576  # visual tokens of the picture in most papers


def labelled(table: pd.DataFrame, results: pd.DataFrame, entries: Mapping[str, Entry]) -> pd.DataFrame:
    """`thinsight.standing.standing` with what a reader calls each run.

    title    the method's, without what stands in brackets; a control that is run in the decoder also the layer
    place    where it acts, one of `thinsight.catalogue.FAMILIES`
    control  whether it is no published method
    """
    runs, methods = list(dict.fromkeys(table["run"])), results.drop_duplicates("run").set_index("run")["method"]
    layers = results.groupby("run")["layer"].max()
    names = {}
    for run in runs:
        entry = entries.get(methods[run])
        title = entry.title.partition(" (")[0] if entry else run
        control, place = entry is not None and entry.is_control, entry.family if entry else FAMILIES[3]
        if place == CONTROL:
            place = FAMILIES[2 if layers[run] > 0 else 1]
            title += f", layer {layers[run]:.0f}" if layers[run] > 0 else ""
        names[run] = {"title": title, "place": place, "control": control}
    return table.join(pd.DataFrame(names).T, on="run").astype({"control": bool})


def scoreboard(
    table: pd.DataFrame, results: pd.DataFrame, entries: Mapping[str, Entry], base: str = "plain", blind: str = "blind"
) -> str:
    """A `labelled` table: a block per budget: random, other controls, then methods by mean.

    results  for the lines ``base`` and ``blind``, which stand on top
    entries  method -> its entry; those with the field ``keep`` that no run has are named as not run
    """
    tasks = [task for task in dict.fromkeys(table["task"]) if task != MEAN]
    ends = {
        run: title for run, title in {base: "whole model", blind: "no picture"}.items() if run in set(results["run"])
    }
    blocks = [{"head": "", "lines": [_end(results, run, title, tasks, base) for run, title in ends.items()]}]
    for keep, part in table.groupby("keep", sort=False):
        best = part.groupby("task")["accuracy"].max()
        means = part[part["task"] == MEAN].sort_values("accuracy", ascending=False, kind="stable")
        means = means.iloc[((means["run"] != "random") + 2 * ~means["control"]).argsort(kind="stable")]
        own = {run: lines.set_index("task").loc[[*tasks, MEAN]] for run, lines in part.groupby("run")}
        picture = round(means["picture"].iloc[0])
        as_papers = f" (as {round(keep * OF)} of {OF})" if picture != OF else ""
        lines = [_line(own[mean["run"]], best, mean) for _, mean in means.iterrows()]
        blocks.append({"head": f"{round(keep * picture)} of {picture} tokens{as_papers}", "lines": lines})
    return render("scoreboard.html.j2", tasks=[*tasks, MEAN], blocks=blocks, missing=not_run(results, entries))


def not_run(results: pd.DataFrame, entries: Mapping[str, Entry]) -> list[str]:
    """Titles of the methods with a budget that no finished run has."""
    there = set(results["method"])
    return [entry.title for name, entry in entries.items() if "keep" in entry.knobs and name not in there]


def finding(table: pd.DataFrame, inside: pd.DataFrame | None = None) -> str:
    """In a few sentences of markdown, which published methods of a `labelled` table beat random: its own verdicts.

    inside  the same table beside random subsets that are drawn in the decoder
    """
    means = table[table["task"] == MEAN]
    blocks = [part[~part["control"]] for _, part in means.groupby("keep", sort=False)]
    if not len(blocks[0]):
        return "No published method has been run yet, so there is nothing to compare with random."
    picture, tasks = round(means["picture"].iloc[0]), table["task"].nunique() - 1
    kept = [round(part["keep"].iloc[0] * picture) for part in blocks]
    wins = _of([(part["verdict"] == ABOVE).sum() for part in blocks], [len(part) for part in blocks])
    dearer = [(part["equal_least"] > 0).sum() for part in blocks]
    there = [part["equal_least"].notna().sum() for part in blocks]  # random has been run at fewer and at more FLOPs
    equal = "all" if dearer == there else _of(dearer, there)
    last = blocks[-1].sort_values("accuracy", ascending=False, kind="stable")
    controls = means[means["control"] & (means["keep"] == last["keep"].iloc[0])]
    best, other = last.iloc[0], controls.sort_values("accuracy", kind="stable").iloc[-1]
    beaten = (last["accuracy"] < other["accuracy"]).sum()
    text = (
        f"With {listed(kept)} of {picture} tokens, **{wins} methods beat a random subset** of as many on the mean "
        f"over {tasks} tasks; at equal prefill FLOPs {equal} do. With {kept[-1]} tokens {best['title']} makes the most "
        f"({best['accuracy']:.1%}), and {beaten or 'none'} of {len(last)} stay below the best control "
        f"({other['title']}, {other['accuracy']:.1%})."
    )
    for verdict, words in {INSIDE: "Inside random's spread there", BELOW: "Below it"}.items():
        if names := sorted(last.loc[last["verdict"] == verdict, "title"]):
            text += f" {words}: {listed(names)}."
    if inside is not None:
        own = inside[(inside["task"] == MEAN) & (inside["keep"] == last["keep"].iloc[0])]
        own = own[~own["control"] & (own["place"] == FAMILIES[2])]
        wins = _of([(own["verdict"] == ABOVE).sum()], [len(own)])
        text += f" Random subsets that are drawn in the decoder are beaten by {wins} methods that act there."
    return text


def _of(counts: Sequence[int], totals: Sequence[int]) -> str:
    """``5, 4 and 4 of 6``, or ``all 6``."""
    if list(counts) == list(totals) and min(totals) > 1:
        return f"all {listed(dict.fromkeys(totals))}"
    return f"{listed(counts)} of {listed(dict.fromkeys(totals))}"


def _end(results: pd.DataFrame, run: str, title: str, tasks: Sequence[str], base: str) -> dict[str, Any]:
    """The line of a run without budgets."""
    own, whole = (results[results["run"] == name].set_index("task").loc[tasks] for name in (run, base))
    cells = [_cell(row) for _, row in own.iterrows()]
    cells.append(
        {"text": f"{100 * own['accuracy'].mean():.1f}", "interval": "", "mark": "", "best": False, "title": ""}
    )
    counts = own[["kept", "visual"]].mean()
    flops = (own["profiler"] / whole["profiler"]).mean()
    return {
        "title": title,
        "run": run,
        "note": "",
        "control": True,
        "cells": cells,
        "flops": f"{flops:.0%}",
        **_counts(counts),
    }


def _line(own: pd.DataFrame, best: pd.Series, mean: pd.Series) -> dict[str, Any]:
    """The line of a run at one budget."""
    note = "" if mean["control"] else mean["place"]
    note += "" if "keep" in mean["budget"] else " · " + mean["budget"].replace("=", " ")
    cells = [_cell(row, best[task], mean["run"] != "random") for task, row in own.iterrows()]
    counts = _counts(mean) | {"flops": f"{mean['flops']:.0%}"}
    return {
        "title": mean["title"],
        "run": mean["run"],
        "note": note,
        "control": mean["control"],
        "cells": cells,
        **counts,
    }


def _cell(row: pd.Series, best: float = 2.0, beside: bool = False) -> dict[str, Any]:
    """A score; ``beside``: with its mark and, for those who point at it, its difference to random."""
    told = "{:+.1f} points to random ({:+.1f} to {:+.1f})"
    return {
        "text": f"{100 * row['accuracy']:.1f}",
        "interval": f"{100 * row['low']:.0f}–{100 * row['high']:.0f}",
        "mark": MARKS.get(row["verdict"], "") if beside else "",
        "best": row["accuracy"] >= best - 1e-12,
        "title": told.format(*(100 * row[["difference", "least", "most"]])) if beside else "",
    }


def _counts(means: pd.Series) -> dict[str, str]:
    return {name: f"{means[name]:.0f}" for name in ("kept", "visual")}
