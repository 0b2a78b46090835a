"""Figures of the overview."""

from itertools import cycle

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from thinsight.analysis.ranks import BUDGETS, TASKS
from thinsight.config.catalogue import CONTROL, FAMILIES
from thinsight.ledger.ledger import MOST, count_verdicts
from thinsight.ledger.verdicts import COST, SCORE, VERDICTS
from thinsight.papers.overview import Overview, budget_name
from thinsight.report.figures import BLUE, COLUMN, GREEN, GREY, INK, PURPLE, RED, forest, subplots

PLACES = dict(zip(FAMILIES, (PURPLE, BLUE, RED, GREEN), strict=True)) | {CONTROL: GREY}
WIDTH = 1.75 * COLUMN  # inches: to be read on a phone as well
VERDICT_COLOURS = (GREEN, "#F2C45A", RED, "#D9D9D9")  # of met, nearly met, other, open


def pareto_figure(page: Overview, control: str = "random") -> Figure:
    """Relative score against relative FLOPs, end to end, of all runs and budgets; the front has its own marks.

    The band is the spread of the draws of the run ``control``.
    """
    shown = (
        page.front[page.front["end_to_end"] <= 1.0 + 1e-9]
        .sort_values("end_to_end", kind="stable")
        .join(page.named, on="run")
    )
    shown["place"] = shown["place"].where(shown["control"].eq(False), CONTROL)
    places = [place for place in PLACES if (shown["place"] == place).any()]
    best = shown[shown["front"]]
    figure, axis = subplots(figsize=(WIDTH, 3.6 + 0.12 * len(best)), layout="constrained")
    seeds = shown[shown["run"] == control]
    axis.fill_between(seeds["end_to_end"], seeds["least"], seeds["most"], color=GREY, alpha=0.25, lw=0)
    sns.lineplot(
        shown, x="end_to_end", y="score", units="run", hue="place", palette=PLACES, estimator=None, lw=0.7, alpha=0.35,
        legend=False, ax=axis,
    )  # fmt: skip
    sns.scatterplot(
        shown, x="end_to_end", y="score", hue="place", hue_order=places, style="place", style_order=places,
        palette=PLACES, markers={place: "X" if place == CONTROL else "o" for place in PLACES}, s=20, lw=0, alpha=0.8,
        ax=axis,
    )  # fmt: skip
    axis.legend(loc="lower right", title="acts", alignment="left")
    axis.step(
        [*best["end_to_end"], 1.0], [*best["score"], best["score"].max()], where="post", color=INK, lw=0.9, zorder=3
    )
    keys = []
    for mark, (_, point) in zip(cycle("oDs^vP*Xdph<>"), best.iterrows(), strict=False):
        budget = budget_name(point["budget"], page.picture)
        label = f"{page.titles[point['run']]}{budget and ', '}{budget}: {point['frequency']:.0%}"
        keys += axis.plot(
            point["end_to_end"],
            point["score"],
            mark,
            ms=7,
            mec="white",
            color=PLACES[point["place"]],
            label=label,
            zorder=4,
        )
    axis.axhline(1.0, color=GREY, lw=0.6, ls=":")
    axis.set(
        xlabel="prefill FLOPs from pixels to the first token, share of the whole model",
        ylabel="score, share of the whole model",
    )
    title = "on the front, and in how many of the resamples"
    figure.legend(handles=keys, loc="outside lower center", ncols=2, title=title)
    return figure


