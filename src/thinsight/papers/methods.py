"""What the page of all methods needs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinsight.analysis.comparisons import ABOVE, BELOW, INSIDE, MEAN, SPREAD_MARKS
from thinsight.analysis.results import PICTURE_TOKENS, not_run
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry
from thinsight.report.figures import BLUE, GREEN, GREY, INK, ORANGE, PAGE, PURPLE, RED, SKY, spaced, subplots
from thinsight.report.tables import render
from thinsight.report.wording import listed


def catalogue_table(entries: Sequence[MethodEntry]) -> str:
    """The catalogue as a table in HTML, family by family."""
    order = [*FAMILIES, CONTROL]
    return render("catalogue.html.j2", entries=entries, order=order)


def method_sections(entries: Sequence[MethodEntry]) -> str:
    """As HTML, for each method what opens on a click: its source, fields, official values, and deviations."""
    return render("particulars.html.j2", entries=entries)


PLACE_INKS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#7A5C3E", INK)


PLACE_MARKS = "osD^vPX*"


def landscape_figure(
    points: pd.DataFrame, groups: Mapping[str, Mapping[str, str]], control: str = "random", faint: Sequence[str] = ()
) -> Figure:
    """Relative score against relative FLOPs, panel by panel, before the spread of ``control``.

    points  run, flops, score, low, high, least, most (`thinsight.analysis.comparisons.relative_points`)
    groups  title of a panel -> run -> its label; runs in ``faint`` are drawn in grey
    """
    lines = -(-len(groups) // 2)
    figure, axes = subplots(
        lines, min(2, len(groups)), figsize=(PAGE, 2.75 * lines), sharex=True, sharey=True, squeeze=False
    )
    shown = points[points["run"].isin({run for group in groups.values() for run in group} | {control})]
    right = shown.loc[shown["budget"].str.contains("keep="), "flops"].max()  # not a curve's long end over layers
    left, bottom, top = shown["flops"].min(), max(0.0, shown["score"].min() - 0.06), 1.05
    axes[0, 0].set(xlim=(left - 0.03 * (right - left), right + 0.5 * (right - left)), ylim=(bottom, top))
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (title, group) in zip(axes.flat, groups.items(), strict=False):
        _band(axis, points[points["run"] == control], control)
        ends = []
        there = [run for run in group if run in set(points["run"])]
        for number, run in enumerate(run for run in there if run not in faint):
            style = {"color": PLACE_INKS[number % len(PLACE_INKS)], "marker": PLACE_MARKS[number % len(PLACE_MARKS)]}
            ends.append((_budget_line(axis, points[points["run"] == run], right, **style), group[run], style["color"]))
        for run in (run for run in there if run in faint):
            ends.append(
                (
                    _budget_line(axis, points[points["run"] == run], right, color=GREY, marker=".", ls=":"),
                    group[run],
                    GREY,
                )
            )
        _labels(axis, ends, top, 0.05 * (top - bottom))
        axis.axhline(1.0, color="#999999", lw=0.6)
        axis.set_title(title)
    for axis in axes.flat[max(0, len(groups) - 2) : len(groups)]:
        axis.set_xlabel("prefill FLOPs, share of the whole model")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("score, share of the whole model")
    return figure


def _band(axis: Axes, part: pd.DataFrame, name: str) -> None:
    part = part.sort_values("flops")
    axis.fill_between(
        part["flops"], part["least"], part["most"], color=GREY, alpha=0.35, lw=0, label=f"{name}, its seeds"
    )
    axis.plot(part["flops"], part["score"], color=GREY, lw=0.9)


def _budget_line(axis: Axes, part: pd.DataFrame, right: float, **style: str) -> tuple[float, float]:
    """Draw a run's budgets; where its line ends on the right."""
    part = part[part["flops"] <= right + 1e-9].sort_values("flops")
    axis.errorbar(
        part["flops"], part["score"], yerr=[part["score"] - part["low"], part["high"] - part["score"]],
        lw=1.0, ms=3, elinewidth=0.4, capsize=0, **style,
    )  # fmt: skip
    return float(part["flops"].iloc[-1]), float(part["score"].iloc[-1])


def _labels(axis: Axes, ends: Sequence[tuple[tuple[float, float], str, str]], top: float, apart: float) -> None:
    """Names beside the ends of lines, moved apart where they would cover each other, with a hair to their line."""
    ends = sorted(ends, key=lambda end: end[0][1])
    if not ends:
        return
    places = spaced(np.array([end[0][1] for end in ends]), apart)
    highest = top - 0.5 * apart - apart * np.arange(len(places))[::-1]  # with room for those above
    places = np.minimum(places, highest)
    at = max(end[0][0] for end in ends)
    for ((x, y), text, color), place in zip(ends, places, strict=True):
        axis.annotate(
            text,
            (x, y),
            xytext=(at + 0.025, place),
            textcoords="data",
            fontsize=6,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.3, "color": color, "shrinkA": 0, "shrinkB": 2},
        )


def scoreboard(
    table: pd.DataFrame,
    results: pd.DataFrame,
    entries: Mapping[str, MethodEntry],
    base: str = "plain",
    blind: str = "blind",
) -> str:
    """A `budget_labels` table: a block per budget: random, other controls, then methods by mean.

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
        as_papers = f" (as {round(keep * PICTURE_TOKENS)} of {PICTURE_TOKENS})" if picture != PICTURE_TOKENS else ""
        lines = [_score_line(own[mean["run"]], best, mean) for _, mean in means.iterrows()]
        blocks.append({"head": f"{round(keep * picture)} of {picture} tokens{as_papers}", "lines": lines})
    return render("scoreboard.html.j2", tasks=[*tasks, MEAN], blocks=blocks, missing=not_run(results, entries))


def methods_finding(table: pd.DataFrame, inside: pd.DataFrame | None = None) -> str:
    """In a few sentences of markdown, which published methods of a `budget_labels` table beat random: its own verdicts.

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


def _score_line(own: pd.DataFrame, best: pd.Series, mean: pd.Series) -> dict[str, Any]:
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
        "mark": SPREAD_MARKS.get(row["verdict"], "") if beside else "",
        "best": row["accuracy"] >= best - 1e-12,
        "title": told.format(*(100 * row[["difference", "least", "most"]])) if beside else "",
    }


def _counts(means: pd.Series) -> dict[str, str]:
    return {name: f"{means[name]:.0f}" for name in ("kept", "visual")}
