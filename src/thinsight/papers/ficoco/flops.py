"""FiCoCo's printed TFLOPs beside what torch counts.

The printed TFLOPs are those of a decoder in which every layer holds the final number of visual tokens, plus a text of
fixed length: right for a method in the vision tower, not for one that removes tokens layer by layer in the decoder.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
from torch import nn

from thinsight.config.catalogue import printed_models
from thinsight.config.methods import load_method
from thinsight.costs.budgets import PrefillSizes, lengths_only, simulate
from thinsight.costs.conventions import PROFILER, PROFILER_LAST
from thinsight.costs.flops import DecoderShape, decoder_shape, flops, kv_bytes, prefill_flops
from thinsight.costs.meta_device import count_prefill
from thinsight.models.families import find_tower
from thinsight.models.loading import meta_model
from thinsight.reduction.method import Method

TERA = 1e12


@dataclass(frozen=True)
class PrintedModel:
    """What the paper's counts of one model go by: our model with that decoder, visual tokens of a picture, text tokens.

    The text is stated for LLaVA-1.5 (tables 10 and 11); for LLaVA-NeXT it is the length that fits the whole model, and
    for Video-LLaVA, whose size is not said and taken to be 7B, that of LLaVA-1.5-7B: both its numbers come out so.
    """

    title: str
    model: str
    visual: int
    text: int

    @cached_property
    def meta(self) -> nn.Module:
        """The model without weights."""
        return meta_model(self.model)

    @cached_property
    def shape(self) -> DecoderShape:
        """Its decoder's."""
        return decoder_shape(self.meta)

    def tera(self, visual: Sequence[int]) -> float:
        """TFLOPs of a prefill with so many visual tokens in each layer: two operations a multiply-add, one row of the
        LM head."""
        return prefill_flops(self.shape, visual, self.text, PROFILER_LAST) / TERA

    def uniform(self, visual: int) -> float:
        """The same with ``visual`` tokens in every layer."""
        return self.tera([visual] * self.shape.layers)

    def counted(self, method: Method, visual: int) -> float:
        """TFLOPs of a prefill that starts with ``visual`` tokens, as torch counts it operation by operation."""
        seen = count_prefill(self.meta, method, self.text, visual)
        return (seen.decoder + seen.head) / TERA

    def cache(self, visual: Sequence[int]) -> float:
        """MB (1e6 bytes) of the key-value cache in 16 bits."""
        return kv_bytes(self.shape, [n + self.text for n in visual]) / 1e6


PRINTED_MODELS = tuple(
    PrintedModel(title, *printed_models()[title], text)
    for title, text in {"LLaVA-1.5-7B": 60, "LLaVA-1.5-13B": 512, "LLaVA-NeXT-7B": 64, "Video-LLaVA": 60}.items()
)


def tflops_labels(published: pd.DataFrame) -> pd.DataFrame:
    """One line per printed TFLOPs of the paper's own methods: model, whole (or reduced), printed, text (tokens), stated
    (visual tokens that it is said to stand for; the whole picture's), uniform and counted (TFLOPs of so many by formula
    and by torch on the meta device), implied (visual tokens whose count is the printed number), where (tables)."""
    rows = published[published["method"].str.startswith(("vanilla", "FiCoCo")) & (published["unit"] == "T")]
    rows = rows[~rows["row"].str.contains("INT")].sort_values("number", ascending=False, kind="stable")
    identity, out = load_method("identity"), []
    for paper in PRINTED_MODELS:
        part = rows[rows["model"] == paper.title]
        by = [part["method"] == "vanilla", "number", "tokens"]
        for (whole, printed, tokens), lines in part.groupby(by, sort=False):
            stated = paper.visual if whole else int(tokens) if tokens else None
            known = stated is not None
            above = bisect_left(range(paper.visual), printed, key=paper.uniform)  # more tokens cost more
            implied = min(
                (max(above - 1, 0), above), key=lambda n, goal=printed, paper=paper: abs(paper.uniform(n) - goal)
            )
            tables = dict.fromkeys(lines["version"] + " " + lines["table"].str.partition(" (")[0])
            line = {"model": paper.title, "whole": whole, "printed": printed, "text": paper.text, "stated": stated}
            line |= {"uniform": paper.uniform(stated) if known else None}
            line |= {"counted": paper.counted(identity, stated) if known else None}
            out.append(line | {"implied": implied, "where": ", ".join(tables)})
    return pd.DataFrame(out)


def cache_sizes(published: pd.DataFrame) -> pd.DataFrame:
    """The printed key-value caches in 16 bits: model, row, printed (MB), fits (visual tokens in every layer)."""
    rows = published[(published["column"] == "KV MB") & ~published["row"].str.contains("INT")]
    out = []
    for paper in PRINTED_MODELS:
        none, one = (paper.cache([n] * paper.shape.layers) for n in (0, 1))
        part = rows.loc[rows["model"] == paper.title, ["model", "row", "number"]]
        out.append(part.assign(fits=(part["number"] - none) / (one - none)))
    return pd.concat(out, ignore_index=True).rename(columns={"number": "printed"})


def tflops_costs(paper: PrintedModel, lines: Mapping[str, tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """What methods cost at the true shape. ``lines``: label -> (method, fields).

    label, kept (visual tokens in the end), mean (entering a decoder layer), formula and counted (TFLOPs of the decoder
    and one row of the LM head; counted by torch on the meta device), uniform (TFLOPs as the paper counts ``kept``),
    cache (MB), tower (TFLOPs of the vision tower's blocks that the decoder reads).
    """
    tower, out = find_tower(paper.meta), []
    sizes = PrefillSizes(paper.shape.layers, paper.visual, len(tower.blocks), tower.used, paper.text, paper.shape)
    blocks = replace(DecoderShape.of(tower.blocks), layers=tower.used)
    for label, (name, fields) in lines.items():
        method = load_method(name, **fields)
        played = simulate(method, sizes)
        line = {"label": label, "kept": played.kept, "mean": played.layer_mean, "uniform": paper.uniform(played.kept)}
        line |= {"formula": paper.tera(played.visual)}
        line |= {"counted": paper.counted(lengths_only(method, sizes), paper.visual)}
        patches = [n + 1 for n in played.tower[: tower.used]]  # with the class token
        out.append(line | {"cache": paper.cache(played.visual), "tower": flops(blocks, patches, PROFILER) / TERA})
    return pd.DataFrame(out)


def cost_floor(paper: PrintedModel, layers: Sequence[int]) -> dict[int, float]:
    """TFLOPs that are left if no visual token at all goes on after so many whole layers: no schedule gets below."""
    return {k: paper.tera([paper.visual] * k + [0] * (paper.shape.layers - k)) for k in layers}
