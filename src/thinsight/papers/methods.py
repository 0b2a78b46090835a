"""The page of all methods: scores at the papers' budgets, and the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from thinsight.analysis.comparisons import ABOVE, BELOW, INSIDE, MEAN, SPREAD_MARKS, against_random, relative_points
from thinsight.analysis.results import label_runs, load_answers, load_scores, not_run, shared_budgets
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry, method_entries
from thinsight.evaluation.budget import Budget
from thinsight.papers.overview import task_heads
from thinsight.paths import ROOT
from thinsight.report.figures import GREY, MARKERS, PAGE, PALETTE, subplots
from thinsight.report.tables import board, finding, points, render


@dataclass(frozen=True)
class Methods:
    """What the page shows.

    entries   method -> its entry;  missing  titles of the methods that were not run
    whole     lines of `load_scores` for the unreduced model and for the one without a picture
    table     `against_random`, labelled;  inside  the same against subsets drawn in the decoder, if there are any
    points    `relative_points`
    """

    entries: Mapping[str, MethodEntry]
    missing: Sequence[str]
    whole: pd.DataFrame
    table: pd.DataFrame
    inside: pd.DataFrame | None
    points: pd.DataFrame

    @property
    def budgets(self) -> list[float]:
        """The shares of the tokens that are kept, largest first."""
        return list(dict.fromkeys(self.table["keep"]))

    @property
    def facts(self) -> dict[str, Any]:
        """For a machine: the budgets, and each run's verdict against random at each."""
        means = self.table[(self.table["task"] == MEAN) & (self.table["run"] != "random")]
        verdicts = means.pivot(index="run", columns="keep", values="verdict")
        return {
            "budgets": self.budgets,
            "verdicts": {str(keep): verdicts[keep].dropna().to_dict() for keep in self.budgets},
        }

    @property
    def drawn(self) -> list[MethodEntry]:
        """The methods that one picture is shown under: controls, then by the place where they act."""
        order = [CONTROL, *FAMILIES]
        return sorted((e for e in self.entries.values() if "keep" in e.knobs), key=lambda e: order.index(e.family))


def build(runs: str, reads: Sequence[str]) -> Methods:
    """The page of the runs ``reads`` in the folder ``runs``."""
    results, answers = load_scores(ROOT / runs, reads), load_answers(ROOT / runs, reads)
    return compute(results, answers, {entry.name: entry for entry in method_entries()})


def compute(results: pd.DataFrame, answers: pd.DataFrame, entries: Mapping[str, MethodEntry]) -> Methods:
    """The same of frames."""
    budgets, later = shared_budgets(results), "random_layer_2"
    inside = None
    if later in set(results["run"]):
        inside = label_runs(against_random(results, answers, budgets, control=later), results, entries)
    return Methods(
        entries=entries,
        missing=not_run(results, entries),
        whole=results[results["run"].isin(["plain", "blind"])],
        table=label_runs(against_random(results, answers, budgets), results, entries),
        inside=inside,
        points=relative_points(results, answers),
    )


def catalogue_table(entries: Sequence[MethodEntry]) -> str:
    """The catalogue as a table in HTML, family by family, controls last."""
    order = [*FAMILIES, CONTROL]
    entries = sorted(entries, key=lambda entry: order.index(entry.family))
    lines = [
        {
            "scores by": escape(entry.scores) or "–",
            "acts": escape(entry.acts),
            "needs": escape("; ".join(entry.needs)) or "–",
            "cost": escape(entry.cost) or "–",
            "source": _source(entry),
        }
        for entry in entries
    ]
    titles = [(entry.family, f"<code>{entry.name}</code>") for entry in entries]
    frame = pd.DataFrame(lines, pd.MultiIndex.from_tuples(titles, names=[None, "method"]))
    return board(frame, notes=[escape(entry.title) for entry in entries], html=True, classes="catalogue")


def _source(entry: MethodEntry) -> str:
    link = f'<a href="{entry.link}">{entry.arxiv}</a>' if entry.link else ""
    version = f"<small>{escape(entry.version)}</small>" if entry.version else ""
    return link + version or "–"


