"""Figures of the page on efficiency."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from thinsight.config.catalogue import CONTROL
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.flops import prefill_flops
from thinsight.costs.model_costs import method_cost
from thinsight.papers.efficiency.page import Efficiency
from thinsight.report.figures import BLUE, GREEN, GREY, INK, MARKERS, ORANGE, PAGE, PURPLE, RED, SKY, subplots

COLOURS = dict(zip([c.name for c in CONVENTIONS], (BLUE, BLUE, ORANGE, ORANGE, GREEN, PURPLE, RED), strict=True))


def conventions_figure(page: Efficiency, most: int) -> Figure:
    """Operations of the whole model by each convention against its text tokens up to ``most``, and the printed numbers
    on them; those of one layer are left out."""
    figure, axis = subplots(figsize=(PAGE, 3.4))
    shape, visual = page.first.prefill.shape, page.first.prefill.total
    lines = [
        (text, prefill_flops(shape, [visual] * shape.layers, text, c) / 1e12, c.name, c.visual_only)
        for c in CONVENTIONS
        for text in range(0, most + 1, 4)
    ]
    sns.lineplot(
        pd.DataFrame(lines, columns=["text", "count", "convention", "visual only"]), x="text", y="count",
        hue="convention", palette=COLOURS, style="visual only", style_order=[False, True], dashes=["", (1, 1)], ax=axis,
    )  # fmt: skip
    handles, labels = axis.get_legend_handles_labels()
    keys = [handle for handle, label in zip(handles, labels, strict=True) if label in COLOURS]
    for key, convention in zip(keys, CONVENTIONS, strict=True):
        key.set_linestyle(":" if convention.visual_only else "-")
    axis.legend(keys, list(COLOURS), loc="upper left", bbox_to_anchor=(1.01, 1.0), title="counted by", alignment="left")
    printed = page.baselines[page.baselines["layers"] == shape.layers]
    printed = printed.assign(text=printed[["least", "greatest"]].astype(float).mean(axis=1).fillna(0.0))
    points = []
    for (value, part), marker in zip(printed.groupby("value", sort=False), MARKERS, strict=False):
        for number, (_, row) in enumerate(part.iterrows()):
            colour = COLOURS[row["convention"]]
            dots = axis.plot(
                row["text"], row["number"] / 1e12, marker, ms=6, color=colour, clip_on=False, zorder=5,
                mfc=colour if row["off"] == 0 else "white", label=f"{value} T: {row['papers']}",
            )  # fmt: skip
            points += dots if number == 0 else []
    figure.legend(handles=points, loc="outside lower center", ncols=2, title="printed")
    axis.set(
        xlim=(-2, most), ylim=(0, None), xlabel="text tokens in the prompt", ylabel="prefill of the whole model, T"
    )
    return figure


def summary_figure(page: Efficiency) -> Figure:
    """Four panels. Of the first model: cache against the label, and the tower's FLOPs of methods that act in it. Of all
    models: FLOPs left against the mean over layers, and how much of a prefill is the tower's and projector's."""
    figure, axes = subplots(2, 2, figsize=(PAGE, 6.0))
    titles = {model.name: title for title, model in page.sizes.items()}
    costs = page.costs[page.costs["why"] == ""]
    costs = costs.assign(
        short=costs["title"].str.partition(" (")[0], label=costs["share"] * page.first.prefill.total,
        model=costs["model"].map(titles),
    )  # fmt: skip
    first = costs[costs["model"] == page.title]
    _cache(axes[0, 0], first[first["family"] != CONTROL], page)
    _layer_mean(axes[0, 1], costs, page)
    _tower(axes[1, 0], first, page)
    _vision_share(axes[1, 1], costs, page)
    return figure


def _cache(axis: Axes, costs: pd.DataFrame, page: Efficiency) -> None:
    """Methods whose caches are equal share a line."""
    caches = costs.groupby("method", sort=False).agg(short=("short", "first"), cache=("cache", tuple))
    names = caches.groupby("cache")["short"].agg(list)
    texts = names.map(lambda some: ", ".join(some) if len(some) < 4 else f"{len(some)} methods before layer 0")
    costs = costs.assign(line=costs["method"].map(caches["cache"].map(texts.to_dict())), MB=costs["cache"] / 1e6)
    order = costs[costs["share"] == costs["share"].min()].sort_values("MB", ascending=False)["line"].unique()
    sns.lineplot(
        costs.drop_duplicates(["line", "share"]), x="label", y="MB", hue="line", hue_order=order, style="line",
        style_order=order, dashes=False, markers=list(MARKERS + "phH<>dXP")[: len(order)], ms=5, palette="husl",
        ax=axis,
    )  # fmt: skip
    whole = method_cost(page.first, page.first.whole)["cache"] / 1e6
    axis.axhline(whole, color=INK, lw=0.8, ls="--", label="whole model")
    axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axis.set(title=f"a. Cache by label, {page.title}", xlabel="label: tokens that keep is set to")
    axis.set(ylabel="KV cache, MB", ylim=(0, None), xticks=sorted(costs["label"].unique()))


def _layer_mean(axis: Axes, costs: pd.DataFrame, page: Efficiency) -> None:
    totals = costs["model"].map({title: model.prefill.total for title, model in page.sizes.items()})
    sns.scatterplot(
        costs.assign(mean=costs["layer_mean"] / totals), x="mean", y="profiler_left", hue="model", style="model", s=18,
        alpha=0.7, lw=0, ax=axis,
    )  # fmt: skip
    axis.axline((0, 0), slope=1, color=GREY, lw=0.7, zorder=0)
    axis.legend(title=None, loc="lower right")
    axis.set(title="b. FLOPs left by mean over layers", xlabel="layer mean, share of the visual tokens")
    axis.set(ylabel="decoder FLOPs left", xlim=(0, None), ylim=(0, None))


def _tower(axis: Axes, costs: pd.DataFrame, page: Efficiency) -> None:
    """Of methods that save more than the projector's part."""
    whole = page.first.vision / 1e12
    saved = costs.groupby("method")["vision"].transform("min") < 0.999 * (page.first.vision - page.first.projector)
    inside = costs[saved].assign(T=costs["vision"] / 1e12, tokens=costs["label"].map("{:.0f} tokens".format))
    sns.barplot(inside, x="short", y="T", hue="tokens", palette=(SKY, BLUE, INK), legend=True, ax=axis)
    axis.axhline(whole, color=INK, lw=0.8, ls="--", label="whole")
    axis.legend(title=None, ncols=2, loc="upper right")
    axis.set(title=f"c. Tower and projector, {page.title}", xlabel="", ylim=(0, 1.45 * whole))


def _vision_share(axis: Axes, costs: pd.DataFrame, page: Efficiency) -> None:
    random = costs.loc[costs["method"] == "random", ["model", "share", "vision_share"]]
    whole = [(title, 1.0, method_cost(model, model.whole)["vision_share"]) for title, model in page.sizes.items()]
    table = pd.concat([pd.DataFrame(whole, columns=random.columns), random]).sort_values("share", ascending=False)
    kept = table["share"].map(lambda share: "whole" if share == 1 else f"{share:.0%}")
    sns.pointplot(
        table.assign(kept=kept), x="kept", y="vision_share", hue="model", markers=list(MARKERS[: len(page.sizes)]),
        ms=4, lw=1.2, ax=axis,
    )  # fmt: skip
    axis.legend(title=None, loc="upper left")
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(title="d. Tower and projector, share of a prefill", xlabel="visual tokens kept before the decoder")
    axis.set(ylabel="share of all FLOPs", ylim=(0, 1))
