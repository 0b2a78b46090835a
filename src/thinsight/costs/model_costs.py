"""Sizes of each model and what each method costs at them.

A method's knob ``keep`` is set to a share of the visual tokens, as its users would, and played through. Where a model
refuses a method, or a method decides by the picture, the sentence that says so stands in place of its numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.costs.budgets import Stage, measured_budget, simulate, solve_budget
from thinsight.costs.conventions import FASTV, PROFILER
from thinsight.costs.flops import DecoderShape, flops
from thinsight.costs.memory import peak_memory, tower_peak, weight_bytes
from thinsight.errors import UserError
from thinsight.models.architecture import find_parts

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from thinsight.config.catalogue import MethodEntry
    from thinsight.reduction.method import Method


SUBSTITUTES: Mapping[str, Any] = {"space": "llm", "graph": "v", "merge": "mean", "positions": "keep"}
"""What these fields are set to on a model without a CLIP-like tower and with several axes of positions (Qwen-VL)."""


@dataclass(frozen=True)
class ModelSizes:
    """One model's sizes, for the largest picture that its processor hands on.

    stage   depth, visual tokens, text, tower blocks, decoder shape;  heads  query heads of the decoder
    tiles   images that the tower encodes;  tower  its shape, None where nothing can be reduced in it (``refusal`` says)
    vision, projector   FLOPs of tower and projector together, and of the projector: two per multiply-add, no biases
    alive   bytes of the tower's activations;  weights  bytes by part
    """

    name: str
    stage: Stage
    heads: int
    tiles: int
    tower: DecoderShape | None
    vision: int
    projector: int
    alive: int
    weights: Mapping[str, int]
    refusal: str = ""

    @property
    def whole(self) -> list[int]:
        """Visual tokens entering each decoder layer of the whole model."""
        return [self.stage.total] * self.stage.depth


def model_sizes(name: str, text: int) -> ModelSizes:
    """The `ModelSizes` of ``conf/model/NAME.yaml`` with ``text`` prompt tokens besides the picture, from the meta device."""
    from thinsight.costs.flops import packed_flops, tower_shape
    from thinsight.costs.meta_device import tower_flops
    from thinsight.models.architecture import find_tower
    from thinsight.models.image_tokens import largest_image
    from thinsight.models.loading import meta_model

    config = load_config([f"model={name}", f"text_tokens={text}"])
    model = meta_model(config.model)
    vision, shown = model.config.vision_config, largest_image(model.config, config.model.processor)
    if hasattr(vision, "window_size"):
        counts, rows = packed_flops(vision, shown), shown.tokens * vision.spatial_merge_size**2
        alive = tower_peak(tower_shape(vision), rows, rotated=True)
    else:
        counts, rows = tower_flops(model, shown), shown.tiles * ((vision.image_size // vision.patch_size) ** 2 + 1)
        alive = tower_peak(DecoderShape.of(find_tower(model, find_parts(model)).blocks), rows)
    try:
        tower, refusal = replace(DecoderShape.of(find_tower(model, find_parts(model)).blocks), biases=0), ""
    except UserError as error:
        tower, refusal = None, str(error)
    heads = model.config.get_text_config().num_attention_heads
    return ModelSizes(
        name, measured_budget(model, config), heads, shown.tiles, tower, sum(counts.values()), counts["projector"], alive,
        weight_bytes(model), refusal,
    )  # fmt: skip


def method_cost(
    one: ModelSizes, visual: Sequence[int], tower: Sequence[int] = (), entering: int | None = None
) -> dict[str, float]:
    """Costs of a prefill with ``visual`` tokens entering each decoder layer, (L,).

    tower     patches of one tile entering each of its blocks, where some leave there
    entering  rows of the projector; None: all
    Decoder FLOPs ``fastv`` and ``profiler``; ``vision``: tower and projector, counted as ``profiler`` is, and their
    ``vision_share`` of both. In bytes, half precision: ``cache``; ``activations`` of the decoder with fused attention
    and ``eager``; ``peak_memory``: weights, and the most of cache and activations at once, or the tower's activations.
    """
    total, lengths = one.stage.total, [n + one.stage.text for n in visual]
    decoder = flops(one.stage.shape, lengths, PROFILER)
    vision = one.vision - one.projector * (0 if entering is None else total - entering) // total
    if tower:
        full = flops(one.tower, [tower[0] + 1] * one.tower.layers, PROFILER)
        vision -= one.tiles * (full - flops(one.tower, [n + 1 for n in tower], PROFILER))
    fused = peak_memory(one.stage.shape, one.heads, lengths)
    return {
        "fastv": flops(one.stage.shape, lengths, FASTV),
        "profiler": decoder,
        "vision": vision,
        "vision_share": vision / (vision + decoder),
        "cache": fused.cache,
        "activations": fused.activations,
        "eager": peak_memory(one.stage.shape, one.heads, lengths, "eager").activations,
        "peak": sum(one.weights.values()) + max(fused.at, one.alive),
    }


def method_costs(
    sizes: Sequence[ModelSizes], entries: Sequence["MethodEntry"], shares: Sequence[float]
) -> pd.DataFrame:
    """One line per method, share of the visual tokens that its ``keep`` is set to, and model.

    A method that has only a layer to choose (VTW) is given the one whose mean over layers is nearest to the share.
    Columns: method, title, family, share, model; fields, kept, layer_mean; the columns of `method_cost`, and ``fastv_left``
    and ``profiler_left``, shares of the whole model's; why: the sentence in place of the numbers, or nothing.
    """
    out = []
    whole = {one.name: method_cost(one, one.whole) for one in sizes}
    for entry in entries:
        node = load_config([f"method={entry.name}"]).method
        for share in shares:
            said = {"method": entry.name, "title": entry.title, "family": entry.family, "share": share}
            fields = {"keep": share} if "keep" in entry.knobs else {}
            method = load_method(node, **fields)
            for one in sizes:
                try:
                    found = _line(one, node, method, fields, share)
                except UserError as error:
                    out.append(said | {"model": one.name, "why": str(error)})
                    continue
                left = {f"{name}_left": found[name] / whole[one.name][name] for name in ("fastv", "profiler")}
                out.append(said | {"model": one.name, "why": ""} | found | left)
    return pd.DataFrame(out)


def fitted(one: ModelSizes, node: "DictConfig", method: "Method", fields: Mapping[str, Any]) -> "Method":
    """``method``, which ``node`` with ``fields`` is, on this model: with the documented substitutes where the model
    lacks what they stand for. A method that acts where nothing can be reduced is a `UserError`, the model's own."""
    if not one.refusal:
        return method
    if method.ahead:
        raise UserError(one.refusal)
    put = {key: value for key, value in SUBSTITUTES.items() if method.fields.get(key) not in (None, "none", value)}
    return load_method(node, **fields, **put) if put else method


def _line(
    one: ModelSizes, node: "DictConfig", method: "Method", fields: Mapping[str, Any], share: float
) -> dict[str, Any]:
    method = fitted(one, node, method, fields)
    if not fields:
        fields = solve_budget(node, one.stage, "layer_mean", share)
        method = load_method(node, **fields)
    played, tower = simulate(method, one.stage), []
    if method.ahead:  # each tile is reduced by itself
        tile = replace(one.stage, total=one.stage.total // one.tiles)
        tower = simulate(replace(method, reductions=method.ahead), tile).tower
    found = method_cost(one, played.visual, tower, played.visual[0] if method.ahead else None)
    said = ", ".join(f"{key}={value:.4g}" for key, value in fields.items())
    return {"fields": said, "kept": played.kept, "layer_mean": played.layer_mean, **found}
