"""Figures of the page on efficiency."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinsight.config.catalogue import FAMILIES
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.flops import DecoderShape
from thinsight.costs.model_costs import ModelSizes, method_cost
from thinsight.papers.efficiency.claims import baseline_flops
from thinsight.report.figures import BLUE, GREEN, INK, ORANGE, PAGE, PURPLE, RED, SKY, spaced, subplots

INKS = dict(zip([c.name for c in CONVENTIONS], (BLUE, BLUE, ORANGE, ORANGE, GREEN, PURPLE, RED), strict=True))


FAMILY_INKS = dict(zip(FAMILIES, (GREEN, BLUE, RED, PURPLE), strict=True)) | {"control": "#8A8A8A"}


MARKS = "osD^"


NEAR = 0.02  # printed numbers that differ by less are named together


def conventions_figure(found: pd.DataFrame, shape: DecoderShape, visual: int, most: int = 128) -> Figure:
    """Operations of the whole model by each convention against its text tokens, and the printed numbers on them.

    ``found``: `thinsight.papers.efficiency.claims.baseline_conventions`; numbers of one layer are left out.
    """
    figure, axis = subplots(figsize=(PAGE, 3.0))
    texts, ends = range(0, most + 1, 4), []
    for c in CONVENTIONS:
        counts = [baseline_flops(shape, visual, text, c) / 1e12 for text in texts]
        axis.plot(texts, counts, color=INKS[c.name], ls=":" if c.visual_only else "-", lw=1.2)
        ends.append((counts[-1], c.name, INKS[c.name]))
    _names(axis, ends, most)
    own = found[found["layers"] == shape.layers].sort_values("number")
    own = own.assign(middle=own[["least", "greatest"]].astype(float).mean(axis=1).fillna(0.0))
    for _, line in own.iterrows():
        colour, count = INKS[line["convention"]], line["number"] / 1e12
        axis.plot(line["middle"], count, "o", ms=4.5, mew=1.0, color=colour, zorder=5, clip_on=False,
                  mfc=colour if line["off"] == 0 else "white")  # fmt: skip
    near = (own["number"].pct_change() > NEAR).cumsum()  # numbers that nearly meet share a label
    for _, part in own.groupby(near):
        names = part.drop_duplicates("value")[["value", "papers"]].itertuples(index=False)
        at, count = part["middle"].max(), part["number"].min() / 1e12
        axis.annotate("\n".join(f"{value}  {papers}" for value, papers in names), (at, count), xytext=(4, -4),
                      textcoords="offset points", va="top", ha="right" if at > 0.8 * most else "left", fontsize=6.5,
                      bbox={"fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.6})  # fmt: skip
    axis.set(
        xlim=(-2, most), ylim=(0, None), xlabel="text tokens in the prompt", ylabel="prefill of the whole model, T"
    )
    axis.set_xticks(range(0, most + 1, 16))
    return figure


def summary_figure(found: pd.DataFrame, sizes: Mapping[str, ModelSizes], first: str) -> Figure:
    """Four panels. Of the model ``first``: cache against the label, and the tower's FLOPs of methods that act in it. Of
    all models: FLOPs left against the mean over layers, and how much of a prefill is the tower's and projector's."""
    figure, axes = subplots(2, 2, figsize=(PAGE, 5.4))
    one, counted = sizes[first], found[found["why"] == ""]
    own = counted[counted["model"] == one.name]
    _cache(axes[0, 0], own, one, first)
    _line(axes[0, 1], counted, sizes)
    _tower(axes[1, 0], own, one, first)
    _vision(axes[1, 1], counted, sizes)
    return figure


def _cache(axis: Axes, own: pd.DataFrame, one: ModelSizes, title: str) -> None:
    ends, seen = [], {}
    for method, part in own.groupby("method", sort=False):
        key = tuple(part["cache"])
        if key in seen or (part["family"] == "control").all():
            continue
        seen[key] = method
        same = own.groupby("method", sort=False).filter(lambda p, key=key: tuple(p["cache"]) == key)
        names = list(dict.fromkeys(same[same["family"] != "control"]["title"].str.partition(" (")[0]))
        colour = FAMILY_INKS[part["family"].iloc[0]]
        labels, sizes = part["share"] * one.stage.total, part["cache"] / 1e6
        axis.plot(labels, sizes, marker="o", ms=3, color=colour)
        text = f"{len(names)} methods before layer 0" if len(names) > 3 else ", ".join(names)
        ends.append((float(sizes.iloc[0]), text, colour))
    right = float((own["share"] * one.stage.total).max())
    whole = method_cost(one, one.whole)["cache"] / 1e6
    axis.axhline(whole, color=INK, lw=0.8, ls="--")
    axis.annotate("whole model", (right * 0.3, whole), xytext=(0, 2), textcoords="offset points", fontsize=6.5)
    axis.set(title=f"a. Cache by label, {title}", xlabel="label: tokens that keep is set to", ylabel="KV cache, MB",
             xlim=(right * 0.25, right * 1.02), ylim=(0, whole * 1.12))  # fmt: skip
    axis.set_xticks(sorted(own["share"].unique() * one.stage.total))
    _names(axis, ends, right, size=6.2)


def _line(axis: Axes, counted: pd.DataFrame, sizes: Mapping[str, ModelSizes]) -> None:
    for (title, one), mark in zip(sizes.items(), MARKS, strict=False):
        part = counted[counted["model"] == one.name]
        axis.plot(
            part["layer_mean"] / one.stage.total, part["profiler_left"], mark, ms=3, alpha=0.65, label=title, mew=0
        )
    axis.plot([0, 1], [0, 1], color="#999999", lw=0.7, zorder=0)
    top = 1.06 * float(counted["profiler_left"].max())
    axis.set(title="b. FLOPs left by mean over layers", xlabel="layer mean, share of the visual tokens",
             ylabel="decoder FLOPs left", xlim=(0, top), ylim=(0, top))  # fmt: skip
    axis.legend(loc="upper left", handletextpad=0.2)


def _tower(axis: Axes, own: pd.DataFrame, one: ModelSizes, title: str) -> None:
    inside = own[own.groupby("method")["vision"].transform("min") < 0.999 * (one.vision - one.projector)]
    names = list(dict.fromkeys(inside["title"].str.partition(" (")[0]))
    shares = sorted(own["share"].unique(), reverse=True)
    width = 0.8 / len(shares)
    for number, (share, colour) in enumerate(zip(shares, (SKY, BLUE, INK), strict=False)):
        part = inside[inside["share"] == share]
        axis.bar(np.arange(len(part)) + (number - (len(shares) - 1) / 2) * width, part["vision"] / 1e12, width * 0.92,
                 color=colour, label=f"{share * one.stage.total:.0f} tokens")  # fmt: skip
    whole = one.vision / 1e12
    axis.axhline(whole, color=INK, lw=0.8, ls="--", label="whole")
    axis.set(title=f"c. Tower and projector, {title}", ylabel="T", ylim=(0, whole * 1.45))
    axis.set_xticks(range(len(names)), names)
    axis.grid(visible=False, axis="x")
    axis.legend(loc="upper right", ncols=2)


def _vision(axis: Axes, counted: pd.DataFrame, sizes: Mapping[str, ModelSizes]) -> None:
    shares = sorted(counted["share"].unique(), reverse=True)
    ticks = ["whole", *(f"{share:.0%}" for share in shares)]
    for (title, one), mark, colour in zip(sizes.items(), MARKS, (BLUE, ORANGE, GREEN, RED), strict=False):
        part = counted[(counted["model"] == one.name) & (counted["method"] == "random")]
        values = [
            method_cost(one, one.whole)["vision_share"],
            *part.sort_values("share", ascending=False)["vision_share"],
        ]
        axis.plot(range(len(values)), values, marker=mark, ms=4, color=colour, label=title)
    axis.set(title="d. Tower and projector, share of a prefill", xlabel="visual tokens kept before the decoder",
             ylabel="share of all FLOPs", ylim=(0, 1))  # fmt: skip
    axis.set_xticks(range(len(ticks)), ticks)
    axis.legend(loc="upper left")


def _names(axis: Axes, ends: Sequence[tuple[float, str, str]], at: float, size: float = 6.5) -> None:
    """Names beside the right ends of lines, moved apart where they would cover each other."""
    ends = sorted(ends)
    low, high = axis.get_ylim()
    places = spaced(np.array([end[0] for end in ends]), 0.055 * (high - low))
    for (value, text, colour), place in zip(ends, places, strict=True):
        axis.annotate(text, (at, value), xytext=(1.02, place), textcoords=("axes fraction", "data"), va="center",
                      fontsize=size, color=colour, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "lw": 0.3, "color": colour, "shrinkA": 0, "shrinkB": 1},
                      )  # fmt: skip
