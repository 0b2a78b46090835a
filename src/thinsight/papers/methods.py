"""The page of all methods: scores at the papers' budgets, and the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from thinsight.analysis.comparisons import ABOVE, BELOW, INSIDE, MEAN, SPREAD_MARKS, against_random, relative_points
from thinsight.analysis.results import label_runs, load_answers, load_scores, not_run, shared_budgets
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry, method_entries
from thinsight.config.compose import load_task
from thinsight.config.methods import load_method
from thinsight.evaluation.budget import Budget
from thinsight.papers.batch_invariance import flipped_answers
from thinsight.papers.last_digit import changed_sets
from thinsight.papers.overview import task_heads
from thinsight.paths import ROOT
from thinsight.report.figures import GREY, MARKERS, PAGE, PALETTE, subplots
from thinsight.report.render import finding, points, render
from thinsight.report.tables import board, cell_board
from thinsight.tasks.rows import load_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


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


def rounding_effects(
    page: Methods,
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    fields: Mapping[str, Mapping[str, Any]],
    runs: Path,
    each: int,
) -> pd.DataFrame:
    """`changed_sets` and `flipped_answers` of the methods that reduce, with these ``fields``, on ``each`` questions of
    the page's tasks; ``runs``: the folder with what was answered in batches."""
    methods = {name: load_method(name, **values) for name, values in fields.items()}
    methods = {name: method for name, method in methods.items() if method.reductions}
    tasks = [load_task(name) for name in dict.fromkeys(page.table["task"]) if name != MEAN]
    changed = changed_sets(model, processor, methods, [(task, load_rows(task, each)) for task in tasks])
    reducing = {name: values for name, values in fields.items() if name in methods}
    return changed.merge(flipped_answers(model, processor, reducing, runs, each), on="method", how="left")


def catalogue_table(entries: Sequence[MethodEntry], effects: pd.DataFrame | None = None) -> str:
    """The catalogue as a table in HTML, family by family, controls last; with `rounding_effects`, if they are given."""
    order = [*FAMILIES, CONTROL]
    entries = sorted(entries, key=lambda entry: order.index(entry.family))
    cells = {
        "scores by": [escape(entry.scores) or "–" for entry in entries],
        "acts": [escape(entry.acts) for entry in entries],
        "needs": [escape("; ".join(entry.needs)) or "–" for entry in entries],
        "cost": [escape(entry.cost) or "–" for entry in entries],
        "source": [_source(entry) for entry in entries],
    }
    if effects is not None:
        for title, count, total in (("last digit", "changed", "pictures"), ("batch of one", "flipped", "answers")):
            known = effects.set_index("method")[[count, total]].dropna().astype(int)
            texts = {name: f"{some} of {every}" for name, some, every in known.itertuples()}
            cells[title] = [texts.get(entry.name, "–") for entry in entries]
    titles = [(entry.family, f"<code>{entry.name}</code>") for entry in entries]
    frame = pd.DataFrame(cells, pd.MultiIndex.from_tuples(titles, names=[None, "method"]))
    return board(frame, notes=[escape(entry.title) for entry in entries], html=True, classes="catalogue")


def _source(entry: MethodEntry) -> str:
    link = f'<a href="{entry.link}">{entry.arxiv}</a>' if entry.link else ""
    version = f"<small>{escape(entry.version)}</small>" if entry.version else ""
    return link + version or "–"


def method_sections(entries: Sequence[MethodEntry]) -> str:
    """As HTML, for each method what opens on a click: its source, fields, official values, and deviations."""
    return render("particulars.html.j2", entries=entries)


def landscape_figure(page: Methods, control: str = "random") -> Figure:
    """Relative score against relative FLOPs, end to end, a panel for each place where methods act; controls in grey, of
    ``control`` the spread of its draws."""
    runs = page.table.drop_duplicates("run").set_index("run").drop(index=control)
    runs = runs[runs.index.isin(page.points["run"])]
    groups = {place: part for place in FAMILIES if len(part := runs[runs["place"] == place])}
    lines, columns = -(-len(groups) // 2), min(2, len(groups))
    figure, axes = subplots(lines, columns, figsize=(PAGE, 2.9 * lines), sharex=True, sharey=True, squeeze=False)
    shown = page.points[page.points["run"].isin([*runs.index, control])].sort_values("end_to_end")
    by_keep = shown["budget"].map(lambda label: Budget.parse(label).keep is not None)
    shown = shown[
        shown["end_to_end"] <= shown.loc[by_keep, "end_to_end"].max() + 1e-9
    ]  # not a curve's long end over layers
    draws = shown[shown["run"] == control]
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (place, part) in zip(axes.flat, groups.items(), strict=False):
        axis.fill_between(draws["end_to_end"], draws["least"], draws["most"], color=GREY, alpha=0.35, lw=0)
        axis.plot(draws["end_to_end"], draws["score"], color=GREY, lw=0.9, label=page.entries[control].short)
        part = part.sort_values("control", kind="stable")
        for number, (run, labels) in enumerate(part.iterrows()):
            line = shown[shown["run"] == run]
            turn = number // len(PALETTE)  # a colour that comes again has another marker
            style = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[(number + turn) % len(MARKERS)]}
            if labels["control"]:
                style = {"color": GREY, "marker": ".", "ls": (":", "--", "-.")[number % 3]}
            axis.errorbar(
                line["end_to_end"], line["score"], yerr=[line["score"] - line["low"], line["high"] - line["score"]],
                label=labels["title"], lw=1.0, ms=3.5, elinewidth=0.4, capsize=0, **style,
            )  # fmt: skip
        axis.axhline(1.0, color=GREY, lw=0.6)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6)
        axis.set_title(place)
        axis.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("prefill FLOPs from pixels to the first token, share of the whole model", fontsize=8)
    figure.supylabel("score, share of the whole model", fontsize=8)
    return figure


