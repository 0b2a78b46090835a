"""Printed costs and memory beside what the formulae give."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from thinsight.config.methods import load_method
from thinsight.costs.budgets import Stage, simulate, solve_budget
from thinsight.costs.conventions import CONVENTIONS, PYRAMIDDROP, PYRAMIDDROP_VISUAL, Convention
from thinsight.costs.flops import DecoderShape, flops
from thinsight.costs.memory import BYTES, memory_traffic, peak_memory
from thinsight.errors import UserError
from thinsight.ledger.verdicts import meets

if TYPE_CHECKING:
    from thinsight.config.catalogue import MethodEntry
    from thinsight.costs.model_costs import ModelSizes


WHERE = ["paper", "version", "table", "model", "row"]


GB = 1e9


def printed_memory(
    published: pd.DataFrame, sizes: Mapping[str, "ModelSizes"], entries: Sequence["MethodEntry"]
) -> pd.DataFrame:
    """One line per printed "memory GB" of a model in ``sizes`` (printed name -> its `ModelSizes`), in GB of 1e9 bytes.

    Where the table prints the cache too, it is a calculator's: ``tokens`` is read off the cache (keys and values of so
    many in every layer), weights, cache and activations have the printed ``type``, and ``moved`` is
    `thinsight.costs.memory.memory_traffic`, which ``meets`` the printed number to its digits or within 1 %, or does not. Else it was
    measured on some GPU: the method of ``entries`` is played with its count, with the size's own text.
    ``held``: weights, and the most of cache and activations at once, fused; ``eager``: the same with attention maps.
    """
    cache = published[published["column"] == "KV MB"].set_index(WHERE)["value"]
    names = {entry.title.partition(" (")[0]: entry.name for entry in entries}
    out = []
    for _, row in published[published["column"] == "memory GB"].iterrows():
        if row["model"] not in sizes:
            continue
        one = sizes[row["model"]]
        kind = (re.search(r"INT\d|4-bit", row["row"]) or ["FP16"])[0]
        line = {"by": row["paper"], "model": row["model"], "type": kind, "run": row["row"].partition(", ")[0]}
        found = cache.get(tuple(row[WHERE]))
        if found is None:
            lengths, moved = _played(one, names, row), None
        else:
            element = BYTES[kind]
            tokens = round(float(found) * 1e6 / (2 * one.stage.shape.keys * one.stage.shape.layers * element))
            lengths, moved = (
                [tokens] * one.stage.depth,
                memory_traffic(one.stage.shape, one.heads, tokens, element) / GB,
            )
        if lengths is None:
            continue
        line |= {"cache": found or "", "tokens": sum(lengths) / len(lengths), "printed": row["value"]}
        line |= {"held": _held(one, lengths, kind), "eager": _held(one, lengths, kind, "eager"), "moved": moved}
        out.append(line | {"meets": moved is not None and meets(row["value"], moved)})
    table = pd.DataFrame(out)
    order = {name: at for at, name in enumerate(sizes)}
    rank = table["model"].map(order) + 10 * (table["cache"] == "")
    return table.assign(rank=rank).sort_values(["rank", "by"], kind="stable", ignore_index=True).drop(columns="rank")


def _played(one: "ModelSizes", names: Mapping[str, str], row: pd.Series) -> list[int] | None:
    """Tokens entering each layer under the method of a printed row, or None if that is not known."""
    if row["method"] == "vanilla":
        visual: Sequence[int] = one.whole
    elif row["method"] in names and row["tokens"]:
        visual = simulate(load_method(names[row["method"]], keep=int(row["tokens"])), one.stage).visual
    else:
        return None
    return [n + one.stage.text for n in visual]


def _held(one: "ModelSizes", lengths: Sequence[int], kind: str, attention: str = "fused") -> float:
    """GB of weights, and of cache and activations; 4-bit weights leave the others in half precision."""
    found: Any = peak_memory(one.stage.shape, one.heads, lengths, attention).at
    weight, scale = sum(one.weights.values()), BYTES.get(kind, 2) / 2
    return (weight * (0.25 if kind == "4-bit" else scale) + found * scale) / GB


@dataclass(frozen=True)
class PublishedSetting:
    """A setting under which a method is published: ``label`` tokens (None: it has no such label) of LLaVA-1.5's 576."""

    title: str
    method: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    label: int | None = None
    source: str = ""


BUDGETS = (192, 128, 64)


