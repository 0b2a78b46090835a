"""Figures of the pages on PAR and TRSM."""

import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinsight.analysis.ablation import spelled
from thinsight.evaluation.budget import Budget
from thinsight.ledger.verdicts import TOLERANCE
from thinsight.report.figures import BLUE, COLUMN, GREEN, GREY, INK, ORANGE, PAGE, PURPLE, RED, SKY, forest, subplots

STYLES = {
    "par": (BLUE, "o"),
    "par-adaptive": (INK, "X"),
    "trsm": (RED, "s"),
    "trsm-20": (INK, "*"),
    "cdpruner": (GREEN, "^"),
    "divprune": (PURPLE, "D"),
    "visionzip": (ORANGE, "v"),
    "sparsevlm": (SKY, "P"),
    "grid": (GREY, "h"),
}
"""Colour and marker of each run, on every figure of the two pages."""

INTERVALS = dict.fromkeys(("par", "par-adaptive", "trsm", "trsm-20"), ("low", "high")) | {"grid": ("least", "most")}
"""Runs with bars, and the columns between which they go: a control that was drawn several times shows its draws."""

SHARES = {1: "1", 1 / 2: "1/2", 1 / 4: "1/4", 1 / 9: "1/9", 1 / 18: "1/18", 1 / 36: "1/36"}
BIN = 3  # tokens of a histogram's bin


def compression_figure(
    points: pd.DataFrame, wrong: pd.DataFrame, titles: Mapping[str, str], claim: tuple[float, float]
) -> Figure:
    """Two panels over the share of the tokens that is left: the score, and how often an absent thing is affirmed.

    points  `analysis.curves.compression_curve`;  wrong  `analysis.hallucination.false_yes_rates`;  titles  run -> label
    claim   the printed share of the tokens and share of the score, drawn as a star
    """
    figure, axes = subplots(1, 2, figsize=(PAGE, 3.1))
    _share_panel(axes[0], points, "score", titles)
    _share_panel(axes[1], wrong, "false_yes", titles)
    axes[0].set(ylabel="score, share of the whole model", title="what is kept of the score")
    axes[1].set(ylabel="false yes rate on absent things", title="what is seen that is not there", ylim=(0, None))
    for rate in wrong.loc[wrong["run"] == "plain", "false_yes"]:
        axes[1].axhline(rate, color=GREY, lw=0.7)
    axes[0].plot(*claim, marker="*", ms=11, color=INK, ls="none", label="PAR as printed", zorder=6)
    handles = {}
    for axis in axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
        axis.get_legend().remove()
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5)
    return figure


def score_curve_figure(points: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """The score over the share of the tokens that is left, as in `compression_figure`."""
    figure, axis = subplots(figsize=(COLUMN * 1.8, 2.7))
    _share_panel(axis, points, "score", titles)
    axis.set(ylabel="score, share of the whole model")
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5))
    return figure


def _share_panel(axis: Axes, table: pd.DataFrame, y: str, titles: Mapping[str, str]) -> None:
    """Column ``y`` over the share of the tokens that is left: a line per run of ``titles``, and the band of random
    subsets from the lowest to the highest seed. A run that is not in ``table`` stands in the legend as not run."""
    table = table[table["share"] < 1]
    random = table[table["run"] == "random"].sort_values("share")
    if len(random):
        band = random["share"], random["least"], random["most"]
        axis.fill_between(*band, color=GREY, alpha=0.35, lw=0, label="random, 3 seeds")
    for run in (run for run in INTERVALS if run in titles):
        part, ends = table[table["run"] == run], INTERVALS[run]
        axis.vlines(part["share"], part[ends[0]], part[ends[1]], color=STYLES[run][0], lw=0.7)
    finished = [run for run in titles if run in set(table["run"])]
    colours, markers = ({titles[run]: STYLES[run][number] for run in finished} for number in (0, 1))
    sns.lineplot(
        table[table["run"].isin(finished)].assign(method=table["run"].map(titles)), x="share", y=y, hue="method",
        style="method", hue_order=colours, style_order=markers, palette=colours, markers=markers, dashes=False, ms=5,
        mew=0, lw=1.1, ax=axis,
    )  # fmt: skip
    if y == "score":
        axis.axhline(1.0, color=GREY, lw=0.7)
        for run in [run for run in titles if run not in finished]:
            axis.plot([], [], ls="none", label=f"{titles[run]}: not run")
    axis.set(xscale="log", xlim=(1.05, 1 / 40), xlabel="visual tokens left, share of the picture's")
    axis.set_xticks(list(SHARES), SHARES.values())
    axis.set_xticks([], minor=True)
    axis.legend()


