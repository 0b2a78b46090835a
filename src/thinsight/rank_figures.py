"""Figures of ranks: how far each method's reaches over other questions, and how well orders agree."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thinsight.overview_figures import WIDTH
from thinsight.ranks import BUDGETS, TASKS
from thinsight.style import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY, subplots


def ranks_figure(table: pd.DataFrame, titles: Mapping[str, str], heads: Mapping[float, str], control: str) -> Figure:
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