def method_sections(entries: Sequence[MethodEntry]) -> str:
    """As HTML, for each method what opens on a click: its source, fields, official values, and deviations."""
    return render("particulars.html.j2", entries=entries)


def landscape_figure(page: Methods, control: str = "random") -> Figure:
    """Relative score against relative FLOPs, a panel for each place where methods act; controls in grey, and of
    ``control`` the spread of its draws."""
    runs = page.table.drop_duplicates("run").set_index("run").drop(index=control)
    runs = runs[runs.index.isin(page.points["run"])]
    groups = {place: part for place in FAMILIES if len(part := runs[runs["place"] == place])}
    lines = -(-len(groups) // 2)
    figure, axes = subplots(
        lines, min(2, len(groups)), figsize=(PAGE, 2.9 * lines), sharex=True, sharey=True, squeeze=False
    )
    shown = page.points[page.points["run"].isin([*runs.index, control])].sort_values("flops")
    by_keep = shown["budget"].map(lambda label: Budget.parse(label).keep is not None)
    right = shown.loc[by_keep, "flops"].max() + 1e-9  # not a curve's long end over layers
    shown = shown[shown["flops"] <= right]
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (place, part) in zip(axes.flat, groups.items(), strict=False):
        draws = shown[shown["run"] == control]
        axis.fill_between(draws["flops"], draws["least"], draws["most"], color=GREY, alpha=0.35, lw=0)
        axis.plot(draws["flops"], draws["score"], color=GREY, lw=0.9, label=page.entries[control].short)
        part = part.sort_values("control", kind="stable")
        for number, (run, labels) in enumerate(part.iterrows()):
            line = shown[shown["run"] == run]
            turn = number // len(PALETTE)  # a colour that comes again has another marker
            marker = MARKERS[(number + turn) % len(MARKERS)]
            style = {"color": PALETTE[number % len(PALETTE)], "marker": marker}
            style = {"color": GREY, "marker": ".", "ls": (":", "--", "-.")[number % 3]} if labels["control"] else style
            axis.errorbar(
                line["flops"], line["score"], yerr=[line["score"] - line["low"], line["high"] - line["score"]],
                label=labels["title"], lw=1.0, ms=3.5, elinewidth=0.4, capsize=0, **style,
            )  # fmt: skip
        axis.axhline(1.0, color=GREY, lw=0.6)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6)
        axis.set_title(place)
        axis.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("prefill FLOPs, share of the whole model", fontsize=8)
    figure.supylabel("score, share of the whole model", fontsize=8)
    return figure


def scoreboard(page: Methods) -> str:
    """Accuracies of the whole model and the one without a picture, then a block per budget: random, other controls,
    methods by their mean. Below, what was not run."""
    tasks = [task for task in dict.fromkeys(page.table["task"]) if task != MEAN]
    columns = [*tasks, MEAN, "kept", "layer\nmean", "FLOPs"]
    base = page.whole[page.whole["run"] == "plain"].set_index("task")["profiler"]
    picture = page.table["picture"].max()
    rows = []
    for run, title in {"plain": "whole model", "blind": "no picture"}.items():
        own = page.whole[page.whole["run"] == run].set_index("task")
        if len(own):
            cells = {task: _score(own.loc[task]) for task in tasks}
            counts = _counts(own["kept"].mean(), own["visual"].mean(), (own["profiler"] / base).mean())
            rows.append({"title": title, "run": run, "control": True, "cells": cells | counts})
            rows[-1]["cells"][MEAN] = {"text": f"{100 * own['accuracy'].mean():.1f}"}
    for (_, part), head in zip(page.table.groupby("keep", sort=False), task_heads(page.budgets, picture), strict=True):
        best = part.groupby("task")["accuracy"].max()
        means = part[part["task"] == MEAN].sort_values("accuracy", ascending=False, kind="stable")
        means = means.iloc[((means["run"] != "random") + 2 * ~means["control"]).argsort(kind="stable")]
        for _, mean in means.iterrows():
            own = part[part["run"] == mean["run"]].set_index("task")
            cells = {task: _score(own.loc[task], best[task], mean["run"] != "random") for task in [*tasks, MEAN]}
            cells |= _counts(mean["kept"], mean["visual"], mean["flops"])
            notes = ["" if mean["control"] else mean["place"]]
            notes += [] if "keep" in Budget.parse(mean["budget"]).fields else [mean["budget"].replace("=", " ")]
            rows.append({"block": head, "note": " · ".join(filter(None, notes)), "cells": cells} | mean.to_dict())
    labels = [(row.get("block", ""), row["title"]) for row in rows]
    index = pd.MultiIndex.from_tuples(labels, names=[None, "method"])
    text, small, bold, tooltips = (
        pd.DataFrame([[row["cells"][name].get(part) for name in columns] for row in rows], index, columns)
        for part in ("text", "small", "bold", "tooltip")
    )
    missing = f"<p>Not run: {escape(', '.join(page.missing))}.</p>" if page.missing else ""
    table = board(
        text, small=small, bold=bold, tooltips=tooltips.fillna(""), notes=[row.get("note", "") for row in rows],
        runs=[row["run"] for row in rows], controls=[row["control"] for row in rows],
    )  # fmt: skip
    return table + missing