def ledger_figure(ledger: pd.DataFrame) -> Figure:
    """What became of each paper's printed scores, and of its cost numbers, as stacked shares, and how many."""
    counts = count_verdicts(ledger, MOST).set_index("paper").iloc[::-1]
    figure, axes = subplots(
        ncols=2, sharey=True, figsize=(WIDTH, 0.24 * len(counts) + 1.5), layout="constrained"
    )  # fmt: skip
    for axis, question, name in zip(axes, (SCORE, COST), ("scores", "cost numbers"), strict=True):
        verdicts = VERDICTS[question]
        table = counts[[f"{question}: {verdict}" for verdict in verdicts]].set_axis(list(verdicts), axis=1)
        shares = table.div(counts[question].where(counts[question] > 0), axis=0).fillna(0.0)
        shares.plot.barh(stacked=True, width=0.74, color=VERDICT_COLOURS, ax=axis, legend=False)
        for bars, verdict in zip(axis.containers, verdicts, strict=True):
            texts = [f"{n}" if share >= 0.12 else "" for n, share in zip(table[verdict], shares[verdict], strict=True)]
            axis.bar_label(bars, texts, label_type="center", fontsize=6.5, color=INK)
        axis.set(xlim=(0, 1.0), xlabel=f"share of the {name}", ylabel="")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(visible=False)
        axis.tick_params(axis="y", length=0)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, handlelength=1.0)
    sns.despine(figure, left=True)
    return figure


def rank_figure(page: Overview, control: str = "random") -> Figure:
    """Mean rank with its 95 % interval, a mark per budget; the control's is over its seeds as well as questions."""
    means = page.ranks.groupby(["run", "keep"], as_index=False).agg({"mean": "mean", "low": "min", "high": "max"})
    order = list(means.groupby("run")["mean"].mean().sort_values(kind="stable").index)
    means = means.sort_values("keep", ascending=False).sort_values(
        "run", key=lambda run: run.map(order.index), kind="stable"
    )
    names = {run: f"{page.titles[run]} (each seed)" if run == control else page.titles[run] for run in order}
    means = means.assign(name=means["run"].map(names), budget=means["keep"].map(page.heads))
    figure, axis = subplots(figsize=(WIDTH, 0.2 * len(order) + 1.0), layout="constrained")
    if control in order:
        axis.axhspan(order.index(control) - 0.5, order.index(control) + 0.5, color="#EFEFEF", lw=0, zorder=0)
    palette = dict(zip(page.heads.values(), sns.color_palette("dark:#E07B39_r", len(page.heads)).as_hex(), strict=True))
    forest(
        axis, means, value="mean", low="low", high="high", label="name", hue="budget", reference=None, palette=palette,
        legend=False,
    )  # fmt: skip
    axis.set(xlim=(0.4, len(order) + 0.6), xlabel="rank among the methods (1 is the best)")
    figure.legend(loc="outside upper center", ncols=len(page.heads), handletextpad=0.2, columnspacing=1.2)
    return figure


def agreement_figure(page: Overview) -> Figure:
    """Kendall's tau between tasks, and between budgets where there are several; on the diagonal each with itself."""
    table, heads = page.agreement, {keep: budget_name(f"keep={keep}", page.picture) for keep in page.heads}
    orders = {TASKS: list(dict.fromkeys(table.loc[table["of"] == TASKS, "first"]))}
    if len(heads) > 1:
        orders[BUDGETS] = list(heads)
    sizes = [len(names) for names in orders.values()]
    size = (WIDTH, 0.37 * sizes[0] + 0.9)
    figure, axes = subplots(1, len(orders), figsize=size, width_ratios=sizes, squeeze=False, layout="constrained")
    for axis, (of, names) in zip(axes[0], orders.items(), strict=True):
        upper = (
            table[table["of"] == of].pivot(index="first", columns="second", values="tau").reindex(names, columns=names)
        )
        grid = upper.combine_first(upper.T).loc[names, names].rename(index=heads, columns=heads)
        sns.heatmap(
            grid, annot=True, fmt=".2f", cmap="Blues", vmin=-0.1, vmax=1.15, cbar=False, square=True, lw=1.5,
            annot_kws={"fontsize": 6.5}, ax=axis,
        )  # fmt: skip
        axis.set(title=f"between {of}", xlabel="", ylabel="")
        axis.set_xticks(axis.get_xticks(), axis.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="y", rotation=0)
    return figure
