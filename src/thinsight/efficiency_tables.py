"""The tables of the page on efficiency."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.catalogue import CONTROL, FAMILIES, render
from thinsight.efficiency import Size, cost
from thinsight.looked import Maps
from thinsight.memory import BYTES

CELLS = ("kept", "layer_mean", "fastv_left", "profiler_left", "vision_share", "cache", "activations", "peak")


def puzzle(found: pd.DataFrame) -> Styler:
    """`thinsight.puzzle.baselines` for reading."""

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


def models(sizes: Mapping[str, Size]) -> Styler:
    """The whole models: tokens, FLOPs, bytes of weights, cache and activations, cache and weights in three types."""
    out = {}
    for title, one in sizes.items():
        found, weight = cost(one, one.whole), sum(one.weights.values())
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


def board(found: pd.DataFrame, sizes: Mapping[str, Size]) -> str:
    """`thinsight.efficiency.costs` as HTML: a table per model, a block per budget, equal costs in one line."""
    return render("costs.html.j2", models=[_model(found[found["model"] == s.name], t, s) for t, s in sizes.items()])


def labels(found: pd.DataFrame) -> Styler:
    """`thinsight.labels.labels` for reading."""
    titles = {"layer_mean": "layer mean", "alone": "T, visual only", "every": "T, with text", "left": "FLOPs left",
              "same": "for a mean equal to the label"}  # fmt: skip
    out = found.rename(columns=titles).style.hide(axis="index")
    forms = {"layer mean": "{:.1f}", "T, visual only": "{:.3f}", "T, with text": "{:.3f}", "FLOPs left": "{:.1%}"}
    return _left(out.format(forms | {"label": lambda n: "" if pd.isna(n) else f"{n}"}), ["setting", "source"])


def attention(found: Mapping[str, Maps], asked: pd.DataFrame) -> Styler:
    """Bytes of attention: what methods of each kind ask of one decoder layer here, and what maps take. ``asked``: what
    `thinsight.looked.looked` says of the first model, for the names."""
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


def memory(found: pd.DataFrame) -> Styler:
    """`thinsight.footprint.footprints` for reading."""
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


def _model(found: pd.DataFrame, title: str, one: Size) -> dict[str, Any]:
    whole = cost(one, one.whole) | {"kept": one.stage.total, "layer_mean": one.stage.total}
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
