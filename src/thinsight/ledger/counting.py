"""How each paper counts FLOPs, and the value its formula gives for a printed cost."""

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import groupby
from typing import Any

from yaml import YAMLError

from thinsight.config.catalogue import printed_models
from thinsight.config.methods import load_method
from thinsight.config.yaml_files import read_yaml
from thinsight.costs.budgets import PrefillSizes, simulate, solve_budget
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.flops import DecoderShape, decoder_shape, kv_bytes, prefill_flops
from thinsight.errors import UserError, nearest
from thinsight.ledger.published import FOLDER

STEPS = 4  # lengths that a computation is named by, one by one
TOKENS = ("every layer", "method", "layer mean")
READINGS = ("stated", "fitted", "unknown")


@dataclass(frozen=True)
class Counting:
    """One way of counting, and the lines that it is for (``table``, ``model``, ``row``: regular expressions).

    convention     one of `thinsight.costs.conventions`; None: not known, so all are tried
    text           prompt tokens besides the picture
    tokens         what a setting's token count means: so many in "every layer"; what the "method" keeps, its layers
                   before the cut on top; or the mean over layers that the method is set to, "layer mean"
    reading        "stated" by the document; "fitted": one choice that meets several of its numbers; or "unknown"
    source         the sentence that says so
    fields         method -> its fields where the row does not say them
    share          of the operations, for a document that counts quantised ones as fewer, or one layer
    stands_for     the model and the visual tokens that are meant where a line states neither
    element_bytes  of the cache;  megabyte  how many bytes the document's MB has
    labels         whether the document names its settings by their TFLOPs, so that ``tokens`` were read off the label
    """

    table: str = ""
    model: str = ""
    row: str = ""
    convention: str | None = None
    text: int = 64
    tokens: str = "method"
    reading: str = "unknown"
    source: str = "the document does not say how it counts"
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    share: float = 1.0
    element_bytes: float = 2.0
    megabyte: int = 10**6
    stands_for: tuple[str, int] | None = None
    labels: bool = False

    def __post_init__(self) -> None:
        names = [c.name for c in CONVENTIONS]
        for what, value, known in (
            ("FLOPs convention", self.convention or names[0], names),
            ("reading of tokens", self.tokens, TOKENS),
            ("reading", self.reading, READINGS),
        ):
            if value not in known:
                raise nearest(what, value, known)

    def fits(self, table: str, model: str, row: str) -> bool:
        """Whether a line is counted so."""
        pairs = zip((self.table, self.model, self.row), (table, model, row), strict=True)
        return all(re.search(pattern, text) for pattern, text in pairs)


@cache
def countings() -> Mapping[str, Sequence[Counting]]:
    """Document -> its ways of counting, the first that fits a line first."""
    ways = {}
    for path in sorted((FOLDER / "counting").glob("*.yaml")):
        try:
            entry = read_yaml(path)
            ways[entry["paper"]] = tuple(Counting(**way) for way in entry["counts"])
        except (KeyError, TypeError, UnicodeDecodeError, YAMLError) as error:
            raise UserError(f"{path.name} is no description of how a paper counts: {error}") from error
    return ways


def counting(paper: str, table: str, model: str, row: str) -> Counting:
    """The way that a line of ``paper`` is counted; of a document or table without an entry, that nothing is known."""
    ways = countings().get(paper, ())
    return next((way for way in ways if way.fits(table, model, row)), Counting())


COSTS = ("TFLOPs", "GFLOPs", "TFLOPs ratio", "FLOPs ratio", "FLOPs saving", "KV MB")
"""Columns that a formula gives."""
COST_UNITS = ("T", "1e9", "% of vanilla", "% less", "% less (up to)", "% less (theoretical)", "MB")
"""Their units that are one number of operations, bytes, or a share."""


@dataclass(frozen=True)
class Computed:
    """``value`` on the printed scale, None if nothing gives it, and ``how``, or why not.

    computation  what was counted: the convention (or the cache), the model, and the tokens of each layer. Shares of it,
                 other units, and elements of other sizes are the same computation
    label        of a setting's label that is not the method's own cost, ``value``: what gives the label
    """

    value: float | None
    how: str
    computation: str = ""
    label: str = ""


def picture_tokens(model: str) -> int | None:
    """Visual tokens of a picture of the printed model, where they are known."""
    return printed_models().get(model, ("", None))[1]


def fields_of(method: str, row: str) -> dict[str, Any]:
    """The fields that a row's label says: ``VTW K=15``, ``FastV K2 50 %`` (the share that leaves)."""
    layer, share = re.search(r"\bK ?=? ?(\d+)", row), re.search(r"(\d+) ?%", row)
    fields: dict[str, Any] = {"layer": int(layer[1])} if layer and method in ("vtw", "fastv") else {}
    return fields | ({"keep": 1 - int(share[1]) / 100} if fields and share else {})