def counting_figure(table: pd.DataFrame, printed: float, conventions: Mapping[str, str]) -> Figure:
    """The reduction of FLOPs (`papers.par.flops.reductions`) over the length of the text, a colour per number of whole
    layers and a line style for each of ``conventions`` (name -> label), with a band of all that meets the ``printed``
    share by the ledger's rule, in whole percent: cut to it at most, within `TOLERANCE` of it at least."""
    table = table.assign(
        saved=100 * table["reduction"], counted=table["convention"].map(conventions), K=table["layers"]
    )
    figure, axis = subplots(figsize=(COLUMN * 1.6, 2.6))
    band = 100 * printed * (1 - TOLERANCE), 100 * printed + 1
    axis.axhspan(*band, color=INK, alpha=0.12, lw=0, label=f"as printed, {printed:.0%}")
    sns.lineplot(table, x="text", y="saved", hue="K", style="counted", palette=[BLUE, ORANGE, GREEN], ax=axis)
    axis.set(xlabel="tokens of the prompt besides the picture, L", ylabel="FLOPs saved, %")
    axis.set(xlim=(table["text"].min(), table["text"].max()))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def adaptive_figure(counts: pd.DataFrame, spread: pd.DataFrame) -> Figure:
    """How many tokens each question keeps: a histogram per setting of the thresholds, by mean, under its numbers.

    counts  `analysis.curves.kept_counts`;  spread  `analysis.curves.kept_spread`
    """
    picture = int(counts["picture"].max())
    with plt.rc_context({"figure.constrained_layout.use": False}):  # the grid has a layout of its own
        grid = sns.displot(
            counts, x="kept", col="budget", col_order=spread["budget"], col_wrap=3, binwidth=BIN, binrange=(0, picture),
            color=BLUE, lw=0, height=1.45, aspect=PAGE / 3 / 1.45, facet_kws={"sharey": False, "xlim": (0, picture)},
        )  # fmt: skip
    for line in spread.itertuples():
        axis = grid.axes_dict[line.budget]
        axis.axvline(line.mean, color=RED, lw=1.2)
        numbers = f"{line.mean:.1f} ± {line.sd:.1f}, {line.least}–{line.most}; FLOPs {line.flops:.1%}"
        setting = _symbols(spelled(Budget.parse(line.budget).fields))
        axis.set_title(f"{setting}\n{numbers} ({line.flops_of_mean:.1%})", fontsize=7)
        axis.set(yticks=[])
    grid.set_axis_labels(f"tokens kept of {picture}", "questions").tight_layout()
    plt.close(grid.figure)
    return grid.figure


