"""Tables of the page on efficiency."""

from html import escape

import pandas as pd

from thinsight.config.catalogue import CONTROL, FAMILIES
from thinsight.costs.memory import BYTES
from thinsight.costs.model_costs import ModelSizes, method_cost
from thinsight.papers.efficiency.claims import ROWS, attention_maps
from thinsight.papers.efficiency.page import Efficiency
from thinsight.report.tables import board

COSTS = {
    "kept": ("kept", "{:.0f}"),
    "layer_mean": ("layer\nmean", "{:.1f}"),
    "fastv_left": ("FLOPs,\nformula", "{:.1%}"),
    "profiler_left": ("FLOPs,\nprofiler", "{:.1%}"),
    "vision_share": ("vision,\nshare", "{:.1%}"),
    "cache": ("KV\nMB", "{:.1f}"),
    "activations": ("activations\nMB", "{:.1f}"),
    "peak": ("peak\nGB", "{:.2f}"),
}
"""Column of `method_costs` -> its heading and format; bytes are in MB, the peak in GB."""


def baseline_table(page: Efficiency) -> str:
    """Printed totals of the whole model, and the conventions that give them."""
    table = page.baselines
    texts = [
        "does not count" if pd.isna(least) else f"{least} to {greatest}" if greatest > least else f"{least}"
        for least, greatest in zip(table["least"], table["greatest"], strict=True)
    ]
    rounds = table["off"].map(lambda off: "yes" if off == 0 else f"no: {off:+.2%}")
    frame = table[["papers", "layers", "convention"]].rename(columns={"papers": "by"})
    frame = frame.assign(**{"text tokens": texts, "rounds to it": rounds})
    frame.index = pd.Index(table["value"] + " " + table["column"].str[0], name="printed")
    return board(frame, text=["by", "convention"], tooltips=pd.DataFrame({"convention": table["counts"]}))


def models_table(page: Efficiency) -> str:
    """The whole models: tokens, FLOPs, bytes of weights, cache and activations, cache and weights in three types."""
    lines = {}
    for title, model in page.sizes.items():
        cost = method_cost(model, model.whole)
        lines[title] = {
            ("tokens", "visual"): f"{model.prefill.total}",
            ("prefill, T", "formula"): f"{cost['fastv'] / 1e12:.2f}",
            ("prefill, T", "profiler"): f"{cost['profiler'] / 1e12:.2f}",
            ("prefill, T", "vision"): f"{cost['vision'] / 1e12:.2f}",
            ("weights", "GB"): f"{sum(model.weights.values()) / 1e9:.1f}",
            **{("KV cache, MB", kind): f"{cost['cache'] / 1e6 * size / 2:.1f}" for kind, size in BYTES.items()},
            ("activations, MB", "fused"): f"{cost['activations'] / 1e6:.0f}",
            ("activations, MB", "eager"): f"{cost['eager'] / 1e6:.0f}",
            ("activations, MB", "tower"): f"{model.alive / 1e6:.0f}",
        }
    return board(pd.DataFrame(lines).T.rename_axis("model"))


def costs_table(page: Efficiency) -> str:
    """`method_costs`: behind a click for each model a block per budget, methods of equal costs in one line."""
    parts = []
    for title, model in page.sizes.items():
        costs = page.costs[page.costs["model"] == model.name]
        refused = costs[costs["why"] != ""].drop_duplicates("method")
        because = refused.groupby(refused["why"].str.rstrip("."), sort=False)["title"].agg(_short)
        parts.append(
            f"<details{' open' * (title == page.title)}><summary><strong>{title}</strong> "
            f"<span>{model.prefill.total} visual and {model.prefill.text} text tokens, {model.tiles} "
            f"tile{'s' * (model.tiles > 1)}</span></summary>"
            + _costs_board(costs[costs["why"] == ""], model)
            + "".join(f"<p>Not counted: {names}, because {escape(why)}.</p>" for why, names in because.items())
            + "</details>"
        )
    return f'<div class="particulars">{"".join(parts)}</div>'


