"""Printed totals, budgets and gigabytes, and the bytes of attention, as the formulae give them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from thinsight.config.catalogue import MethodEntry
from thinsight.config.methods import load_method
from thinsight.costs.budgets import PrefillSizes, simulate, solve_budget
from thinsight.costs.conventions import CONVENTIONS, PYRAMIDDROP, PYRAMIDDROP_VISUAL, Convention
from thinsight.costs.flops import DecoderShape, prefill_flops
from thinsight.costs.memory import BYTES, memory_traffic, peak_memory
from thinsight.costs.model_costs import ModelSizes
from thinsight.errors import UserError
from thinsight.ledger.verdicts import meets
from thinsight.reduction.sites import BeforeProjector

CELL = ["paper", "version", "table", "model", "row"]
UNITS = {"TFLOPs": 1e12, "GFLOPs": 1e9}
QUANTISED = r"INT\d"  # rows of quantised models, whose operations are printed as fewer
LABELS = (192, 128, 64)  # of LLaVA-1.5's 576 visual tokens
TABLE = "table in the released code"

SETTINGS = (
    ("FastV, K = 2, R = 50 %", "the paper's headline", "fastv", {"layer": 2, "keep": 0.5}, ()),
    ("FastV, K = 3, R = 50 %", "the repository's README", "fastv", {"layer": 3, "keep": 0.5}, ()),
    ("FastV, K = 2, keeps", "count after the cut", "fastv", {"layer": 2}, LABELS),
    ("FastV, K = 3, keeps", "count after the cut", "fastv", {"layer": 3}, LABELS),
    ("PyramidDrop, as released", "layers 8, 16, 24", "pyramiddrop", {"ratios": [0.5, 0.25, 0.125]}, ()),
    ("SparseVLM", TABLE, "sparsevlm", {}, LABELS),
    ("SparseVLM+", TABLE, "sparsevlm_v2", {}, LABELS),
    ("DART", "image pivots come on top", "dart", {"exact": False}, LABELS),
    ("FiCoCo-L, 14 a layer", "released code, layers 5 to 31", "ficoco_l", {"leave": 14, "start": 5}, ()),
    ("VTW, K = 16", "the released default", "vtw", {"layer": 16}, ()),
)
"""Settings of methods that cut inside the decoder, each as its paper or code has it: title, where it is from, method,
fields, and the numbers of tokens by which it is named and which its ``keep`` is set to (none: it has no such label)."""


def baseline_conventions(
    published: pd.DataFrame, model: str, shape: DecoderShape, visual: int, most: int = 128
) -> pd.DataFrame:
    """One line per number printed for the whole ``model``, and per convention that gives it with 0 to ``most`` of text.

    value, column, papers, layers (one where the row says so), number: the value in operations; convention, what it
    ``counts``, ``least`` and ``greatest`` number of text tokens (none where text does not count), ``off``: 0, or how
    far the nearest convention is off, as a share of the number, where none rounds to it.
    """
    rows = published[(published["model"] == model) & (published["method"] == "vanilla")]
    rows = rows[rows["column"].isin(UNITS) & ~rows["row"].str.contains(QUANTISED)]
    out = []
    for (value, column), part in rows.groupby(["value", "column"], sort=False):
        counted = replace(shape, layers=1) if part["row"].str.contains("one layer").all() else shape
        line = {"value": value, "column": column, "papers": ", ".join(dict.fromkeys(part["paper"]))}
        line |= {"layers": counted.layers, "number": float(value) * UNITS[column]}
        for convention, *texts, off in _ways_to_count(value, UNITS[column], counted, visual, most):
            least, greatest = (None, None) if convention.visual_only else texts
            line |= {"convention": convention.name, "counts": convention.sentence}
            out.append(line | {"least": least, "greatest": greatest, "off": off})
    table = pd.DataFrame(out).astype({"least": "Int64", "greatest": "Int64"})
    return table.sort_values("number", kind="stable", ignore_index=True)


def _ways_to_count(
    printed: str, scale: float, shape: DecoderShape, visual: int, most: int
) -> list[tuple[Convention, int, int, float]]:
    """The conventions that round to what is ``printed``, each with the least and greatest number of text tokens up to
    ``most`` that does, and 0.0; if none does, the nearest alone, and how far off it is as a share of the number."""
    digits, number = len(printed.partition(".")[2]), float(printed)
    exact, nearest = [], []
    for convention in CONVENTIONS:
        texts = [0] if convention.visual_only else range(most + 1)
        counts = {text: prefill_flops(shape, [visual] * shape.layers, text, convention) / scale for text in texts}
        if met := [text for text, count in counts.items() if round(count, digits) == number]:
            exact.append((convention, met[0], met[-1], 0.0))
        best = min(counts, key=lambda text, counts=counts: abs(counts[text] - number))
        nearest.append((convention, best, best, counts[best] / number - 1))
    return exact or [min(nearest, key=lambda way: abs(way[3]))]


def published_budgets(sizes: PrefillSizes, text: int = 95) -> pd.DataFrame:
    """One line per label of `SETTINGS`: setting, source, label, kept, mean over layers, FLOPs.

    Counted with three MLP matrices, a multiply-add as one: ``alone``, of visual tokens only, and ``every``, with
    ``text`` tokens of template and question in each layer, both in T; ``left`` is the latter's share of the whole
    model's; ``same`` the field and value whose mean over layers is the label, or why there is none.
    """
    whole = prefill_flops(sizes.shape, [sizes.total] * sizes.depth, text, PYRAMIDDROP)
    out = []
    for title, source, method, fields, labels in SETTINGS:
        for label in labels or [None]:
            keep = {} if label is None else {"keep": label}
            counts, same = simulate(load_method(method, **fields, **keep), sizes), ""
            if label is not None:
                try:
                    same = f"keep={solve_budget(method, sizes, 'layer_mean', label, **fields)['keep']}"
                except UserError as error:
                    same = str(error)
            alone = prefill_flops(sizes.shape, counts.visual, 0, PYRAMIDDROP_VISUAL)
            every = prefill_flops(sizes.shape, counts.visual, text, PYRAMIDDROP)
            line = {"setting": f"{title} {label or ''}".strip(), "source": source, "label": label, "kept": counts.kept}
            line |= {"layer_mean": counts.layer_mean, "alone": alone / 1e12, "every": every / 1e12}
            out.append(line | {"left": every / whole, "same": same})
    return pd.DataFrame(out).astype({"label": "Int64"})


ROWS = {"one": "one row", "question": "the question's rows", "visual": "all visual rows"}
"""What a stage's ``attention_rows`` says: the most rows of attention that it asks one layer for at a time."""


