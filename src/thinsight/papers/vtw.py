"""What the page on VTW needs: attention shares, layer choice, figures, tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from pandas.io.formats.style import Styler
from torch import Tensor

from thinsight.analysis.comparisons import compare
from thinsight.analysis.results import FLOPS, score_cells
from thinsight.ledger.verdicts import meets
from thinsight.report.figures import BLUE, COLUMN, GREEN, INK, ORANGE, PAGE, PURPLE, RED, subplots
from thinsight.runtime.attention_rows import attention_by_group, attention_rows, prompt_groups
from thinsight.runtime.layer_selection import NoLayerError, Selection, select_layer
from thinsight.tasks.rows import Row, collate, training_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def attention_shares(
    model: "PreTrainedModel", processor: "ProcessorMixin", task: DictConfig, rows: Sequence[Row]
) -> pd.DataFrame:
    """Mean share of attention that each part of the prompt gets: columns rows, layer, group, share.

    ``rows`` are those of the question, of the last prompt token (from which the answer's first word is predicted) and
    of the answer's own words (teacher-forced); groups are system, visual, question and answer. Shares of one layer and
    one kind of rows sum to 1. Heads, tokens and samples are averaged.
    """
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        inputs, answered = with_answer(processor, task, row)
        inputs = inputs.to(model.device, model.dtype)
        visual = inputs["input_ids"] == model.config.image_token_id
        parts = prompt_groups(visual, inputs["attention_mask"], answered)
        end = visual.shape[1]
        asked = parts["question"][0].nonzero().flatten().tolist()
        kinds = {"question": asked[:-1], "last prompt": asked[-1:], "answer": list(range(end - answered, end))}
        every = [column for columns in kinds.values() for column in columns]
        for layer, attention in enumerate(attention_rows(model, inputs, every)):
            start = 0
            for kind, columns in kinds.items():
                part = attention[:, start : start + len(columns)]
                start += len(columns)
                for group, share in attention_by_group(part, parts).items():
                    found.setdefault((kind, layer, group), []).append(share.mean().item())
    lines = [(*key, sum(values) / len(values)) for key, values in found.items()]
    return pd.DataFrame(lines, columns=["rows", "layer", "group", "share"])


def with_answer(processor: "ProcessorMixin", task: DictConfig, row: Row) -> tuple[dict[str, Tensor], int]:
    """The inputs of one row with its right answer appended, and how many tokens the answer has."""
    inputs = collate(processor, [row], task)
    reply = processor.tokenizer(" " + row.answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], reply], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(reply)], 1)
    return inputs, reply.shape[1]


def choose_layer(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    rows: Mapping[str, Sequence[Row]],
    thresholds: Sequence[float],
    direction: str = "withdrawn_to_full",
) -> tuple[Selection | None, pd.DataFrame]:
    """VTW's criterion over the questions of all tasks together, and for each task alone.

    Returns the joint `Selection` (None where no layer meets any threshold) and a table: task ("all" for the joint
    one), layer, divergence (mean over samples, nats).
    """
    together, lines = None, []
    groups = {"all": list(rows), **{name: [name] for name in rows}}
    for label, names in groups.items():
        batches = [collate(processor, list(rows[name]), training_task(name)) for name in names]
        try:
            found = select_layer(model, batches, threshold=thresholds, direction=direction)
            curve = found.divergence
        except NoLayerError as error:
            found, curve = None, error.divergence
        if label == "all":
            together = found
        lines += [{"task": label, "layer": layer, "divergence": value} for layer, value in curve.items()]
    return together, pd.DataFrame(lines)


def first_below(curve: pd.DataFrame, threshold: float) -> dict[str, int | None]:
    """For each task of `choose_layer`, the smallest layer at or below ``threshold``; None where there is none."""
    met = curve[curve["divergence"] <= threshold].groupby("task")["layer"].min()
    return {task: int(met[task]) if task in met else None for task in curve["task"].unique()}


CURVES = {
    "plain": INK,
    "vtw": BLUE,
    "random": ORANGE,
    "grid": GREEN,
    "vtw_random_layer": PURPLE,
    "vtw_random_tokens": RED,
    "blind": "#888888",
}


CURVE_GROUPS = {"system": "#BBBBBB", "visual": BLUE, "question": ORANGE, "answer": GREEN}


CURVE_MARKERS = {
    "plain": "s",
    "vtw": "o",
    "random": "^",
    "grid": "D",
    "vtw_random_layer": "v",
    "vtw_random_tokens": "X",
}


def attention_figure(shares: pd.DataFrame) -> Figure:
    """Where attention goes, layer by layer. ``shares``: rows, layer, group, share; one panel for each ``rows``."""
    panels = list(dict.fromkeys(shares["rows"]))
    figure, axes = subplots(1, len(panels), figsize=(PAGE, 2.1), sharey=True, squeeze=False)
    for axis, rows in zip(axes[0], panels, strict=True):
        wide = shares[shares["rows"] == rows].pivot(index="layer", columns="group", values="share")
        wide = wide[[group for group in CURVE_GROUPS if group in wide]].fillna(0.0)
        axis.stackplot(
            wide.index, wide.to_numpy().T, colors=[CURVE_GROUPS[g] for g in wide], labels=list(wide), lw=0.6, ec="white"
        )
        axis.set(title=f"{rows} rows", xlabel="decoder layer", xlim=(wide.index.min(), wide.index.max()), ylim=(0, 1))
        axis.grid(visible=False)
    axes[0, 0].set_ylabel("share of attention")
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside right center", title="to")
    return figure


def divergence_figure(
    curves: Mapping[str, Mapping[int, float]],
    spread: Mapping[int, Sequence[float]],
    thresholds: Mapping[float, int | None],
) -> Figure:
    """Divergence against the layer: a curve for each direction, single samples behind the first, thresholds with the
    layer each of them chooses."""
    figure, axis = subplots(figsize=(COLUMN * 1.35, 2.5))
    floor = max(1e-9, min(v for curve in curves.values() for v in curve.values() if v > 0) / 3)
    for layer, values in spread.items():
        axis.plot([layer] * len(values), np.maximum(values, floor), ".", color=BLUE, alpha=0.18, ms=3, mew=0)
    for (name, curve), color, marker in zip(curves.items(), (BLUE, ORANGE), "os", strict=False):
        axis.plot(list(curve), np.maximum(list(curve.values()), floor), marker=marker, color=color, label=name)
    for threshold, layer in thresholds.items():
        axis.axhline(threshold, color="#777777", lw=0.7, ls="--")
        label = f"η = {threshold:g}: " + ("no layer" if layer is None else f"layer {layer}")
        axis.annotate(label, (1.0, threshold), xycoords=("axes fraction", "data"), xytext=(3, 0),
                      textcoords="offset points", va="center", fontsize=6.5, annotation_clip=False)  # fmt: skip
        if layer is not None:
            axis.plot([layer], [threshold], marker="v", color=RED, ms=5, zorder=5)
    axis.set(yscale="log", xlabel="withdrawal layer K", ylabel="KL divergence (nats)", xticks=list(spread))
    axis.set_ylim(bottom=floor / 1.5)
    axis.legend(loc="lower left")
    return figure


def score_by_layer_figure(
    curve: pd.DataFrame, baseline: pd.DataFrame, blind: pd.DataFrame, chosen: int | None, columns: int = 4
) -> Figure:
    """One panel a task: accuracy against K with its interval, beside the whole model and the model without picture.

    ``curve``: task, layer, accuracy, low, high. ``baseline`` and ``blind``: task, accuracy, low, high.
    """
    tasks = list(dict.fromkeys(curve["task"]))
    lines = -(-len(tasks) // columns)
    figure, axes = subplots(
        lines, columns, figsize=(PAGE, 1.55 * lines + 0.25), sharex=True, sharey=True, squeeze=False
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        part = curve[curve["task"] == task].sort_values("layer")
        for frame, color, style, name in ((baseline, INK, "-", "whole"), (blind, "#888888", ":", "blind")):
            row = frame[frame["task"] == task].iloc[0]
            axis.axhspan(row["low"], row["high"], color=color, alpha=0.1, lw=0)
            axis.axhline(row["accuracy"], color=color, ls=style, lw=1.0, label=name)
        axis.fill_between(part["layer"], part["low"], part["high"], color=BLUE, alpha=0.2, lw=0)
        axis.plot(part["layer"], part["accuracy"], marker="o", ms=3, color=BLUE, label="VTW")
        if chosen is not None:
            axis.axvline(chosen, color=RED, lw=0.9, ls="--", label="K chosen by KL")
        axis.set(title=task, ylim=(-0.03, 1.03), xticks=sorted(part["layer"])[::2])
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    below = axes.flat[max(0, len(tasks) - columns) : len(tasks)]
    for axis in below:
        axis.set_xlabel("withdrawal layer K")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if len(tasks) < lines * columns:
        axes.flat[len(tasks)].legend(handles, labels, loc="center")
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def frontier_figure(points: pd.DataFrame) -> Figure:
    """Relative score against relative FLOPs: columns run, flops, score, low, high (all relative to the whole model)."""
    figure, axis = subplots(figsize=(COLUMN * 1.35, 2.6))
    axis.axhline(1.0, color="#999999", lw=0.7)
    for run, part in points.groupby("run", sort=False):
        part = part.sort_values("flops")
        error = [part["score"] - part["low"], part["high"] - part["score"]]
        style = {"color": CURVES.get(run, INK), "marker": CURVE_MARKERS.get(run, "o"), "label": run.replace("_", " ")}
        axis.errorbar(part["flops"], part["score"], yerr=error, lw=1.1, elinewidth=0.6, capsize=0, **style)
    axis.set(xlabel="prefill FLOPs, share of the whole model", ylabel="score, share of the whole model")
    axis.set_xlim(0, 1.05)
    axis.legend(loc="lower right")
    return figure


SCORES = ("fraction", "%", "points", "CIDEr")  # units in which papers print scores


NO_SCORE = ("error", "saving", "ratio", "kept", "tokens", "average")  # in the names of columns that are none


def relative_table(
    published: pd.DataFrame, papers: Sequence[str], models: Sequence[str], method: str = "VTW"
) -> Styler:
    """Printed scores of ``method`` divided by the same table's unreduced ones, benchmarks in order of what is kept."""
    scores = published[
        published["unit"].isin(SCORES) & published["paper"].isin(papers) & published["model"].isin(models)
    ]
    scores = scores[~scores["column"].str.contains("|".join(NO_SCORE))]
    where = ["paper", "version", "table", "model", "column"]
    plain = scores[scores["method"] == "vanilla"].set_index(where)["number"]
    ours = scores[scores["method"] == method].set_index(where)
    kept = ours.assign(kept=ours["number"] / plain.reindex(ours.index)).dropna(subset="kept").reset_index()
    kept["line"] = kept["paper"] + ", " + kept["model"] + ", " + kept["row"]
    out = kept.pivot_table(index="column", columns="line", values="kept", sort=False)
    out = out.loc[out.mean(axis=1).sort_values(ascending=False).index]
    return out.rename_axis(index=None, columns=None).style.format("{:.0%}", na_rep="")


def efficiency_table(model: str, layers: Sequence[int], text_tokens: int) -> pd.DataFrame:
    """VTW's cost at a model's true shape, computed on the meta device: the whole model, and one line per layer.

    Columns: TFLOPs by the paper's formula, by a profiler's count, and as torch counts them operation by operation; the
    key-value cache in MB (1e6 bytes, 2-byte elements); and the share of the profiler's FLOPs that is left.
    """
    from thinsight.config.compose import load_config
    from thinsight.costs.meta_device import cost_report

    out = []
    for layer in layers:
        overrides = [f"model={model}", "method=vtw", f"method.layer={layer}", f"text_tokens={text_tokens}"]
        found = cost_report(load_config(overrides))
        counts = {name: found["conventions"][name] for name in FLOPS} | {"counted": found["counted"]["decoder"]}
        for which, kept in (("full", None), ("reduced", layer)):
            line = {name: count[which] / 1e12 for name, count in counts.items()}
            left = counts["profiler"][which] / counts["profiler"]["full"]
            out.append({"model": model, "K": kept, **line, "KV MB": found["kv_bytes"][which] / 1e6, "left": left})
    return pd.DataFrame(out).drop_duplicates(["model", "K"], ignore_index=True).astype({"K": "Int64"})


def by_convention(model: str, layer: int, text_tokens: int, published: pd.DataFrame) -> Styler:
    """One prefill of ``model``, whole and under VTW at ``layer``, in T by every convention, each beside those TFLOPs
    that papers print for the same cell and that it gives by `thinsight.ledger.verdicts.meets`; the rest stand in the last
    line."""
    from thinsight.config.compose import load_config
    from thinsight.costs.meta_device import cost_report

    config = load_config([f"model={model}", "method=vtw", f"method.layer={layer}", f"text_tokens={text_tokens}"])
    printed, lines = {which: _printed(published, model, k) for which, k in (("full", None), ("reduced", layer))}, []
    met: dict[str, set[str]] = {which: set() for which in printed}
    for name, of in cost_report(config)["conventions"].items():
        line = {"convention": name.replace("_", " "), "counts": of["counts"]}
        for which, title in (("full", "whole"), ("reduced", f"K = {layer}")):
            value = of[which] / 1e12
            same = [text for text in printed[which] if meets(text.split(" ")[0], value)]
            met[which] |= set(same)
            line |= {f"{title}, T": f"{value:.2f}", f"{title}, printed": ", ".join(same)}
        lines.append(line | {"FLOPs left": f"{of['ratio']:.0%}"})
    rest = {which: ", ".join(text for text in texts if text not in met[which]) for which, texts in printed.items()}
    lines.append(
        dict.fromkeys(lines[0], "")
        | {"convention": "none of these", "whole, printed": rest["full"], f"K = {layer}, printed": rest["reduced"]}
    )
    left = {"selector": "td.col1", "props": "text-align: left"}
    return pd.DataFrame(lines).style.hide(axis="index").set_table_styles([left])


def _printed(published: pd.DataFrame, model: str, layer: int | None) -> list[str]:
    """``8.5 (ShortV)`` for each TFLOPs that a paper prints for ``model``: whole, or under VTW at ``layer``."""
    rows = published[(published["column"] == "TFLOPs") & published["model"].map(_config_name).eq(model)]
    wanted = rows["row"].str.fullmatch("vanilla" if layer is None else f"VTW K ?=? ?{layer}")
    if layer is not None:  # the method's own table does not say its layer
        wanted |= (rows["row"] == "VTW") & (rows["paper"] == "VTW")
    return [f"{value} ({paper})" for value, paper in zip(rows["value"][wanted], rows["paper"][wanted], strict=True)]


def _config_name(model: str) -> str:
    """A model's name in ``conf/model`` from what papers call it: LLaVA-1.5-7B is llava_1_5_7b."""
    return model.lower().replace("-", "_").replace(".", "_")


def layers_by_task(layers: pd.DataFrame, results: pd.DataFrame, threshold: float) -> Styler:
    """``layers``: for each threshold (column) the layer that the questions of a task (index) choose; beside it what
    the task's own layer at ``threshold`` leaves of its score on test questions, and what the whole model has."""
    title = f"η = {threshold:g}"
    out = layers.copy()
    scored = {run: score_cells(results, run).set_index(["task", "budget"])["accuracy"] for run in ("plain", "vtw")}
    for task, layer in layers[title].dropna().items():
        if (task, f"layer={layer}") in scored["vtw"].index:
            out.loc[task, f"score at {title}"] = scored["vtw"][task, f"layer={layer}"]
            out.loc[task, "whole model"] = scored["plain"][task, "fixed"]
    shares = dict.fromkeys([name for name in out if not name.startswith("η")], "{:.1%}")
    return out.rename_axis("questions of").style.format(shares, na_rep="none")


def beside_published(saved: pd.DataFrame, published: pd.DataFrame) -> Styler:
    """`efficiency_table` with the TFLOPs that papers print for the same model and layer."""
    pairs = zip(saved["model"], saved["K"], strict=True)
    texts = [", ".join(_printed(published, model, None if pd.isna(layer) else layer)) for model, layer in pairs]
    titles = {"fastv": "formula, T", "profiler": "profiler, T", "counted": "torch, T", "left": "FLOPs left"}
    out = saved.assign(printed=texts).rename(columns=titles)
    forms = dict.fromkeys(["formula, T", "profiler, T", "torch, T"], "{:.2f}") | {
        "KV MB": "{:.1f}",
        "FLOPs left": "{:.0%}",
    }
    return out.style.format(forms | {"K": lambda k: "whole" if pd.isna(k) else f"{k}"}).hide(axis="index")


def vtw_finding(results: pd.DataFrame, answers: pd.DataFrame, layer: int | None, base: str) -> str:
    """What VTW's page found, in two sentences of markdown, from the same numbers as its table."""
    if layer is None or f"layer={layer}" not in set(score_cells(results, "vtw")["budget"]):
        return "The criterion chose **no layer** that this sweep scored, so nothing can be said of its choice."
    lines: Mapping[str, tuple[str, Sequence[str]]] = {"whole": (base, ["fixed"]), "vtw": ("vtw", [f"layer={layer}"])}
    table = compare(results, answers, lines, base="whole")
    whole, ours = (table[table["line"] == name].set_index("task") for name in lines)
    left = (ours["profiler"] / whole["profiler"]).mean()
    lost = ours[ours["high"] < 0].sort_values("difference")
    means = f"{whole['accuracy'].mean():.1%} to {ours['accuracy'].mean():.1%}"
    names = ", ".join(f"{task} ({row['difference']:+.1%})" for task, row in lost.iterrows()) or "none of the tasks"
    return (
        f"Divergence chooses **layer {layer}**: {left:.0%} of the prefill FLOPs are left, and the mean score goes from "
        f"{means}. Losses that the paired intervals are sure of: {names}."
    )
