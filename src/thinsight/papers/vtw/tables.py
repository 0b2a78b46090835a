"""Tables of the page on VTW: published scores, costs at true shapes, and each task's own layer.

Every function returns a frame; `report.tables.board` shows it.
"""

from collections.abc import Sequence
from functools import cache

import pandas as pd

from thinsight.analysis.results import FLOPS, score_cells
from thinsight.config.compose import load_config
from thinsight.costs.meta_device import cost_report
from thinsight.ledger.verdicts import meets

SCORES = ("fraction", "%", "points", "CIDEr")
"""Units in which papers print scores."""

NO_SCORE = ("error", "saving", "ratio", "kept", "tokens", "average")
"""Words in the names of columns that hold no score."""


def published_shares(published: pd.DataFrame, papers: Sequence[str], models: Sequence[str]) -> pd.DataFrame:
    """Printed scores of VTW divided by the same table's unreduced ones, benchmarks in order of what is kept."""
    rows = published["unit"].isin(SCORES) & published["paper"].isin(papers) & published["model"].isin(models)
    scores = published[rows & ~published["column"].str.contains("|".join(NO_SCORE))]
    cell = ["paper", "version", "table", "model", "column"]
    whole = scores[scores["method"] == "vanilla"].set_index(cell)["number"]
    reduced = scores[scores["method"] == "VTW"].set_index(cell)
    kept = reduced.assign(kept=reduced["number"] / whole.reindex(reduced.index)).dropna(subset="kept").reset_index()
    kept["line"] = kept["paper"] + ", " + kept["model"] + ", " + kept["row"]
    out = kept.pivot_table(index="column", columns="line", values="kept", sort=False)
    return out.loc[out.mean(axis=1).sort_values(ascending=False).index].rename_axis(index="benchmark", columns=None)


def layer_table(layers: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """``layers``: for each threshold (column) the layer that the questions of a task (index) choose; beside it the
    score on test questions at the task's own layer for the first threshold, and the whole model's score."""
    first = layers.columns[0]
    scores = {run: score_cells(results, run).set_index(["task", "budget"])["accuracy"] for run in ("plain", "vtw")}
    out = layers.astype("string").fillna("none").rename_axis("questions of")
    for task, layer in layers[first].dropna().items():
        if (task, f"layer={layer}") in scores["vtw"].index:
            out.loc[task, f"score at {first}"] = f"{scores['vtw'][task, f'layer={layer}']:.1%}"
            out.loc[task, "whole model"] = f"{scores['plain'][task, 'fixed']:.1%}"
    return out


def prefill_costs(model: str, layers: Sequence[int], text_tokens: int) -> pd.DataFrame:
    """VTW's cost at a model's true shape, computed on the meta device: the whole model, and one line per layer.

    Columns: TFLOPs by the paper's formula, by a profiler's count, and as torch counts them operation by operation; the
    key-value cache in MB (1e6 bytes, 2-byte elements); and the share of the profiler's FLOPs that is left.
    """
    lines = []
    for layer in layers:
        report = _report(model, layer, text_tokens)
        counts = {name: report["conventions"][name] for name in FLOPS} | {"counted": report["counted"]["decoder"]}
        for which, kept in (("full", None), ("reduced", layer)):
            line = {name: count[which] / 1e12 for name, count in counts.items()}
            left = counts["profiler"][which] / counts["profiler"]["full"]
            lines.append({"model": model, "K": kept, **line, "KV MB": report["kv_bytes"][which] / 1e6, "left": left})
    return pd.DataFrame(lines).drop_duplicates(["model", "K"], ignore_index=True).astype({"K": "Int64"})


def cost_table(costs: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """`prefill_costs` as text, by model and K; ``printed``: the TFLOPs that papers print for the same cell."""
    titles = {"fastv": "formula, T", "profiler": "profiler, T", "counted": "torch, T"}
    out = costs[list(titles)].map("{:.2f}".format).rename(columns=titles)
    out["KV MB"], out["FLOPs left"] = costs["KV MB"].map("{:.1f}".format), costs["left"].map("{:.0%}".format)
    cells = zip(costs["model"], costs["K"], strict=True)
    out["printed"] = [", ".join(_printed(published, *cell)) for cell in cells]
    return out.set_index([costs["model"], costs["K"].astype("string").fillna("whole")])


def convention_table(model: str, layer: int, text_tokens: int, published: pd.DataFrame) -> pd.DataFrame:
    """One prefill of ``model``, whole and under VTW at ``layer``, in T by every convention, each beside those
    of the TFLOPs that papers print for the same cell which it meets (`ledger.verdicts.meets`); the last line has the
    others."""
    printed = {"full": _printed(published, model, None), "reduced": _printed(published, model, layer)}
    titles, met, lines = {"full": "whole", "reduced": f"K = {layer}"}, set(), []
    for name, counted in _report(model, layer, text_tokens)["conventions"].items():
        line = {"convention": name.replace("_", " "), "counts": counted["counts"]}
        for which, title in titles.items():
            value = counted[which] / 1e12
            same = [text for text in printed[which] if meets(text.split(" ")[0], value)]
            met |= {(which, text) for text in same}
            line |= {f"{title}, T": f"{value:.2f}", f"{title}, printed": ", ".join(same)}
        lines.append(line | {"FLOPs left": f"{counted['ratio']:.0%}"})
    lines.append(dict.fromkeys(lines[0], "") | {"convention": "none of these"})
    for which, title in titles.items():
        lines[-1][f"{title}, printed"] = ", ".join(text for text in printed[which] if (which, text) not in met)
    return pd.DataFrame(lines).set_index("convention")


@cache
def _report(model: str, layer: int, text_tokens: int) -> dict:
    overrides = [f"model={model}", "method=vtw", f"method.layer={layer}", f"text_tokens={text_tokens}"]
    return cost_report(load_config(overrides))


def _printed(published: pd.DataFrame, model: str, layer: int | None) -> list[str]:
    """``8.5 (ShortV)`` for each TFLOPs that a paper prints for ``model``: whole, or under VTW at ``layer``."""
    names = published["model"].str.lower().str.replace(r"[-.]", "_", regex=True)  # LLaVA-1.5-7B is llava_1_5_7b
    rows = published[(published["column"] == "TFLOPs") & (names == model)]
    wanted = rows["row"].str.fullmatch("vanilla" if pd.isna(layer) else f"VTW K ?=? ?{layer}")
    if not pd.isna(layer):  # the method's own table does not name its layer
        wanted |= (rows["row"] == "VTW") & (rows["paper"] == "VTW")
    return [f"{value} ({paper})" for value, paper in zip(rows["value"][wanted], rows["paper"][wanted], strict=True)]