def attention_maps(model: ModelSizes) -> dict[str, int]:
    """Bytes of attention in the decoder at the whole prompt: the `ROWS` of one layer in float32, as they are asked
    for here; one layer's map in half precision, its workspace while eager attention makes it, and all layers' maps."""
    total, text = model.prefill.total, model.prefill.text
    n, depth = total + text, model.prefill.depth
    row, cells = 4 * model.heads * n, model.heads * n * n
    sizes = dict(zip(ROWS.values(), (row, row * (text // 2), row * total), strict=True))
    sizes |= {"map of one layer": 2 * cells, "the same while eager attention makes it": 10 * cells}
    return sizes | {"maps of all layers, kept": 2 * cells * depth}


def attention_bytes(model: ModelSizes, entries: Sequence[MethodEntry], heads: int = 16) -> pd.DataFrame:
    """One line per method that reads attention: where, rows, the bytes of what it asks of one layer at most,
    and their share of that layer's whole map in half precision.

    ``heads``: of the tower. Half of the text stands behind the picture, the question.
    """
    out = []
    total, text = model.prefill.total, model.prefill.text
    tile = total // model.tiles
    places = {"decoder": (total, total + text, model.heads)}
    places |= {} if model.tower is None else {"tower": (tile, tile + 1, heads)}
    for entry in entries:
        asked = []
        for reduction in load_method(entry.name).reductions:
            stages = (reduction.filter, reduction.correlate, reduction.compress, reduction.order)
            kinds = {getattr(stage, "attention_rows", None) for stage in stages} - {None}
            where = "tower" if isinstance(reduction.site, BeforeProjector) else "decoder"
            if kinds and where in places:
                visual, columns, per = places[where]
                kind = max(kinds, key=list(ROWS).index)
                size = 4 * per * {"one": 1, "question": text // 2, "visual": visual}[kind] * columns
                asked.append((size, where, ROWS[kind], size / (2 * per * columns**2)))
        if asked:
            size, where, rows, share = max(asked)
            line = {"method": entry.name, "title": entry.title, "where": where, "rows": rows, "cost": entry.cost}
            out.append(line | {"bytes": size, "share": share})
    return pd.DataFrame(out)


def printed_memory(
    published: pd.DataFrame, sizes: Mapping[str, ModelSizes], entries: Sequence[MethodEntry]
) -> pd.DataFrame:
    """One line per printed "memory GB" of a model in ``sizes`` (printed name -> its `ModelSizes`), in GB of 1e9 bytes.

    Where the table prints the cache too, it is a calculator's: ``tokens`` is read off the cache (keys and values of so
    many in every layer), weights, cache and activations have the printed ``type``, and ``moved`` is
    `memory.memory_traffic`, which ``meets`` the printed number to its digits or within 1 %, or does not. Else it was
    measured on some GPU: the method of ``entries`` is simulated with its count, with the size's own text.
    ``held``: weights, and the most of cache and activations at once, fused; ``eager``: the same with attention maps.
    """
    caches = published[published["column"] == "KV MB"].set_index(CELL)["value"]
    methods = {entry.short: entry.name for entry in entries}
    out = []
    for _, row in published[(published["column"] == "memory GB") & published["model"].isin(list(sizes))].iterrows():
        model, cache, moved = sizes[row["model"]], caches.get(tuple(row[CELL]), ""), None
        kind = (re.search(r"INT\d|4-bit", row["row"]) or ["FP16"])[0]
        if cache:
            shape, element = model.prefill.shape, BYTES[kind]
            tokens = round(float(cache) * 1e6 / (2 * shape.keys * shape.layers * element))
            lengths, moved = [tokens] * model.prefill.depth, memory_traffic(shape, model.heads, tokens, element) / 1e9
        elif row["method"] == "vanilla":
            lengths = [n + model.prefill.text for n in model.whole]
        elif row["method"] in methods and row["tokens"]:
            counts = simulate(load_method(methods[row["method"]], keep=int(row["tokens"])), model.prefill)
            lengths = [n + model.prefill.text for n in counts.visual]
        else:
            continue
        line = {"by": row["paper"], "model": row["model"], "type": kind, "run": row["row"].partition(", ")[0]}
        line |= {"cache": cache, "tokens": sum(lengths) / len(lengths), "printed": row["value"]}
        line |= {"held": _held(model, lengths, kind), "eager": _held(model, lengths, kind, "eager"), "moved": moved}
        out.append(line | {"meets": moved is not None and meets(row["value"], moved)})
    table = pd.DataFrame(out)
    rank = table["model"].map(list(sizes).index) + 10 * (table["cache"] == "")
    return table.assign(rank=rank).sort_values(["rank", "by"], kind="stable", ignore_index=True).drop(columns="rank")


def _held(model: ModelSizes, lengths: Sequence[int], kind: str, attention: str = "fused") -> float:
    """GB of weights, and of cache and activations; 4-bit weights leave the others in half precision."""
    peak = peak_memory(model.prefill.shape, model.heads, lengths, attention).at
    weight, scale = sum(model.weights.values()), BYTES.get(kind, 2) / 2
    return (weight * (0.25 if kind == "4-bit" else scale) + peak * scale) / 1e9
