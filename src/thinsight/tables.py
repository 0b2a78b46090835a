"""The tables of the pages: frames of `thinsight.results` and of the papers, styled for reading."""

from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.results import FLOPS, cells, compare

SCORES = ("fraction", "%", "points", "CIDEr")  # units in which papers print scores
NO_SCORE = ("error", "saving", "ratio", "kept", "tokens", "average")  # in the names of columns that are none


def comparison(table: pd.DataFrame, base: str) -> Styler:
    """`results.compare` with a column per task in %, the mean over tasks, and costs as shares of the line ``base``.

    A dagger marks a score whose paired interval of the difference to ``base`` excludes zero.
    """
    order, tasks = list(dict.fromkeys(table["line"])), list(dict.fromkeys(table["task"]))
    out = table.pivot(index="line", columns="task", values="accuracy").loc[order, tasks]
    out["mean"] = out.mean(axis=1)
    sure = (table["low"] > 0) | (table["high"] < 0)
    marks = table.assign(mark=sure.map({True: "†", False: ""})).pivot(index="line", columns="task", values="mark")
    text = (100 * out).map("{:.1f}".format)
    text[tasks] = text[tasks] + marks.loc[order, tasks]
    costs = table.groupby("line")[[*FLOPS, "kv_bytes"]].mean().loc[order]
    titles = ("FLOPs, formula", "FLOPs, profiler", "KV bytes")
    for name, title in zip((*FLOPS, "kv_bytes"), titles, strict=True):
        text[title] = (costs[name] / costs.loc[base, name]).map("{:.0%}".format)
    return text.rename_axis(index=None, columns=None).style


def relative(published: pd.DataFrame, papers: Sequence[str], models: Sequence[str], method: str = "VTW") -> Styler:
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


def efficiency(model: str, layers: Sequence[int], text_tokens: int) -> pd.DataFrame:
    """VTW's cost at a model's true shape, computed on the meta device: the whole model, and one line per layer.

    Columns: TFLOPs by the paper's formula, by a profiler's count, and as torch counts them operation by operation; the
    key-value cache in MB (1e6 bytes, 2-byte elements); and the share of the profiler's FLOPs that is left.
    """
    from thinsight.config import load_config
    from thinsight.meta import report

    out = []
    for layer in layers:
        overrides = [f"model={model}", "method=vtw", f"method.layer={layer}", f"text_tokens={text_tokens}"]
        found = report(load_config(overrides))
        counts = {name: found["conventions"][name] for name in FLOPS} | {"counted": found["counted"]["decoder"]}
        for which, kept in (("full", None), ("reduced", layer)):
            line = {name: count[which] / 1e12 for name, count in counts.items()}
            left = counts["profiler"][which] / counts["profiler"]["full"]
            out.append({"model": model, "K": kept, **line, "KV MB": found["kv_bytes"][which] / 1e6, "left": left})
    return pd.DataFrame(out).drop_duplicates(["model", "K"], ignore_index=True).astype({"K": "Int64"})


def beside_published(saved: pd.DataFrame, published: pd.DataFrame) -> Styler:
    """`efficiency` with the TFLOPs that papers print for the same model and layer."""
    printed = published[published["column"] == "TFLOPs"]
    key = printed["model"].str.lower().str.replace(r"[-.]", "_", regex=True)
    texts = []
    for model, layer in zip(saved["model"], saved["K"], strict=True):
        wanted = printed["row"].str.fullmatch("vanilla" if pd.isna(layer) else f"VTW K ?=? ?{layer}")
        if not pd.isna(layer):  # the method's own table does not say its layer
            wanted |= (printed["row"] == "VTW") & (printed["paper"] == "VTW")
        rows = printed[(key == model) & wanted]
        texts.append(", ".join(f"{value} ({paper})" for value, paper in zip(rows["value"], rows["paper"], strict=True)))
    titles = {"fastv": "formula, T", "profiler": "profiler, T", "counted": "torch, T", "left": "FLOPs left"}
    out = saved.assign(printed=texts).rename(columns=titles)
    forms = dict.fromkeys(["formula, T", "profiler, T", "torch, T"], "{:.2f}") | {
        "KV MB": "{:.1f}",
        "FLOPs left": "{:.0%}",
    }
    return out.style.format(forms | {"K": lambda k: "whole" if pd.isna(k) else f"{k}"}).hide(axis="index")


def vtw_finding(results: pd.DataFrame, answers: pd.DataFrame, layer: int | None, base: str) -> str:
    """What VTW's page found, in two sentences of markdown, from the same numbers as its table."""
    if layer is None or f"layer={layer}" not in set(cells(results, "vtw")["budget"]):
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
