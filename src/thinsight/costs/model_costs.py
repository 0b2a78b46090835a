"""Sizes of each model and what each method costs at them.

A method's knob ``keep`` is set to a share of the visual tokens, as its users would, and played through. Where a model
refuses a method, or a method decides by the picture, the sentence that says so stands in place of its numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from thinsight.config.catalogue import MethodEntry
from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.costs.budgets import PrefillSizes, prefill_sizes_of, simulate, solve_budget
from thinsight.costs.conventions import FASTV, PROFILER
from thinsight.costs.flops import DecoderShape, flops
from thinsight.costs.memory import peak_memory, tower_peak, weight_bytes
from thinsight.costs.meta_device import tower_flops
from thinsight.errors import UserError
from thinsight.models.families import family_of, find_tower
from thinsight.models.image_tokens import largest_image
from thinsight.models.loading import meta_model
from thinsight.reduction.method import Method

if TYPE_CHECKING:  # a bare machine with a GPU need not have it to take times
    import pandas as pd

SUBSTITUTES = {"space": "llm", "graph": "v", "merge": "mean", "positions": "keep"}
"""What these fields are set to on a model without a CLIP-like tower and with several axes of positions (Qwen-VL)."""


@dataclass(frozen=True)
class ModelSizes:
    """One model's sizes, for the largest picture that its processor hands on.

    prefill   depth, visual tokens, text, tower blocks, decoder shape;  heads  query heads of the decoder
    tiles   images that the tower encodes;  tower  its shape, None where nothing can be reduced in it (``refusal`` says)
    vision, projector   FLOPs of tower and projector together, and of the projector: two per multiply-add, no biases
    alive   bytes of the tower's activations;  weights  bytes by part
    """

    name: str
    prefill: PrefillSizes
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
        return [self.prefill.total] * self.prefill.depth


def model_sizes(name: str, text: int) -> ModelSizes:
    """The `ModelSizes` of ``conf/model/NAME.yaml`` with ``text`` prompt tokens besides the picture."""
    return sizes_of(load_config([f"model={name}", f"text_tokens={text}"]))


def sizes_of(config: DictConfig) -> ModelSizes:
    """The same of ``config.model`` with ``config.text_tokens`` prompt tokens."""
    model = meta_model(config.model)
    image = largest_image(model.config, config.model.processor)
    counts, tower, refusal = tower_flops(model, image), None, ""
    try:
        tower = replace(DecoderShape.of(find_tower(model).blocks), biases=0)
    except UserError as error:
        refusal = str(error)
    return ModelSizes(
        name=config.model.name,
        prefill=prefill_sizes_of(model, config),
        heads=model.config.get_text_config().num_attention_heads,
        tiles=image.tiles,
        tower=tower,
        vision=sum(counts.values()),
        projector=counts["projector"],
        alive=tower_peak(family_of(model.config).tower_size(model.config, image)),
        weights=weight_bytes(model),
        refusal=refusal,
    )


def method_cost(
    size: ModelSizes, visual: Sequence[int], tower: Sequence[int] = (), entering: int | None = None
) -> dict[str, float]:
    """Costs of a prefill with ``visual`` tokens entering each decoder layer, (L,).

    tower     patches of one tile entering each of its blocks, where some leave there
    entering  rows of the projector; None: all
    Decoder FLOPs ``fastv`` and ``profiler``; ``vision``: tower and projector, counted as ``profiler`` is, and their
    ``vision_share`` of both. In bytes, half precision: ``cache``; ``activations`` of the decoder with fused attention
    and ``eager``; ``peak_memory``: weights, and the most of cache and activations at once, or the tower's activations.
    """
    total, lengths = size.prefill.total, [n + size.prefill.text for n in visual]
    decoder = flops(size.prefill.shape, lengths, PROFILER)
    vision = size.vision - size.projector * (0 if entering is None else total - entering) // total
    if tower:
        full = flops(size.tower, [tower[0] + 1] * size.tower.layers, PROFILER)
        vision -= size.tiles * (full - flops(size.tower, [n + 1 for n in tower], PROFILER))
    fused = peak_memory(size.prefill.shape, size.heads, lengths)
    return {
        "fastv": flops(size.prefill.shape, lengths, FASTV),
        "profiler": decoder,
        "vision": vision,
        "vision_share": vision / (vision + decoder),
        "cache": fused.cache,
        "activations": fused.activations,
        "eager": peak_memory(size.prefill.shape, size.heads, lengths, "eager").activations,
        "peak": sum(size.weights.values()) + max(fused.at, size.alive),
    }


def method_costs(
    sizes: Sequence[ModelSizes], entries: Sequence[MethodEntry], shares: Sequence[float]
) -> "pd.DataFrame":
    """One line per method, share of the visual tokens that its ``keep`` is set to, and model.

    A method that has only a layer to choose (VTW) is given the one whose mean over layers is nearest to the share.
    Columns: method, title, family, share, model; fields, kept, layer_mean; the columns of `method_cost`;
    ``fastv_left`` and ``profiler_left``, shares of the whole model's; why: the sentence in place of numbers.
    """
    import pandas as pd

    whole = {size.name: method_cost(size, size.whole) for size in sizes}
    lines = []
    for entry in entries:
        given = {share: {"keep": share} if "keep" in entry.knobs else {} for share in shares}
        methods = {share: load_method(entry.name, **fields) for share, fields in given.items()}
        for (share, method), size in product(methods.items(), sizes):
            line = {"method": entry.name, "title": entry.title, "family": entry.family, "share": share}
            line |= {"model": size.name, "why": ""}
            try:
                costs = _costs_at(share, size, method)
            except UserError as error:
                lines.append(line | {"why": str(error)})
                continue
            left = {f"{name}_left": costs[name] / whole[size.name][name] for name in ("fastv", "profiler")}
            lines.append(line | costs | left)
    return pd.DataFrame(lines)


def _costs_at(share: float, size: ModelSizes, method: Method) -> dict[str, Any]:
    """A line of `method_costs` of ``method``, with the documented substitutes where the model lacks
    what its fields stand for. A method that acts where nothing can be reduced is a `UserError`, the model's own."""
    fields = {"keep": share} if "keep" in method.fields else {}
    if size.refusal and method.before_projector:
        raise UserError(size.refusal)
    lacking = {k: v for k, v in SUBSTITUTES.items() if method.fields.get(k) not in (None, "none", v)}
    if size.refusal and lacking:
        method = load_method(method.name, **fields, **lacking)
    if not fields:
        fields = solve_budget(method.name, size.prefill, "layer_mean", share)
        method = load_method(method.name, **fields)
    counts, tower = simulate(method, size.prefill), []
    if method.before_projector:  # each tile is reduced by itself
        tile = replace(size.prefill, total=size.prefill.total // size.tiles)
        tower = simulate(replace(method, reductions=method.before_projector), tile).tower
    costs = method_cost(size, counts.visual, tower, counts.visual[0] if method.before_projector else None)
    values = ", ".join(f"{key}={value:.4g}" for key, value in fields.items())
    return {"fields": values, "kept": counts.kept, "layer_mean": counts.layer_mean, **costs}