SETTINGS = (
    PublishedSetting("FastV, K = 2, R = 50 %", "fastv", {"layer": 2, "keep": 0.5}, None, "the paper's headline"),
    PublishedSetting("FastV, K = 3, R = 50 %", "fastv", {"layer": 3, "keep": 0.5}, None, "the repository's README"),
    *(
        PublishedSetting(f"FastV, K = 2, keeps {b}", "fastv", {"layer": 2, "keep": b}, b, "count after the cut")
        for b in BUDGETS
    ),
    *(
        PublishedSetting(f"FastV, K = 3, keeps {b}", "fastv", {"layer": 3, "keep": b}, b, "count after the cut")
        for b in BUDGETS
    ),
    PublishedSetting(
        "PyramidDrop, as released", "pyramiddrop", {"ratios": [0.5, 0.25, 0.125]}, None, "layers 8, 16, 24"
    ),
    *(PublishedSetting(f"SparseVLM {b}", "sparsevlm", {"keep": b}, b, "table in the released code") for b in BUDGETS),
    *(
        PublishedSetting(f"SparseVLM+ {b}", "sparsevlm_v2", {"keep": b}, b, "table in the released code")
        for b in BUDGETS
    ),
    *(
        PublishedSetting(f"DART {b}", "dart", {"keep": b, "exact": False}, b, "image pivots come on top")
        for b in BUDGETS
    ),
    PublishedSetting(
        "FiCoCo-L, 14 a layer", "ficoco_l", {"leave": 14, "start": 5}, None, "released code, layers 5 to 31"
    ),
    PublishedSetting("VTW, K = 16", "vtw", {"layer": 16}, None, "the released default"),
)
"""Settings of methods that cut inside the decoder, each as its paper or code has it; source: where it is from."""


def budget_labels(stage: Stage, other: int = 95) -> pd.DataFrame:
    """One line per `PublishedSetting`: kept, mean over layers, FLOPs, and the knob that makes the mean equal to the label.

    Counted with three MLP matrices, a multiply-add as one: ``alone``, of visual tokens only (T0), and ``every``, with
    ``other`` tokens of template and question in each layer (T95 for 95), both in T; ``left`` is the latter's share of
    the whole model's; ``same`` the field and value whose mean over layers is the label, or why there is none.
    """
    out = []
    for setting in SETTINGS:
        played = simulate(load_method(setting.method, **setting.fields), stage)
        alone, every = (_count(stage, played.visual, text) for text in (0, other))
        out.append(
            {
                "setting": setting.title,
                "source": setting.source,
                "label": setting.label,
                "kept": played.kept,
                "layer_mean": played.layer_mean,
                "alone": alone / 1e12,
                "every": every / 1e12,
                "left": every / _count(stage, [stage.total] * stage.depth, other),
                "same": _same(setting, stage),
            }
        )
    return pd.DataFrame(out).astype({"label": "Int64"})


def _count(stage: Stage, visual: list[int], text: int) -> int:
    convention = PYRAMIDDROP if text else PYRAMIDDROP_VISUAL
    return flops(stage.shape, [n + text for n in visual], convention, visual=visual)


def _same(setting: PublishedSetting, stage: Stage) -> str:
    """The knob with which the mean over layers is the label."""
    if setting.label is None:
        return ""
    fixed = {key: value for key, value in setting.fields.items() if key != "keep"}
    try:
        return f"keep={solve_budget(setting.method, stage, 'layer_mean', setting.label, **fixed)['keep']}"
    except UserError as error:
        return str(error)


MAP_ROWS = {
    "fastv": ("decoder", "one"),
    "pyramiddrop": ("decoder", "one"),
    "sparsevlm": ("decoder", "question"),
    "sparsevlm_v2": ("decoder", "question"),
    "mustdrop": ("decoder", "question"),
    "ficoco_l": ("decoder", "all"),
    "ficoco_vl": ("decoder", "all"),
    "fastervlm": ("tower", "one"),
    "visionzip": ("tower", "one"),
    "vispruner": ("tower", "one"),
    "evit": ("tower", "one"),
    "ficoco_v": ("tower", "all"),
}
"""Methods that look at attention: where, and the most rows that they ask one layer for at a time: that of the last or
the class token, those of the question (SparseVLM: of its raters, at most), or those of all visual tokens."""


MAP_TEXTS = {"one": "one row", "question": "the question's rows", "all": "all visual rows"}


@dataclass(frozen=True)
class AttentionMaps:
    """Bytes at one prompt length, in the decoder: one ``row``, the ``question``'s rows and all ``visual`` ones in
    float32, as they are asked for here; one layer's ``map`` in half precision, its ``workspace`` while eager attention
    makes it, and all layers' maps if they are ``kept``."""

    tokens: int
    row: int
    question: int
    visual: int
    map: int
    workspace: int
    kept: int