def scoreboard(page: Methods) -> str:
    """Accuracies of the whole model and the one without a picture, then a block per budget: random, other controls,
    methods by their mean. Below, what was not run."""
    heads = dict(zip(page.budgets, task_heads(page.budgets, page.table["picture"].max()), strict=True))
    base = page.whole[page.whole["run"] == "plain"].set_index("task")
    named = {"flops": "profiler", "end_to_end": "end_to_end"}
    whole = page.whole.assign(
        **{name: page.whole[column] / page.whole["task"].map(base[column]) for name, column in named.items()}
    )
    columns = ["accuracy", "kept", "visual", "flops", "end_to_end"]
    means = whole.groupby("run", as_index=False)[columns].mean().assign(task=MEAN)
    whole = pd.concat([whole, means]).assign(block="", control=True)
    whole["title"] = whole["run"].map({"plain": "whole model", "blind": "no picture"})
    table = pd.concat([whole, page.table.assign(block=page.table["keep"].map(heads))], ignore_index=True)
    compared = table["difference"].notna() & (table["run"] != "random")
    marks = table["verdict"].map(lambda verdict: SPREAD_MARKS.get(verdict, "")).where(compared, "")
    best = table.groupby(["block", "task"])["accuracy"].transform("max")
    cells = table.assign(
        text=(100 * table["accuracy"]).map("{:.1f}".format) + marks,
        small=[f"{100 * row.low:.0f}–{100 * row.high:.0f}" if row.low >= 0 else "" for row in table.itertuples()],
        bold=(table["block"] != "") & (table["accuracy"] >= best - 1e-12),
        tooltip=[
            f"{points(row.difference)} points to random ({points(row.least)} to {points(row.most)})" if sure else ""
            for row, sure in zip(table.itertuples(), compared, strict=True)
        ],
    )
    means = table[table["task"] == MEAN]
    costs = {
        "kept": ("kept", "{:.0f}"),
        "layer\nmean": ("visual", "{:.0f}"),
        "decoder\nFLOPs": ("flops", "{:.0%}"),
        "FLOPs end\nto end": ("end_to_end", "{:.0%}"),
    }
    counts = [means.assign(task=head, text=means[name].map(form.format)) for head, (name, form) in costs.items()]
    order = 2 * ~means["control"].astype(bool) + ~means["run"].isin(["plain", "random"])
    rows = means.assign(order=order).sort_values(
        ["keep", "order", "accuracy"], ascending=[False, True, False], na_position="first", kind="stable"
    )
    tasks = [task for task in dict.fromkeys(page.table["task"]) if task != MEAN]
    html = cell_board(
        pd.concat([cells, *counts]),
        rows.set_index(["block", "run"], drop=False),
        pd.Index([*tasks, MEAN, *costs], name="task"),
        notes=[_row_note(row) for row in rows.itertuples()],
        runs=list(rows["run"]),
        controls=list(rows["control"]),
    )
    return html + (f"<p>Not run: {escape(', '.join(page.missing))}.</p>" if page.missing else "")


def _row_note(row: Any) -> str:
    """Where a method acts, and the value of its knob if that is not ``keep``."""
    other = row.block and "keep" not in Budget.parse(row.budget).fields
    return " · ".join(filter(None, ["" if row.control else row.place, row.budget.replace("=", " ") if other else ""]))


def methods_finding(page: Methods) -> str:
    """The page's finding in markdown: which published methods beat random, by `against_random`'s verdicts."""
    means = page.table[page.table["task"] == MEAN]
    blocks = [part[~part["control"]] for _, part in means.groupby("keep", sort=False)]
    if not len(blocks[0]):
        return "No published method has been run yet, so there is nothing to compare with random."
    last = blocks[-1].sort_values("accuracy", ascending=False, kind="stable")
    least, picture = last["keep"].iloc[0], round(means["picture"].iloc[0])
    control = means[means["control"] & (means["keep"] == least)].sort_values("accuracy", kind="stable").iloc[-1]
    inside = None
    if page.inside is not None:
        drawn = page.inside[(page.inside["task"] == MEAN) & (page.inside["keep"] == least)]
        drawn = drawn[~drawn["control"] & (drawn["place"] == FAMILIES[2])]
        inside = {"beat": int((drawn["verdict"] == ABOVE).sum()), "methods": len(drawn)}
    equal_beat = [int((part["equal_least"] > 0).sum()) for part in blocks]
    equal = [int(part["equal_least"].notna().sum()) for part in blocks]
    verdicts = {INSIDE: "Inside random's spread there", BELOW: "Below it"}
    names = {words: sorted(last.loc[last["verdict"] == verdict, "title"]) for verdict, words in verdicts.items()}
    facts = {
        "picture": picture,
        "tasks": page.table["task"].nunique() - 1,
        "kept": [round(part["keep"].iloc[0] * picture) for part in blocks],
        "beat": [int((part["verdict"] == ABOVE).sum()) for part in blocks],
        "methods": list(dict.fromkeys(map(len, blocks))),
        "equal_beat": equal_beat,
        "equal": list(dict.fromkeys(equal)),
        "equal_all": equal_beat == equal,
        "best": last.iloc[0].to_dict(),
        "control": control.to_dict(),
        "below_control": int((last["accuracy"] < control["accuracy"]).sum()),
        "last": len(last),
        "spread": {words: titles for words, titles in names.items() if titles},
        "inside": inside,
    }
    return finding("methods_finding.md.j2", facts)
