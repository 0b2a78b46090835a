"""Figures of the overview."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from thinsight.analysis.ranks import BUDGETS, TASKS
from thinsight.config.catalogue import FAMILIES
from thinsight.ledger.verdicts import VERDICTS
from thinsight.papers.overview import budget_name
from thinsight.report.figures import BLUE, COLUMN, GREEN, GREY, INK, ORANGE, PURPLE, RED, SKY, spaced, subplots

PLACES = dict(zip(FAMILIES, (PURPLE, BLUE, RED, GREEN), strict=True))


WIDTH = 1.75 * COLUMN  # inches: to be read on a phone as well


MARGIN = {"w_pad": 0.12, "h_pad": 0.1}  # inches of white around a figure that stands alone


VERDICT_COLOURS = dict(zip(VERDICTS, (GREEN, SKY, "#F2C45A", RED, "#D9D9D9"), strict=True))


def pareto_figure(points: pd.DataFrame, named: pd.DataFrame, picture: float, control: str = "random") -> Figure:
    """Relative score against relative FLOPs of all runs and budgets; those on the front are numbered and named below.

    points  `thinsight.analysis.curves.pareto`
    named   indexed by run: its title, its place, and whether it is a control (`thinsight.analysis.results.budget_labels`)
    """
    there = points[points["flops"] <= 1.0 + 1e-9].sort_values("flops", kind="stable")
    best = there[there["front"]]
    rows = -(-len(best) // 2)
    figure, axis = subplots(figsize=(WIDTH, 3.4 + 0.17 * rows), layout="constrained")
    figure.get_layout_engine().set(**MARGIN)
    for run, part in there.groupby("run", sort=False):
        colour, published = _colour(named, run)
        axis.plot(part["flops"], part["score"], color=colour, lw=0.7, alpha=0.3)
        marker = {"marker": "o", "s": 9} if published else {"marker": "x", "s": 10, "lw": 0.7}
        axis.scatter(part["flops"], part["score"], color=colour, alpha=0.75, **marker)
        halo = part[part["frequency"] > 0]
        axis.scatter(halo["flops"], halo["score"], s=110 * halo["frequency"], color=colour, alpha=0.22, lw=0)
    seeds = there[there["run"] == control]
    axis.fill_between(seeds["flops"], seeds["least"], seeds["most"], color=GREY, alpha=0.25, lw=0)
    axis.step([*best["flops"], 1.0], [*best["score"], best["score"].max()], where="post", color=INK, lw=0.9, zorder=3)
    axis.axhline(1.0, color="#999999", lw=0.6, ls=":")
    low, high = there["score"].min(), there["score"].max()
    left = there["flops"].min()
    span, tall = 1.0 - left, high - low
    axis.set(
        xlim=(left - 0.05 * span, 1.03), ylim=(low - 0.06 * tall, high + 0.2 * tall),
        xlabel="prefill FLOPs, share of the whole model", ylabel="score, share of the whole model",
    )  # fmt: skip
    _numbers(axis, best, named, 0.05 * span, 0.11 * tall)
    _keys(figure, axis, best, named, picture)
    return figure


def ledger_figure(counts: pd.DataFrame) -> Figure:
    """Verdicts as stacked shares of each paper's printed numbers, with how many there are.

    counts  paper, and a column per verdict
    """
    shown = counts.iloc[::-1]
    verdicts = [verdict for verdict in VERDICTS if verdict in counts]
    totals = shown[verdicts].sum(axis=1)
    figure, axis = subplots(figsize=(WIDTH, 0.24 * len(shown) + 1.1), layout="constrained")
    figure.get_layout_engine().set(**MARGIN)
    left = np.zeros(len(shown))
    for verdict in verdicts:
        share = (shown[verdict] / totals).to_numpy()
        axis.barh(range(len(shown)), share, left=left, color=VERDICT_COLOURS[verdict], label=verdict, height=0.74)
        for at, (part, start, n) in enumerate(zip(share, left, shown[verdict], strict=True)):
            if part >= 0.06:
                white = verdict in (VERDICTS[0], VERDICTS[3])
                axis.text(
                    start + part / 2,
                    at,
                    f"{n}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if white else INK,
                )
        left += share
    for at, total in enumerate(totals):
        axis.text(1.01, at, f"{total}", va="center", fontsize=7)
    axis.set_yticks(range(len(shown)), shown["paper"])
    axis.set(xlim=(0, 1.0), ylim=(-0.6, len(shown) - 0.4), xlabel="share of the printed numbers; at the right how many")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.0, columnspacing=1.2)
    return figure


def _colour(named: pd.DataFrame, run: str) -> tuple[str, bool]:
    """A run's colour, and whether it is a published method."""
    if run not in named.index or named.loc[run, "control"]:
        return GREY, False
    return PLACES[named.loc[run, "place"]], True


