"""Tables of the page on efficiency."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.config.catalogue import CONTROL, FAMILIES
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.memory import BYTES
from thinsight.costs.model_costs import ModelSizes, method_cost
from thinsight.ledger.verdicts import meets
from thinsight.papers.efficiency.claims import AttentionMaps
from thinsight.report.tables import render

PRINTED_UNITS = ("T", "1e9", "MB", "GB", "ms", "s", "min:s", "it/s", "images/s", "requests/s")


COLUMNS = ("FLOPs", "memory", "KV MB", "time", "latency", "speed-up", "throughput")


def efficient(published: pd.DataFrame) -> pd.DataFrame:
    """The printed numbers that are about efficiency: costs in bytes and operations, shares of them, and times."""
    named = published["column"].str.contains("|".join(COLUMNS), case=False)
    return published[published["unit"].isin(PRINTED_UNITS) | named]


def printed_for(title: str, one: ModelSizes, whole: pd.DataFrame) -> dict[str, Any]:
    """What `printed_whole` says; ``whole``: `thinsight.papers.efficiency.claims.baseline_conventions` of the model ``title``."""
    numbers = whole[whole["layers"] == one.stage.shape.layers].drop_duplicates("value")
    return {
        "model": title,
        "baselines": len(numbers),
        "lowest": numbers["value"].iloc[0],
        "highest": numbers["value"].iloc[-1],
        "rounded": int((numbers["off"] == 0).sum()),
    }


def left_by(one: ModelSizes, found: pd.DataFrame) -> dict[str, Any]:
    """What `printed_label` says; ``found``: `thinsight.costs.model_costs.method_costs`."""
    least = found["share"].min()
    own = found[(found["model"] == one.name) & (found["share"] == least) & (found["why"] == "")]
    return {
        "label": round(least * one.stage.total),
        "left": [float(own["profiler_left"].min()), float(own["profiler_left"].max())],
        "dearest": own.sort_values("profiler_left")["title"].iloc[-1].partition(" (")[0],
    }


def efficiency_facts(
    sizes: Mapping[str, ModelSizes], found: pd.DataFrame, whole: pd.DataFrame, printed: pd.DataFrame
) -> dict[str, Any]:
    """The numbers that `efficiency_finding` says. ``whole``: `thinsight.papers.efficiency.claims.baseline_conventions`; ``printed``: `footprints`."""
    least, shares = found["share"].min(), {}
    for title, one in sizes.items():
        own = found[(found["model"] == one.name) & (found["share"] == least) & (found["method"] == "random")]
        shares[title] = (method_cost(one, one.whole)["vision_share"], float(own["vision_share"].iloc[0]))
    title, first = next(iter(sizes.items()))
    weights, printed = sum(first.weights.values()), printed[printed["cache"] != ""]
    return {
        **printed_for(title, first, whole),
        **left_by(first, found),
        "vision_share": shares,
        "weights_share": weights / method_cost(first, first.whole)["peak"],
        "memory": {
            "printed": len(printed),
            "moved": int(printed["meets"].sum()),
            "held": sum(meets(value, held) for value, held in zip(printed["printed"], printed["held"], strict=True)),
        },
    }


def printed_whole(said: Mapping[str, Any]) -> str:
    """How many of the numbers printed for the whole model come out."""
    return (
        f"The whole {said['model']} is printed as {said['lowest']} T to {said['highest']} T; "
        f"{said['rounded']} of the {said['baselines']} numbers come out to their last digit in one of "
        f"{len(CONVENTIONS)} ways of counting."
    )


def printed_label(said: Mapping[str, Any]) -> str:
    """What the smallest label leaves."""
    low, high = said["left"]
    return (
        f"**A label of {said['label']} tokens leaves {low:.0%} to {high:.0%} of the decoder's FLOPs** "
        f"({said['dearest']} the most), depending on where a method cuts."
    )


def efficiency_finding(said: Mapping[str, Any]) -> str:
    """``efficiency_facts`` in words, in paragraphs."""
    most = max(said["vision_share"], key=lambda title: said["vision_share"][title][1])
    before, after = said["vision_share"][most]
    memory = said["memory"]
    told = [
        f"{printed_whole(said)} {printed_label(said)}",
        f"Weights are {said['weights_share']:.0%} of the memory at one prompt, so no reduction saves much of it there. "
        f"On {most} the vision tower grows from {before:.0%} to {after:.0%} of a prefill.",
    ]
    if memory["printed"]:
        told.append(
            f"Of the {memory['printed']} gigabytes that a calculator gave in print, {memory['moved']} come out as "
            f"bytes read and written, and {memory['held'] or 'none'} as bytes held at once."
        )
    return "\n\n".join([*told, "Times are not run: no GPU here."])


CELLS = ("kept", "layer_mean", "fastv_left", "profiler_left", "vision_share", "cache", "activations", "peak")


def baseline_table(found: pd.DataFrame) -> Styler:
    """`thinsight.papers.efficiency.claims.baseline_conventions` for reading."""

    def text(line: pd.Series) -> str:
        if pd.isna(line["least"]):
            return "does not count"
        return f"{line['least']}" + (f" to {line['greatest']}" if line["greatest"] > line["least"] else "")

    def printed(line: pd.Series) -> str:
        return f"{line['value']} {'G' if line['column'] == 'GFLOPs' else 'T'}"

    out = pd.DataFrame(
        {
            "printed": found.apply(printed, axis=1),
            "by": found["papers"],
            "layers": found["layers"],
            "convention": found["convention"],
            "text tokens": found.apply(text, axis=1),
            "rounds to it": found["off"].map(lambda off: "yes" if off == 0 else f"no: {off:+.2%}"),
        }
    )
    return _left(out.style.hide(axis="index"), ["by", "convention"])


def models_table(sizes: Mapping[str, ModelSizes]) -> Styler:
    """The whole models: tokens, FLOPs, bytes of weights, cache and activations, cache and weights in three types."""
    out = {}
    for title, one in sizes.items():
        found, weight = method_cost(one, one.whole), sum(one.weights.values())
        line: dict[tuple[str, str], Any] = {
            ("tokens", "visual"): f"{one.stage.total}",
            ("prefill, T", "formula"): f"{found['fastv'] / 1e12:.2f}",
            ("prefill, T", "profiler"): f"{found['profiler'] / 1e12:.2f}",
            ("prefill, T", "vision"): f"{found['vision'] / 1e12:.2f}",
        }
        line |= {("weights", "GB"): f"{weight / 1e9:.1f}"}
        line |= {("KV cache, MB", kind): f"{found['cache'] / 1e6 * size / 2:.1f}" for kind, size in BYTES.items()}
        line |= {("activations, MB", name): f"{found[key] / 1e6:.0f}" for name, key in
                 (("fused", "activations"), ("eager", "eager"))}  # fmt: skip
        line |= {("activations, MB", "tower"): f"{one.alive / 1e6:.0f}"}
        out[title] = line
    return pd.DataFrame(out).T.style


def costs_table(found: pd.DataFrame, sizes: Mapping[str, ModelSizes]) -> str:
    """`thinsight.costs.model_costs.method_costs` as HTML: a table per model, a block per budget, equal costs in one line."""
    return render("costs.html.j2", models=[_model(found[found["model"] == s.name], t, s) for t, s in sizes.items()])


def budget_labels_table(found: pd.DataFrame) -> Styler:
    """`thinsight.papers.efficiency.claims.budget_labels` for reading."""
    titles = {"layer_mean": "layer mean", "alone": "T, visual only", "every": "T, with text", "left": "FLOPs left",
              "same": "for a mean equal to the label"}  # fmt: skip
    out = found.rename(columns=titles).style.hide(axis="index")
    forms = {"layer mean": "{:.1f}", "T, visual only": "{:.3f}", "T, with text": "{:.3f}", "FLOPs left": "{:.1%}"}
    return _left(out.format(forms | {"label": lambda n: "" if pd.isna(n) else f"{n}"}), ["setting", "source"])


def attention_table(found: Mapping[str, AttentionMaps], asked: pd.DataFrame) -> Styler:
    """Bytes of attention: what methods of each kind ask of one decoder layer here, and what maps take. ``asked``: what
    `thinsight.papers.efficiency.claims.attention_bytes` says of the first model, for the names."""
    here = asked[asked["where"] == "decoder"].groupby("rows", sort=False)["title"].agg(", ".join)
    out = {}
    for title, one in found.items():
        asks = dict(
            zip(("one row", "the question's rows", "all visual rows"), (one.row, one.question, one.visual), strict=True)
        )
        line = {f"{kind}: {here[kind]}": size for kind, size in asks.items() if kind in here}
        line |= {"map of one layer": one.map, "the same while eager attention makes it": one.workspace}
        out[f"{title}, {one.tokens} tokens"] = line | {"maps of all layers, kept": one.kept}
    return pd.DataFrame(out).map(_bytes).style


def memory_table(found: pd.DataFrame) -> Styler:
    """`thinsight.papers.efficiency.claims.printed_memory` for reading."""
    titles = {
        "cache": "printed KV, MB",
        "tokens": "tokens, layer mean",
        "printed": "printed, GB",
        "held": "held, fused",
        "eager": "held, eager",
        "moved": "read and written",
    }
    out = found.drop(columns="meets").rename(columns=titles)
    bold = found["meets"].map({True: "font-weight: 650", False: ""})
    style = out.style.hide(axis="index").apply(lambda _: bold, subset=["read and written"])
    forms = dict.fromkeys(("held, fused", "held, eager", "read and written"), "{:.1f}")
    return _left(style.format(forms | {"tokens, layer mean": "{:.0f}"}, na_rep="–"), ["by", "model", "type", "run"])


def _model(found: pd.DataFrame, title: str, one: ModelSizes) -> dict[str, Any]:
    whole = method_cost(one, one.whole) | {"kept": one.stage.total, "layer_mean": one.stage.total}
    whole |= {"fastv_left": 1.0, "profiler_left": 1.0}
    blocks = [{"head": "", "lines": [{"title": "whole model", "note": "", "cells": _cells(whole)}]}]
    for share, part in found[found["why"] == ""].groupby("share", sort=False):
        blocks.append({"head": f"a budget of {share * one.stage.total:.0f} tokens", "lines": _lines(part)})
    refused = found[found["why"] != ""].drop_duplicates("method").groupby("why", sort=False)["title"].agg(list)
    note = f"{one.stage.total} visual and {one.stage.text} text tokens, {one.tiles} tile{'s' * (one.tiles > 1)}"
    return {"title": title, "note": note, "blocks": blocks, "refused": _merged(refused)}


def _merged(refused: pd.Series) -> dict[str, list[str]]:
    """Sentence -> titles, sentences that differ in the method's name alone taken as one."""
    out: dict[str, list[str]] = {}
    for sentence, titles in refused.items():
        out.setdefault(sentence.rstrip("."), []).extend(title.partition(" (")[0] for title in titles)
    return out


