"""The tables of the pages: frames of `thinsight.results` and of the papers, styled for reading."""

from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.results import FLOPS, cells, compare
from thinsight.verdict import meets

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


def by_convention(model: str, layer: int, text_tokens: int, published: pd.DataFrame) -> Styler:
    """One prefill of ``model``, whole and under VTW at ``layer``, in T by every convention, each beside those TFLOPs
    that papers print for the same cell and that it gives by `thinsight.verdict.meets`; the rest stand in the last
    line."""
    from thinsight.config import load_config
    from thinsight.meta import report

    config = load_config([f"model={model}", "method=vtw", f"method.layer={layer}", f"text_tokens={text_tokens}"])
    printed, lines = {which: _printed(published, model, k) for which, k in (("full", None), ("reduced", layer))}, []
    met: dict[str, set[str]] = {which: set() for which in printed}
    for name, of in report(config)["conventions"].items():
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
    scored = {run: cells(results, run).set_index(["task", "budget"])["accuracy"] for run in ("plain", "vtw")}
    for task, layer in layers[title].dropna().items():
        if (task, f"layer={layer}") in scored["vtw"].index:
            out.loc[task, f"score at {title}"] = scored["vtw"][task, f"layer={layer}"]
            out.loc[task, "whole model"] = scored["plain"][task, "fixed"]
    shares = dict.fromkeys([name for name in out if not name.startswith("η")], "{:.1%}")
    return out.rename_axis("questions of").style.format(shares, na_rep="none")


def beside_published(saved: pd.DataFrame, published: pd.DataFrame) -> Styler:
    """`efficiency` with the TFLOPs that papers print for the same model and layer."""
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
