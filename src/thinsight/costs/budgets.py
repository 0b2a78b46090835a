"""How many tokens a method leaves, by its schedules alone, and the knob that meets a budget.

Papers mean different things by "192 tokens". Here a budget names its measure:

    kept        visual tokens left in the end
    layer_mean  visual tokens entering a decoder layer, the mean over layers: what the KV cache and linear FLOPs go by
    flops       prefill FLOPs of the decoder in a named convention, as a share of the whole model's

A count (int) or a fraction of the visual tokens (float); flops are always a fraction.

    python -m thinsight.solve model=llava_1_5_7b method=fastv layer_mean=192
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig
from torch import nn

from thinsight.config.methods import load_method
from thinsight.config.schema import MEASURES
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.flops import DecoderShape, decoder_shape, prefill_flops
from thinsight.errors import UserError, nearest
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.sites import Decoder, Features, Projected, RandomDecoder, Vision

KNOBS = ("keep", "layer")
"""The fields that a budget is solved for, the first that a method has."""


@dataclass(frozen=True)
class PrefillSizes:
    """The sizes that a budget depends on.

    depth   decoder layers;  total  visual tokens of a picture;  text  tokens of the prompt besides them
    blocks  blocks of the vision tower, and ``used`` how many of them the projector's features go through
    shape   of the decoder, for FLOPs
    """

    depth: int
    total: int
    blocks: int = 24
    used: int = 23
    text: int = 64
    shape: DecoderShape | None = None


@dataclass(frozen=True)
class TokenCounts:
    """Lengths under a method: ``tower`` per block (patches), ``visual`` per decoder layer, ``kept`` in the end."""

    tower: list[int]
    visual: list[int]
    kept: int

    @property
    def layer_mean(self) -> float:
        """Visual tokens entering a decoder layer, on average."""
        return sum(self.visual) / len(self.visual)


def simulate(method: Method, sizes: PrefillSizes) -> TokenCounts:
    """What ``method`` leaves of a picture, layer by layer, by its schedules alone.

    A method whose filter decides how many leave, or a random layer, is a `UserError`.
    """
    resolved, now = method.resolve(sizes.depth), sizes.total
    tower = []
    vision = [
        (r, r.site.blocks(sizes.blocks, sizes.used)) for r in method.before_projector if isinstance(r.site, Vision)
    ]
    for block in range(sizes.blocks):
        now = _step(method, [x for x in vision if not x[0].site.inside], block, now, sizes.total)
        tower.append(now)
        now = _step(method, [x for x in vision if x[0].site.inside], block, now, sizes.total)
    features = [(r, (0,)) for r in method.before_projector if isinstance(r.site, Features)]
    now = _step(method, features, 0, now, sizes.total)
    if any(isinstance(r.site, RandomDecoder) for r in method.after_projector):
        raise UserError(f"method {method.name} draws its layer, so its budget cannot be known beforehand")
    behind = [(r, (0,) if isinstance(r.site, Projected) else r.site.layers) for r in resolved.after_projector]
    visual = []
    for layer in range(sizes.depth):
        now = _step(method, [x for x in behind if not x[0].site.inside], layer, now, sizes.total)
        visual.append(now)
        now = _step(method, [x for x in behind if x[0].site.inside], layer, now, sizes.total)
    return TokenCounts(tower, visual, now)


def _step(method: Method, plan: list[tuple[Reduction, tuple[int, ...]]], layer: int, now: int, total: int) -> int:
    for reduction, layers in plan:
        if layer in layers:
            parts = reduction.tokens_left(now, layers.index(layer), len(layers), total)
            if parts is None:
                raise UserError(
                    f"method {method.name} decides by the picture how many leave, so no budget can be solved for it"
                )
            now = sum(parts)
    return now


def lengths_only(method: Method, sizes: PrefillSizes) -> Method:
    """A method that looks at nothing and leaves as many tokens everywhere as ``method`` does: for counting operations
    where there are no numbers. What leaves inside a layer leaves before the next one here."""
    from thinsight.methods.controls import Grid
    from thinsight.reduction.schedules import Keep

    lengths = simulate(method, sizes).visual
    cuts = [layer for layer, (n, m) in enumerate(pairwise([sizes.total, *lengths])) if m < n]
    reductions = [Reduction(Grid(), site=Decoder([layer]), schedule=Keep(lengths[layer])) for layer in cuts]
    return Method(method.name, tuple(reductions), method.fields)


def solve_budget(
    node: str | DictConfig, sizes: PrefillSizes, measure: str, target: float, **fields: Any
) -> dict[str, Any]:
    """The fields that bring ``measure`` nearest to ``target``: ``fields`` and the method's own knob, keep or layer.

    A target below or above all that the knob can reach is a `UserError` that names the nearest reachable one.
    """
    kind = measure.split(":")[0]
    if kind not in MEASURES:
        raise nearest("measure of a budget", measure, MEASURES)
    whole = load_method(node, **fields)
    knob = next((knob for knob in KNOBS if knob in whole.fields), None)
    if knob is None:
        raise UserError(f"method {whole.name} has no knob that a budget could be solved for")
    size = _size(measure, sizes)
    wanted = target * sizes.total if isinstance(target, float) and kind != "flops" else target
    values = range(sizes.total + 1) if knob == "keep" else range(sizes.depth + 1)
    make = _maker(node, fields, knob)
    low, high = size(simulate(make(values[0]), sizes)), size(simulate(make(values[-1]), sizes))
    if not low - 0.5 * (kind != "flops") <= wanted <= high + 1e-9:
        edge, value = (low, values[0]) if wanted < low else (high, values[-1])
        raise UserError(
            f"method {whole.name} cannot reach {measure}={wanted:.4g}: the nearest that it can is {edge:.4g}, "
            f"with {knob}={value}"
        )
    left, right = 0, len(values) - 1  # the measure grows with the knob
    while right - left > 1:
        middle = (left + right) // 2
        left, right = (middle, right) if size(simulate(make(values[middle]), sizes)) <= wanted else (left, middle)
    reached = {i: size(simulate(make(values[i]), sizes)) for i in (left, right)}
    best = min(reached, key=lambda i: abs(reached[i] - wanted))
    if (
        kind == "kept" and abs(reached[best] - wanted) > 0.1 * sizes.total
    ):  # withdrawing all at a layer keeps all or none
        raise UserError(
            f"method {whole.name} cannot reach {measure}={wanted:.4g}: the nearest that it can is {reached[best]:.4g}, "
            f"with {knob}={values[best]}"
        )
    return {**fields, knob: values[best]}


def _maker(node: str | DictConfig, fields: Mapping[str, Any], knob: str) -> Callable[[int], Method]:
    def make(value: int) -> Method:
        return load_method(node, **{**fields, knob: value})

    return make


def _size(measure: str, sizes: PrefillSizes) -> Callable[[TokenCounts], float]:
    """How a measure is read off the counts of a method."""
    kind, _, name = measure.partition(":")
    if kind == "kept":
        return lambda counts: counts.kept
    if kind == "layer_mean":
        return lambda counts: counts.layer_mean
    known = {c.name: c for c in CONVENTIONS}
    if name not in known:
        raise nearest("FLOPs convention (flops:NAME)", name, known)
    if sizes.shape is None:
        raise UserError("FLOPs need the decoder's shape")

    count = partial(prefill_flops, sizes.shape, text=sizes.text, convention=known[name])
    whole = count([sizes.total] * sizes.depth)
    return lambda counts: count(counts.visual) / whole


def prefill_sizes(config: DictConfig) -> PrefillSizes:
    """The sizes of ``config.model`` and the text of ``config.text_tokens``, from its shape alone."""
    from thinsight.models.loading import meta_model

    return prefill_sizes_of(meta_model(config.model), config)


def prefill_sizes_of(model: nn.Module, config: DictConfig) -> PrefillSizes:
    """The same for a ``model`` that is loaded already."""
    from thinsight.models.families import find_tower
    from thinsight.models.image_tokens import largest_image

    shape, image = decoder_shape(model), largest_image(model.config, config.model.processor)
    try:
        tower = find_tower(model)
        blocks, used = len(tower.blocks), tower.used
    except UserError:  # nothing can be reduced in it, so its blocks do not matter
        blocks = used = 1
    return PrefillSizes(shape.layers, image.tokens, blocks, used, int(config.text_tokens), shape)