def _numbers(axis: Axes, best: pd.DataFrame, named: pd.DataFrame, apart: float, above: float) -> None:
    """A numbered bubble above each point of the front, moved aside where they would cover each other."""
    places = spaced(best["flops"].to_numpy(), apart)
    for number, (place, point) in enumerate(zip(places, best.itertuples(), strict=True), 1):
        axis.annotate(
            f"{number}", (point.flops, point.score), xytext=(place, point.score + above), textcoords="data",
            ha="center", va="center", fontsize=6.5, color="white",
            bbox={"boxstyle": "circle,pad=0.22", "fc": _colour(named, point.run)[0], "ec": "none"},
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": INK, "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip


def _keys(figure: Figure, axis: Axes, best: pd.DataFrame, named: pd.DataFrame, picture: float) -> None:
    """Colours inside the axes, the numbered points' names below them."""
    shown = {place: colour for place, colour in PLACES.items() if (named["place"].eq(place) & ~named["control"]).any()}
    dots = [Line2D([], [], marker="o", ls="", ms=3.5, color=colour, label=place) for place, colour in shown.items()]
    dots.append(Line2D([], [], marker="x", ls="", ms=3.5, color=GREY, label="control"))
    axis.legend(handles=dots, loc="lower right", handletextpad=0.2)
    texts = []
    for number, point in enumerate(best.itertuples(), 1):
        title = named["title"].get(point.run, point.run)
        budget = budget_name(point.budget, picture)
        label = f"{title}, {budget}" if budget else title
        mark = {"marker": f"${number}$", "ms": 4.5 if number < 10 else 6.5, "color": _colour(named, point.run)[0]}
        texts.append(Line2D([], [], ls="", label=f"{label}: {point.frequency:.0%}", **mark))
    figure.legend(
        handles=texts, loc="outside lower center", ncols=2, handletextpad=0.3, title="on the front, in resamples",
        title_fontsize=7,
    )  # fmt: skip


def rank_figure(table: pd.DataFrame, titles: Mapping[str, str], heads: Mapping[float, str], control: str) -> Figure:
    """Mean rank with its 95 % interval, a mark per budget; the control's is over its seeds as well as questions."""
    order = table.groupby("run")["mean"].mean().sort_values(kind="stable").index
    keeps = list(heads)
    figure, axis = subplots(figsize=(WIDTH, 0.2 * len(order) + 1.0), layout="constrained")
    colours = ("#0B3C5D", "#2F8FC4", "#E07B39") if len(keeps) <= 3 else (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, INK)
    for at, run in enumerate(order):
        if run == control:
            axis.axhspan(at - 0.5, at + 0.5, color="#EFEFEF", lw=0, zorder=0)
    for number, keep in enumerate(keeps):
        part = table[table["keep"] == keep].groupby("run").agg({"mean": "mean", "low": "min", "high": "max"})
        part = part.reindex(order).dropna()
        heights = [order.get_loc(run) + 0.24 * (number - (len(keeps) - 1) / 2) for run in part.index]
        colour = colours[number % len(colours)]
        axis.hlines(heights, part["low"], part["high"], color=colour, lw=1.0)
        axis.plot(part["mean"], heights, "osD^v"[number % 5], color=colour, ms=3, ls="", label=heads[keep])
    names = [titles[run] + (" (each seed)" if run == control else "") for run in order]
    axis.set_yticks(range(len(order)), names)
    axis.set(
        xlim=(0.4, len(order) + 0.6), ylim=(len(order) - 0.4, -0.6), xlabel="rank among the methods (1 is the best)"
    )
    axis.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=len(keeps), handletextpad=0.2, columnspacing=1.2)
    return figure


def agreement_figure(table: pd.DataFrame, heads: Mapping[float, str]) -> Figure:
    """Kendall's tau between tasks, and between budgets where there are several; framed: with itself."""
    orders = {TASKS: list(dict.fromkeys(table.loc[table["of"] == TASKS, "first"]))}
    if len(heads) > 1:
        orders[BUDGETS] = list(heads)
    sizes = [len(of) for of in orders.values()]
    figure, axes = subplots(
        1, len(orders), figsize=(WIDTH, 0.37 * sizes[0] + 0.9), width_ratios=sizes, squeeze=False, layout="constrained"
    )
    for axis, (of, names) in zip(axes[0], orders.items(), strict=True):
        part = table[table["of"] == of]
        at = {name: number for number, name in enumerate(names)}
        grid = np.full((len(names), len(names)), np.nan)
        for first, second, tau in part[["first", "second", "tau"]].itertuples(index=False):
            grid[at[first], at[second]] = grid[at[second], at[first]] = tau
        axis.imshow(grid, cmap="Blues", vmin=-0.1, vmax=1.15)
        for i, j in np.ndindex(grid.shape):
            said = "–" if np.isnan(grid[i, j]) else f"{grid[i, j]:.2f}"
            axis.text(j, i, said, ha="center", va="center", fontsize=6.5, color="white" if grid[i, j] > 0.65 else INK)
            if i == j:
                axis.add_patch(Rectangle((i - 0.46, i - 0.46), 0.92, 0.92, fill=False, ec=INK, lw=0.7))
        labels = [heads.get(name, name) for name in names]
        axis.set_xticks(range(len(names)), labels, rotation=40, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), labels)
        axis.set_title(f"between {of}")
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return figure
