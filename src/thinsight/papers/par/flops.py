"""Which way of counting gives PAR's printed saving of FLOPs.

The abstract (arXiv:2410.07278v2) prints a reduction of the FLOPs beside a compression of the visual tokens and says of
neither how it is counted. The second leaves little choice in the first: with n visual tokens of N in the picture, L
others and K layers that still see all of them,

    reduction = 1 - (K F(N + L) + (layers - K) F(n + L)) / (layers F(N + L))

where F is a layer's count in one of `costs.conventions`.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product

import pandas as pd

from thinsight.config.compose import load_config
from thinsight.costs.conventions import CONVENTIONS, Convention
from thinsight.costs.flops import DecoderShape, decoder_shape, prefill_flops
from thinsight.ledger.verdicts import meets
from thinsight.models.image_tokens import tokens_of
from thinsight.models.loading import meta_model

MODEL = "llava_1_5_7b"
"""The model of ``conf/model`` whose sizes are counted."""

TEXTS = (0, 35, 44, 60)
"""Tokens of the prompt besides the picture: none, LLaVA's preamble, that with a short question, with a long one."""

LAYERS = (0, 2, 3)
"""Layers that see all tokens: none (in front of the decoder), two as FastV has it, three."""


def reductions(
    left: int,
    texts: Sequence[int] = TEXTS,
    layers: Sequence[int] = LAYERS,
    conventions: Sequence[Convention] = CONVENTIONS,
) -> pd.DataFrame:
    """One line per convention, number of texts and of whole layers: the ``reduction`` of the prefill's FLOPs with
    ``left`` visual tokens, and the whole prefill's ``tflops``. A convention that counts visual tokens alone knows no
    text, so has a line for 0 only."""
    shape, picture, lines = llava_shape(), tokens_of(MODEL), []
    for convention in conventions:
        for text, whole in product([0] if convention.visual_only else texts, layers):
            visual = ([picture] * whole + [n] * (shape.layers - whole) for n in (picture, left))
            full, reduced = (prefill_flops(shape, tokens, text, convention) for tokens in visual)
            line = {"convention": convention.name, "text": text, "layers": whole}
            lines.append(line | {"reduction": 1 - reduced / full, "tflops": full / 1e12})
    return pd.DataFrame(lines)


@cache
def llava_shape() -> DecoderShape:
    """Sizes of the decoder of `MODEL`."""
    return decoder_shape(meta_model(load_config([f"model={MODEL}"]).model))


def meets_printed(table: pd.DataFrame, printed: float) -> pd.Series:
    """Whether each reduction of `reductions` is the ``printed`` one (both shares) by the ledger's rule, in whole
    percent."""
    return table["reduction"].map(lambda reduction: meets(f"{100 * printed:.0f}", 100 * reduction))


def tokens_left(compression: float) -> int:
    """Visual tokens that a printed ``compression`` (a share) leaves of the picture: the multiple of 32 next to it, as
    settings in this literature are 192, 128, 64 and 32."""
    return max(32, 32 * round((1 - compression) * tokens_of(MODEL) / 32))


def counting_table(table: pd.DataFrame, printed: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`reductions` in % as text, a line per convention and text length and a column per number of whole layers, with
    the ``printed`` one marked ◀; and the same frame of bools, for bold cells. Conventions that agree everywhere to a
    tenth of a percentage point share their lines."""
    table = table.assign(printed=meets_printed(table, printed), saved=100 * table["reduction"])
    index = ["convention", "text"]
    saved, marks = (
        table.pivot(index=index, columns="layers", values=name).rename(columns="K = {}".format)
        for name in ("saved", "printed")
    )
    equal: dict[str, list[str]] = {}
    for name in table["convention"].unique():
        equal.setdefault(saved.loc[name].round(1).to_json(), []).append(name)
    lines = pd.MultiIndex.from_frame(table[index].drop_duplicates())
    lines = lines[lines.get_level_values(0).isin([names[0] for names in equal.values()])]
    shared = {names[0]: ", ".join(names) for names in equal.values()}
    titles = [f"{shared[name]}, L = {length}" for name, length in lines]
    saved, marks = (frame.loc[lines].set_axis(titles).rename_axis(columns=None) for frame in (saved, marks))
    return saved.map("{:.1f}".format) + marks.map({True: " ◀", False: ""}.get), marks


def saving_table(table: pd.DataFrame) -> pd.DataFrame:
    """`reductions` of several readings (columns ``reading``, ``tokens``) in %: a line each, a column per convention."""
    lines = table["reading"] + ", " + table["tokens"].astype(str) + f" of {tokens_of(MODEL)} tokens"
    wide = table.assign(line=lines).pivot_table(index="line", columns="convention", values="reduction", sort=False)
    return (100 * wide).rename_axis(index=None, columns=None)