def compute_cost(
    column: str, model: str, method: str, tokens: int | None, row: str, printed: float, way: Counting
) -> Computed:
    """A `Computed` for one printed cost.

    method   its name in ``conf/method``; "" for the whole model
    tokens   visual tokens of the setting, if it has any
    printed  to choose the nearest of the conventions by, where the way of counting is not known
    """
    if column not in COSTS:
        return Computed(None, "no formula gives it")
    if model not in printed_models():
        return Computed(None, f"the shape of {model or 'the model'} is not stated or not here")
    name, whole = printed_models()[model]
    shape = shape_of(name)
    fields = fields_of(method, row) or dict(way.fields.get(method, {}))
    try:
        visual, text = _visual(shape, whole, method, tokens, fields, way)
        own, own_text = _own(shape, whole, method, tokens, way) or (visual, text)
    except UserError as error:
        return Computed(None, str(error))
    cost = partial(_cost, column, shape, whole=whole)
    if way.convention is not None or column == "KV MB":
        found = Computed(
            cost(own, way=way), f"{_name_of_way(column, way)}, {own_text}", _computation(column, name, own, way)
        )
        return found if own == visual else replace(found, label=f"{text}, gives {cost(visual, way=way):.4g}")
    ways = {c.name: replace(way, convention=c.name) for c in CONVENTIONS}
    tried = {convention: cost(visual, way=way) for convention, way in ways.items()}
    nearest = min(tried, key=lambda name: abs(math.log(max(tried[name], 1e-9) / printed)))
    others = ", ".join(f"{key} {value:.3g}" for key, value in tried.items() if key != nearest)
    how = f"nearest of the conventions: {nearest}, {text} (others: {others})"
    return Computed(tried[nearest], how, _computation(column, name, visual, ways[nearest]))


def uniform_tokens(column: str, model: str, printed: float, way: Counting) -> int | None:
    """How many visual tokens in every layer would give the printed cost: for telling what a label may have meant."""
    if model not in printed_models() or way.convention is None or column not in COSTS:
        return None
    name, whole = printed_models()[model]
    shape, sign = shape_of(name), -1 if column == "FLOPs saving" else 1  # a saving falls with the number of tokens
    costs = partial(_cost, column, shape, whole=whole, way=way)
    above = bisect_right(range(whole + 1), sign * printed, key=lambda n: sign * costs(visual=[n] * shape.layers))
    return above - 1 if 0 < above <= whole else None


@cache
def shape_of(model: str) -> DecoderShape:
    """The decoder of ``conf/model/<model>.yaml``."""
    from thinsight.models.loading import meta_model  # loads transformers; a page of printed numbers alone does without

    return decoder_shape(meta_model(model))


def _visual(
    shape: DecoderShape, whole: int, method: str, tokens: int | None, fields: dict[str, Any], way: Counting
) -> tuple[list[int], str]:
    """Visual tokens entering each layer, and that in words. A setting that is not known is a `UserError`."""
    text = f"{way.text} text tokens"
    if not method:
        return [whole] * shape.layers, f"{whole} visual and {text}"
    if way.tokens == "every layer" and tokens is not None:
        return [tokens] * shape.layers, f"{tokens} visual and {text} in every layer"
    if not fields:
        if tokens is None:
            raise UserError("the setting's tokens are not stated")
        fields = _solved(method, shape.layers, whole, way.tokens, tokens)
    visual = _simulated(method, shape.layers, whole, tuple(sorted(fields.items())))
    setting = ", ".join(f"{key}={value:g}" for key, value in fields.items())
    return list(visual), f"{method} with {setting} of {whole} visual, and {text}"


def _own(
    shape: DecoderShape, whole: int, method: str, tokens: int | None, way: Counting
) -> tuple[list[int], str] | None:
    """What enters each layer where the method itself keeps ``tokens``, and that in words; None: as its label says."""
    if not (way.labels and method and tokens is not None):
        return None
    own = replace(way, tokens="method")
    visual, text = _visual(shape, whole, method, tokens, {}, own)
    return None if visual == [tokens] * shape.layers else (visual, text)


def _computation(column: str, model: str, visual: Sequence[int], way: Counting) -> str:
    """The name of a computation: equal for equal convention, model and lengths."""
    convention = next((c for c in CONVENTIONS if c.name == way.convention), None)
    text = "" if convention and convention.visual_only and column != "KV MB" else f" + {way.text}"
    parts = [f"{len(list(part))} x {n}" for n, part in groupby(visual)]
    runs = ", ".join(parts) if len(parts) <= STEPS else f"{visual[0]} to {visual[-1]}, {sum(visual)} in all layers"
    return f"{'cache' if column == 'KV MB' else way.convention}, {model}, {runs}{text}"


@cache
def _simulated(method: str, layers: int, whole: int, fields: tuple[tuple[str, Any], ...]) -> Sequence[int]:
    return tuple(simulate(load_method(method, **dict(fields)), PrefillSizes(layers, whole)).visual)


@cache
def _solved(method: str, layers: int, whole: int, measure: str, tokens: int) -> dict[str, Any]:
    measure = "layer_mean" if measure == "layer mean" else "kept"
    return solve_budget(method, PrefillSizes(layers, whole), measure, tokens)


def _cost(column: str, shape: DecoderShape, visual: Sequence[int], whole: int, way: Counting) -> float:
    """The number of ``column`` on its printed scale."""
    if column == "KV MB":
        return kv_bytes(shape, [n + way.text for n in visual]) * way.element_bytes / 2 / way.megabyte
    convention = next(c for c in CONVENTIONS if c.name == way.convention)
    count = prefill_flops(shape, visual, way.text, convention)
    if column in ("TFLOPs", "GFLOPs"):
        return way.share * count / (1e12 if column == "TFLOPs" else 1e9)
    ratio = 100 * count / prefill_flops(shape, [whole] * shape.layers, way.text, convention)
    return 100 - ratio if column == "FLOPs saving" else ratio


def _name_of_way(column: str, way: Counting) -> str:
    if column == "KV MB":
        name = f"keys and values of {way.element_bytes:g} bytes, MB of {way.megabyte:,} bytes"
    else:
        name = str(way.convention) + (f" times {way.share:g}" if way.share != 1 else "")
    return name + {"fitted": " (fitted)", "unknown": " (prompt length not stated)"}.get(way.reading, "")
