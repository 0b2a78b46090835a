"""FiCoCo's printed TFLOPs beside what torch counts.

The printed TFLOPs are those of a decoder in which every layer holds the final number of visual tokens, plus a text of
fixed length: right for a method in the vision tower, not for one that removes tokens layer by layer in the decoder.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from torch import nn

from thinsight.config.catalogue import printed_models
from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.costs.budgets import Stage, lengths_only, simulate
from thinsight.costs.conventions import PROFILER, PROFILER_LAST
from thinsight.costs.flops import DecoderShape, decoder_shape, flops, kv_bytes, prefill_flops
from thinsight.costs.meta_device import count_prefill
from thinsight.models.families import find_tower
from thinsight.models.loading import meta_model

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

    @property
    def stage(self) -> Stage:
        """The sizes that budgets depend on."""
        tower = find_tower(self.meta)
        return Stage(self.shape.layers, self.visual, len(tower.blocks), tower.used, self.text, self.shape)

    def counted(self, visual: int) -> float:
        """The same with ``visual`` tokens in every layer, as torch counts it operation by operation."""
        seen = count_prefill(self.meta, load_method("identity"), self.text, visual)
        return (seen.decoder + seen.head) / TERA

    def tera(self, visual: Sequence[int]) -> float:
        """TFLOPs of a prefill with so many visual tokens in each layer: two operations a multiply-add, one row of the
        LM head."""
        return prefill_flops(self.shape, visual, self.text, PROFILER_LAST) / TERA

    def uniform(self, visual: int) -> float:
        """The same with ``visual`` tokens in every layer."""
        return self.tera([visual] * self.shape.layers)

    def cache(self, visual: Sequence[int]) -> float:
        """MB (1e6 bytes) of the key-value cache in 16 bits."""
        return kv_bytes(self.shape, [n + self.text for n in visual]) / 1e6

    def tokens_of(self, tera: float) -> int:
        """The number of visual tokens whose uniform count is nearest to ``tera``."""
        above = bisect_left(range(self.visual), tera, key=self.uniform)
        return min((n for n in (above - 1, above) if n >= 0), key=lambda n: abs(self.uniform(n) - tera))


PRINTED_MODELS = tuple(
    PrintedModel(title, *printed_models()[title], text)
    for title, text in {"LLaVA-1.5-7B": 60, "LLaVA-1.5-13B": 512, "LLaVA-NeXT-7B": 64, "Video-LLaVA": 60}.items()
)


def tflops_labels(published: pd.DataFrame, papers: Sequence[PrintedModel] = PRINTED_MODELS) -> pd.DataFrame:
    """One line per printed TFLOPs of the paper's own methods: model, whole (or reduced), printed, text (tokens), stated
    (visual tokens that it is said to stand for; the whole picture's), uniform and counted (TFLOPs of so many by formula
    and by torch on the meta device), implied (visual tokens whose count is the printed number), where (tables)."""
    own = published[published["method"].str.startswith(("vanilla", "FiCoCo")) & (published["unit"] == "T")]
    own = own[~own["row"].str.contains("INT")]
    out = []
    for paper in papers:
        part, found = own[own["model"] == paper.title], []
        by = [part["method"] == "vanilla", "number", "tokens"]
        for (whole, printed, tokens), lines in part.groupby(by, sort=False):
            stated = paper.visual if whole else int(tokens) if tokens else None
            tables = dict.fromkeys(lines["version"] + " " + lines["table"].str.partition(" (")[0])
            line = {"model": paper.title, "whole": whole, "printed": printed, "text": paper.text, "stated": stated}
            line |= {"uniform": None if stated is None else paper.uniform(stated)}
            line |= {"counted": None if stated is None else paper.counted(stated)}
            found.append(line | {"implied": paper.tokens_of(printed), "where": ", ".join(tables)})
        out += sorted(found, key=lambda line: -line["printed"])
    return pd.DataFrame(out)


def cache_sizes(published: pd.DataFrame, papers: Sequence[PrintedModel] = PRINTED_MODELS) -> pd.DataFrame:
    """The printed key-value caches in 16 bits: model, row, printed (MB), fits (visual tokens in every layer)."""
    own = published[(published["column"] == "KV MB") & ~published["row"].str.contains("INT")]
    out = []
    for paper in papers:
        for _, line in own[own["model"] == paper.title].iterrows():
            each = paper.cache([1] * paper.shape.layers) - paper.cache([0] * paper.shape.layers)
            fits = (line["number"] - paper.cache([0] * paper.shape.layers)) / each
            out.append({"model": paper.title, "row": line["row"], "printed": line["number"], "fits": fits})
    return pd.DataFrame(out)


def tflops_costs(paper: PrintedModel, lines: Mapping[str, tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """What methods cost at the true shape. ``lines``: label -> (method, fields).

    label, kept (visual tokens in the end), mean (entering a decoder layer), formula and counted (TFLOPs of the decoder
    and one row of the LM head; counted by torch on the meta device), uniform (TFLOPs as the paper counts ``kept``),
    cache (MB), tower (TFLOPs of the vision tower's blocks that the decoder reads).
    """
    stage, out = paper.stage, []
    nodes = {name: load_config([f"method={name}"]).method for name in {name for name, _ in lines.values()}}
    blocks = DecoderShape.of(find_tower(paper.meta).blocks)
    for label, (name, fields) in lines.items():
        method = load_method(nodes[name], **fields)
        played = simulate(method, stage)
        seen = count_prefill(paper.meta, lengths_only(method, stage), paper.text, paper.visual)
        tower = [n + 1 for n in played.tower[: stage.used]]  # with the class token
        out.append(
            {
                "label": label,
                "kept": played.kept,
                "mean": played.layer_mean,
                "uniform": paper.uniform(played.kept),
                "formula": paper.tera(played.visual),
                "counted": (seen.decoder + seen.head) / TERA,
                "cache": paper.cache(played.visual),
                "tower": sum(_block(blocks, n) for n in tower) / TERA,
            }
        )
    return pd.DataFrame(out)


def cost_floor(paper: PrintedModel, layers: Sequence[int]) -> dict[int, float]:
    """TFLOPs that are left if no visual token at all goes on after so many whole layers: no schedule gets below."""
    return {k: paper.tera([paper.visual] * k + [0] * (paper.shape.layers - k)) for k in layers}


def _block(blocks: DecoderShape, tokens: int) -> int:
    """One block of the tower, by a profiler's count."""
    one = DecoderShape(**{**vars(blocks), "layers": 1, "vocabulary": 0})
    return flops(one, [tokens], PROFILER)