def _lines(part: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of one budget: methods of one family whose cells read the same share a line."""
    part = part.assign(cells=[tuple(_cells(line)) for _, line in part.iterrows()])
    out = []
    place = part["family"].replace(CONTROL, FAMILIES[1])  # a random subset is drawn before the decoder
    for (family, cells), same in part.groupby([place, "cells"], sort=False):
        names = [title.partition(" (")[0] for title in same["title"]]
        layer = same["fields"].iloc[0] if same["fields"].str.startswith("layer").all() else ""
        out.append({"title": ", ".join(names), "note": " · ".join(filter(None, [family, layer])), "cells": cells})
    return sorted(out, key=lambda line: (float(line["cells"][1]), line["note"]))


def _cells(line: Mapping[str, float]) -> list[str]:
    shares = [f"{line[name]:.1%}" for name in CELLS[2:5]]
    sizes = [f"{line['cache'] / 1e6:.1f}", f"{line['activations'] / 1e6:.1f}", f"{line['peak'] / 1e9:.2f}"]
    return [f"{line['kept']:.0f}", f"{line['layer_mean']:.1f}", *shares, *sizes]


def _bytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _left(style: Styler, columns: Sequence[str]) -> Styler:
    heads = [
        {"selector": f"th.col_heading.col{style.columns.get_loc(name)}", "props": "text-align: left"}
        for name in columns
    ]
    style = style.set_properties(subset=list(columns), **{"text-align": "left"})
    return style.set_table_styles(heads, overwrite=False)