def variants_figure(table: pd.DataFrame) -> Figure:
    """What each variant changes: differences to the method as it is with their paired intervals, a column of panels per
    value of ``keep``, a row of panels per part. ``table``: `analysis.ablation_table`."""
    keeps = table["keep"].dropna().unique()
    table = table[~table["base"].astype(bool)].assign(label=table["variant"].map(_symbols))
    parts = dict(list(table.groupby("part", sort=False)))
    heights = [rows["label"].nunique() for rows in parts.values()]
    figure, axes = subplots(
        len(parts), len(keeps), figsize=(PAGE, 0.17 * sum(heights) + 0.12 * len(parts) + 0.7), sharex=True,
        sharey="row", squeeze=False, height_ratios=heights,
    )  # fmt: skip
    for row, (part, rows) in zip(axes, parts.items(), strict=True):
        for axis, keep in zip(row, keeps, strict=True):
            at_keep = rows[(rows["keep"] == keep) | rows["keep"].isna()].set_index("label")
            at_keep = at_keep.reindex(rows["label"].unique()).reset_index()
            forest(axis, at_keep, value="difference", low="least", high="most", label="label", scale=100)
        row[0].set_ylabel(part, rotation=0, ha="right", va="center")
    for axis, keep in zip(axes[0], keeps, strict=True):
        axis.set_title(f"{keep:.0%} of the tokens stay")
    figure.supxlabel("points to the method as it is", fontsize=8)
    figure.align_ylabels(axes[:, 0])
    return figure


def prompt_swap_figure(table: pd.DataFrame) -> Figure:
    """Whether methods go by the prompt: tokens in common with another question's choice, the accuracy with its own and
    with that choice, and the difference. ``table``: `papers.par.prompts.swap_table`."""
    figure, axes = subplots(1, 3, figsize=(PAGE, 0.25 * len(table) + 0.95), sharey=True)
    percent = 100 * table.set_index("method")[["common", "chance", "own", "other"]]
    sns.barplot(percent, x="common", y="method", color=BLUE, alpha=0.75, width=0.6, ax=axes[0])
    axes[0].scatter(
        percent["chance"], range(len(table)), marker="|", s=90, color=INK, zorder=3, label="two random sets"
    )
    choices = {"own": "its own question chose", "other": "another question chose"}
    scores = percent.rename(columns=choices).melt(value_vars=choices.values(), var_name="choice", ignore_index=False)
    sns.stripplot(scores, x="value", y="method", hue="choice", palette=[BLUE, ORANGE], jitter=False, size=5, ax=axes[1])
    forest(axes[2], table, value="difference", low="low", high="high", label="method", scale=100)
    axes[0].set(xlabel="kept tokens in common, %", xlim=(0, 100), ylabel="", title="another question keeps as well")
    axes[1].set(xlabel="accuracy, %", title="score on its own question")
    axes[2].set(xlabel="points", title="difference")
    axes[1].legend_.remove()
    handles = [pair for axis in axes[:2] for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*handles, strict=True), loc="outside lower center", ncols=3)
    return figure


def differences_figure(table: pd.DataFrame, shares: Mapping[str, float], base: str) -> Figure:
    """Differences to the line ``base`` task by task with their paired intervals, a panel per reading that was run.

    table   `analysis.comparisons.compare` with lines "title, reading";  shares  reading -> share of tokens that stays
    """
    lines = table.join(table["line"].str.partition(", ").set_axis(["method", "comma", "reading"], axis=1))
    readings = [reading for reading in shares if reading in set(lines["reading"])]
    size = PAGE, 0.34 * table["task"].nunique() + 0.9
    figure, axes = subplots(1, max(1, len(readings)), figsize=size, sharey=True, sharex=True, squeeze=False)
    for axis, reading in zip(axes[0], readings, strict=False):
        part = lines[lines["reading"] == reading]
        palette = dict(zip(part["method"].unique(), (RED, GREY, ORANGE), strict=False))
        forest(axis, part, value="difference", low="low", high="high", label="task", hue="method", scale=100,
               palette=palette)  # fmt: skip
        axis.set(title=f"{reading}: {shares[reading]:.0%} of the tokens stay", xlabel=f"points to the {base}")
    return figure


def _symbols(text: str) -> str:
    """Thresholds as they are written in formulae: ``tau_r = 0.9`` with the Greek letter."""
    return re.sub(r"tau_(\w)", r"$\\tau_\1$", text)