def _costs_board(costs: pd.DataFrame, model: ModelSizes) -> str:
    whole = method_cost(model, model.whole) | {"kept": model.prefill.total, "layer_mean": model.prefill.total}
    lines = [{"block": "", "title": "whole model", "note": "", **whole, "fastv_left": 1.0, "profiler_left": 1.0}]
    for share, part in costs.groupby("share", sort=False):
        place = part["family"].replace(CONTROL, FAMILIES[1])  # a random subset is drawn before the decoder
        block = []
        for (where, *_), same in part.groupby([place, *(part[name].round(6) for name in COSTS)], sort=False):
            first = same.iloc[0]
            note = f"{where} · {first['fields']}" if first["fields"].startswith("layer") else where
            line = {"block": f"a budget of {share * model.prefill.total:.0f} tokens", "title": _short(same["title"])}
            block.append(line | {"note": note, **first[list(COSTS)]})
        lines += sorted(block, key=lambda line: (line["layer_mean"], line["note"]))
    table = pd.DataFrame(lines)
    table = table.assign(cache=table["cache"] / 1e6, activations=table["activations"] / 1e6, peak=table["peak"] / 1e9)
    index = pd.MultiIndex.from_frame(table[["block", "title"]], names=[None, "methods with equal costs"])
    frame = table[list(COSTS)].astype(float).set_axis([head for head, _ in COSTS.values()], axis=1).set_axis(index)
    return board(frame, formats=dict(COSTS.values()), notes=list(table["note"]), controls=list(table["block"] == ""))


def _short(titles: pd.Series) -> str:
    """Titles without what stands in brackets."""
    return ", ".join(titles.str.partition(" (")[0])


def budgets_table(page: Efficiency) -> str:
    """What published settings keep and cost."""
    titles = {"layer_mean": "layer mean", "alone": "T, visual only", "every": "T, with text", "left": "FLOPs left",
              "same": "for a mean equal to the label"}  # fmt: skip
    table = page.budgets.assign(label=page.budgets["label"].map("{}".format, na_action="ignore").fillna(""))
    formats = {"layer mean": "{:.1f}", "T, visual only": "{:.3f}", "T, with text": "{:.3f}", "FLOPs left": "{:.1%}"}
    return board(table.rename(columns=titles).set_index("setting"), formats=formats, text=["source"])


def attention_table(page: Efficiency) -> str:
    """Bytes of attention: what methods of each kind ask of one decoder layer here, and what maps take."""
    asked = page.attention[page.attention["where"] == "decoder"]
    methods = asked.groupby("rows", sort=False)["title"].agg(", ".join)
    table = pd.DataFrame(
        {
            f"{title},\n{model.prefill.total + model.prefill.text} tokens": attention_maps(model)
            for title, model in page.sizes.items()
        }
    )
    table = table.drop(index=[kind for kind in ROWS.values() if kind not in methods])
    return board(
        table.rename(index=lambda kind: f"{kind}: {methods[kind]}" if kind in methods else kind), formats=_bytes
    )


def memory_table(page: Efficiency) -> str:
    """Printed gigabytes, bytes held and bytes moved."""
    tokens, moved = "tokens,\nlayer mean", "read and\nwritten"
    titles = {"cache": "printed KV, MB", "tokens": tokens, "printed": "printed, GB", "held": "held, fused",
              "eager": "held, eager", "moved": moved}  # fmt: skip
    frame = page.memory.drop(columns="meets").rename(columns=titles).set_index("by")
    formats = {"held, fused": "{:.1f}", "held, eager": "{:.1f}", moved: "{:.1f}", tokens: "{:.0f}"}
    bold = pd.DataFrame({moved: page.memory["meets"]})
    return board(frame, formats=formats, bold=bold, text=["model", "type", "run"])


def _bytes(size: float) -> str:
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