def attention_maps(one: "ModelSizes") -> AttentionMaps:
    """`AttentionMaps` of a model's whole prompt."""
    n = one.stage.total + one.stage.text
    cells = one.heads * n * n
    row = 4 * one.heads * n
    asked = (row, row * (one.stage.text // 2), row * one.stage.total)
    return AttentionMaps(n, *asked, 2 * cells, 10 * cells, 2 * cells * one.stage.depth)


def attention_bytes(one: "ModelSizes", entries: Sequence["MethodEntry"], heads: int = 16) -> pd.DataFrame:
    """One line per method that looks at attention: where, rows, the bytes of the largest question it puts to one layer,
    and their share of that layer's whole map in half precision.

    ``heads``: of the tower. Half of the text stands behind the picture, the question.
    """
    out = []
    for entry in entries:
        if entry.name not in MAP_ROWS or (MAP_ROWS[entry.name][0] == "tower" and one.tower is None):
            continue
        where, kind = MAP_ROWS[entry.name]
        patches = one.stage.total // one.tiles
        visual, columns, each = (patches, patches + 1, heads) if where == "tower" else (
            one.stage.total, one.stage.total + one.stage.text, one.heads)  # fmt: skip
        rows = {"one": 1, "question": one.stage.text // 2, "all": visual}[kind]
        found = 4 * each * rows * columns
        line = {"method": entry.name, "title": entry.title, "where": where, "rows": MAP_TEXTS[kind], "cost": entry.cost}
        out.append(line | {"bytes": found, "share": found / (2 * each * columns**2)})
    return pd.DataFrame(out)


UNITS = {"TFLOPs": 1e12, "GFLOPs": 1e9}


FEWER = r"INT\d"  # rows of quantised models, whose operations are printed as fewer


def baseline_flops(shape: DecoderShape, visual: int, text: int, convention: Convention) -> int:
    """Operations of the whole model's prefill of ``visual`` and ``text`` tokens."""
    lengths = [visual + text] * shape.layers
    return flops(shape, lengths, convention, visual=[visual] * shape.layers)


def ways_to_count(
    printed: str, scale: float, shape: DecoderShape, visual: int, most: int
) -> tuple[list[tuple[Convention, int, int]], float]:
    """The conventions that round to what is ``printed``, each with the least and greatest number of text tokens up to
    ``most`` that does, and 0.0; if none does, the nearest alone, and how far off it is as a share of the number."""
    digits, wanted, near, found = len(printed.partition(".")[2]), float(printed), [], []
    for convention in CONVENTIONS:
        counts = {
            text: baseline_flops(shape, visual, text, convention) / scale
            for text in ([0] if convention.visual_only else range(most + 1))
        }
        met = [text for text, count in counts.items() if round(count, digits) == wanted]
        if met:
            found.append((convention, met[0], met[-1]))
        best = min(counts, key=lambda text, counts=counts: abs(counts[text] - wanted))
        near.append((counts[best] / wanted - 1, convention, best))
    if found:
        return found, 0.0
    off, convention, text = min(near, key=lambda one: abs(one[0]))
    return [(convention, text, text)], off


def baseline_conventions(
    published: pd.DataFrame, model: str, shape: DecoderShape, visual: int, most: int = 128
) -> pd.DataFrame:
    """One line per number printed for the whole ``model``, and per convention that gives it with 0 to ``most`` of text.

    value, column, papers, layers (one where the row says so); convention, what it ``counts``, the ``least`` and
    ``greatest`` number of text tokens (none where text does not count), ``off``: 0, or how far the nearest is off where
    no convention rounds to the number; number: the value in operations.
    """
    own = published[(published["model"] == model) & (published["method"] == "vanilla")]
    own = own[own["column"].isin(UNITS) & ~own["row"].str.contains(FEWER)]
    out = []
    for (value, column), part in own.groupby(["value", "column"], sort=False):
        counted = replace(shape, layers=1) if part["row"].str.contains("one layer").all() else shape
        line = {"value": value, "column": column, "papers": ", ".join(dict.fromkeys(part["paper"]))}
        line |= {"layers": counted.layers, "number": float(value) * UNITS[column]}
        found, off = ways_to_count(value, UNITS[column], counted, visual, most)
        for way, least, greatest in found:
            texts = dict.fromkeys(("least", "greatest")) if way.visual_only else {"least": least, "greatest": greatest}
            out.append(line | {"convention": way.name, "counts": way.sentence} | texts | {"off": off})
    table = pd.DataFrame(out).astype({"least": "Int64", "greatest": "Int64"})
    return table.sort_values("number", kind="stable", ignore_index=True)