def _score(row: pd.Series, best: float = 2.0, compared: bool = False) -> dict[str, Any]:
    """A score; ``compared``: with its mark and, for a pointer on it, its difference to random."""
    mark = SPREAD_MARKS.get(row["verdict"], "") if compared else ""
    cell = {"text": f"{100 * row['accuracy']:.1f}{mark}", "small": f"{100 * row['low']:.0f}–{100 * row['high']:.0f}"}
    cell["bold"] = row["accuracy"] >= best - 1e-12
    if compared:
        difference, least, most = (points(row[name]) for name in ("difference", "least", "most"))
        cell["tooltip"] = f"{difference} points to random ({least} to {most})"
    return cell


def _counts(kept: float, visual: float, flops: float) -> dict[str, dict[str, str]]:
    return {
        "kept": {"text": f"{kept:.0f}"},
        "layer\nmean": {"text": f"{visual:.0f}"},
        "FLOPs": {"text": f"{flops:.0%}"},
    }


def methods_finding(page: Methods) -> str:
    """The page's finding in markdown: which published methods beat random, by `against_random`'s verdicts."""
    means = page.table[page.table["task"] == MEAN]
    blocks = [part[~part["control"]] for _, part in means.groupby("keep", sort=False)]
    if not len(blocks[0]):
        return "No published method has been run yet, so there is nothing to compare with random."
    last = blocks[-1].sort_values("accuracy", ascending=False, kind="stable")
    least = last["keep"].iloc[0]
    controls = means[means["control"] & (means["keep"] == least)].sort_values("accuracy", kind="stable")
    inside = None
    if page.inside is not None:
        own = page.inside[(page.inside["task"] == MEAN) & (page.inside["keep"] == least)]
        own = own[~own["control"] & (own["place"] == FAMILIES[2])]
        inside = {"beat": int((own["verdict"] == ABOVE).sum()), "methods": len(own)}
    picture = round(means["picture"].iloc[0])
    facts = {
        "picture": picture,
        "tasks": page.table["task"].nunique() - 1,
        "kept": [round(part["keep"].iloc[0] * picture) for part in blocks],
        "beat": [int((part["verdict"] == ABOVE).sum()) for part in blocks],
        "methods": list(dict.fromkeys(len(part) for part in blocks)),
        "equal_beat": [int((part["equal_least"] > 0).sum()) for part in blocks],
        "equal": list(dict.fromkeys(int(part["equal_least"].notna().sum()) for part in blocks)),
        "equal_all": all((part["equal_least"] > 0).sum() == part["equal_least"].notna().sum() for part in blocks),
        "best": last.iloc[0].to_dict(),
        "control": controls.iloc[-1].to_dict(),
        "below_control": int((last["accuracy"] < controls["accuracy"].iloc[-1]).sum()),
        "last": len(last),
        "spread": {
            words: sorted(names)
            for verdict, words in {INSIDE: "Inside random's spread there", BELOW: "Below it"}.items()
            if len(names := last.loc[last["verdict"] == verdict, "title"])
        },
        "inside": inside,
    }
    return finding("methods_finding.md.j2", facts)
