"""What the formulae give for a printed cost: lengths at the true shape of the model, counted as the paper counts."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from omegaconf import DictConfig

from thinsight.conventions import CONVENTIONS
from thinsight.cost import Shape, flops, kv_bytes
from thinsight.errors import UserError
from thinsight.papers import Counting

DECODERS = {  # printed name -> the file of conf/model with that decoder, visual tokens of a picture
    "LLaVA-1.5-7B": ("llava_1_5_7b", 576),
    "LLaVA-1.5-13B": ("llava_1_5_13b", 576),
    "LLaVA-NeXT-7B": ("llava_next_vicuna_7b", 2880),
    "LLaVA-NeXT-13B": ("llava_1_5_13b", 2880),  # the same Vicuna-13B
    "Video-LLaVA": ("llava_1_5_7b", 2056),  # taken to be 7B: its printed costs come out so
}
COSTS = ("TFLOPs", "GFLOPs", "TFLOPs ratio", "FLOPs ratio", "FLOPs saving", "KV MB")
"""Columns that a formula gives."""
UNITS = ("T", "1e9", "% of vanilla", "% less", "% less (up to)", "% less (theoretical)", "MB")
"""Units of theirs that are one number of operations, bytes, or a share."""


@dataclass(frozen=True)
class Computed:
    """``value`` on the printed scale, None if nothing gives it, and ``how``, or why not; ``known``: see `Counting`."""

    value: float | None
    how: str
    known: bool = False


def total(model: str) -> int | None:
    """Visual tokens of a picture of the printed model, where they are known."""
    return DECODERS[model][1] if model in DECODERS else None


def fields_of(method: str, row: str) -> dict[str, Any]:
    """The fields that a row's label says: ``VTW K=15``, ``FastV K2 50 %`` (the share that leaves)."""
    layer, share = re.search(r"\bK ?=? ?(\d+)", row), re.search(r"(\d+) ?%", row)
    found: dict[str, Any] = {"layer": int(layer[1])} if layer and method in ("vtw", "fastv") else {}
    return found | ({"keep": 1 - int(share[1]) / 100} if found and share else {})


def computed(
    column: str, model: str, method: str, tokens: int | None, row: str, printed: float, way: Counting
) -> Computed:
    """A `Computed` for one printed cost.

    method   its name in ``conf/method``; "" for the whole model
    tokens   visual tokens of the setting, if it has any
    printed  to choose the nearest of the conventions by, where the way of counting is not known
    """
    if column not in COSTS:
        return Computed(None, "no formula gives it")
    if model not in DECODERS:
        return Computed(None, f"the shape of {model or 'the model'} is not stated or not here")
    shape, whole = shape_of(DECODERS[model][0]), DECODERS[model][1]
    fields = fields_of(method, row) or dict(way.fields.get(method, {}))
    try:
        visual, said = _visual(shape, whole, method, tokens, fields, way)
    except UserError as error:
        return Computed(None, str(error))
    if way.convention is not None or column == "KV MB":
        value = _cost(column, shape, visual, whole, way)
        return Computed(value, f"{_named(column, way)}, {said}", way.known)
    tried = {c.name: _cost(column, shape, visual, whole, replace(way, convention=c.name)) for c in CONVENTIONS}
    name = min(tried, key=lambda name: abs(math.log(max(tried[name], 1e-9) / printed)))
    others = ", ".join(f"{key} {value:.3g}" for key, value in tried.items() if key != name)
    return Computed(tried[name], f"nearest of the conventions: {name}, {said} (others: {others})")


def uniform_tokens(column: str, model: str, printed: float, way: Counting) -> int | None:
    """How many visual tokens in every layer would give the printed cost: for telling what a label may have meant."""
    if model not in DECODERS or way.convention is None or column not in COSTS:
        return None
    shape, whole = shape_of(DECODERS[model][0]), DECODERS[model][1]
    low, high = 0, whole
    ends = [_cost(column, shape, [n] * shape.layers, whole, way) for n in (low, high)]
    if not min(ends) < printed < max(ends):
        return None
    grows = ends[1] > ends[0]
    while high - low > 1:
        middle = (low + high) // 2
        below = (_cost(column, shape, [middle] * shape.layers, whole, way) <= printed) == grows
        low, high = (middle, high) if below else (low, middle)
    return low


@cache
def shape_of(model: str) -> Shape:
    """The decoder of ``conf/model/<model>.yaml``."""
    from thinsight.meta import decoder_shape
    from thinsight.models import meta_model

    return decoder_shape(meta_model(model))


def _visual(
    shape: Shape, whole: int, method: str, tokens: int | None, fields: dict[str, Any], way: Counting
) -> tuple[list[int], str]:
    """Visual tokens entering each layer, and that in words. A setting that is not known is a `UserError`."""
    text = f"{way.text} text tokens"
    if not method:
        return [whole] * shape.layers, f"{whole} visual and {text}"
    if way.tokens == "every layer" and tokens is not None:
        return [tokens] * shape.layers, f"{tokens} visual and {text} in every layer"
    if not fields and tokens is None:
        raise UserError("the setting's tokens are not stated")
    if not fields:
        fields = _solved(method, shape.layers, whole, way.tokens, tokens)
    visual = _played(method, shape.layers, whole, tuple(sorted(fields.items())))
    said = ", ".join(f"{key}={value:g}" for key, value in fields.items())
    return list(visual), f"{method} with {said} of {whole} visual, and {text}"


@cache
def _played(method: str, layers: int, whole: int, fields: tuple[tuple[str, Any], ...]) -> Sequence[int]:
    from thinsight.config import load_method
    from thinsight.solve import Stage, play

    return tuple(play(load_method(_node(method), **dict(fields)), Stage(layers, whole)).visual)


@cache
def _solved(method: str, layers: int, whole: int, measure: str, tokens: int) -> dict[str, Any]:
    from thinsight.solve import Stage, solve

    return solve(_node(method), Stage(layers, whole), "layer_mean" if measure == "layer mean" else "kept", tokens)


@cache
def _node(method: str) -> DictConfig:
    from thinsight.config import load_config

    return load_config([f"method={method}"]).method


def _cost(column: str, shape: Shape, visual: Sequence[int], whole: int, way: Counting) -> float:
    """The number of ``column`` on its printed scale."""
    lengths = [n + way.text for n in visual]
    if column == "KV MB":
        return kv_bytes(shape, lengths) * way.element_bytes / 2 / way.megabyte
    convention = next(c for c in CONVENTIONS if c.name == way.convention)
    count = flops(shape, lengths, convention, visual=visual)
    if column in ("TFLOPs", "GFLOPs"):
        return way.share * count / (1e12 if column == "TFLOPs" else 1e9)
    full = [whole] * shape.layers
    ratio = 100 * count / flops(shape, [n + way.text for n in full], convention, visual=full)
    return 100 - ratio if column == "FLOPs saving" else ratio


def _named(column: str, way: Counting) -> str:
    if column == "KV MB":
        said = f"keys and values of {way.element_bytes:g} bytes, MB of {way.megabyte:,} bytes"
    else:
        said = str(way.convention) + (f" times {way.share:g}" if way.share != 1 else "")
    return said + {"fitted": " (fitted)", "unknown": " (prompt length not stated)"}.get(way.reading, "")
