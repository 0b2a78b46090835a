"""Which way of counting gives the FLOPs that PAR's abstract prints: every convention, text length and pruning layer.

The abstract (arXiv:2410.07278v2) prints a reduction of the FLOPs beside a compression of the visual tokens and says of
neither how it is counted. The second leaves little choice in the first: with n visual tokens of 576, L others and K
layers that still see all of them,

    reduction = 1 - (K F(576 + L) + (layers - K) F(n + L)) / (layers F(576 + L))

where F is a layer's count in one of `thinsight.conventions`.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from thinsight import verdict
from thinsight.conventions import CONVENTIONS, Convention
from thinsight.cost import Shape, flops

PICTURE = 576  # visual tokens of LLaVA-1.5
TEXTS = (0, 35, 44, 60)
"""Tokens of the prompt besides the picture: none, LLaVA's preamble, that with a short question, with a long one."""
LAYERS = (0, 2, 3)
"""Layers that see all tokens: none (in front of the decoder), two as FastV has it, three."""


def reductions(
    shape: Shape, left: int, texts: Sequence[int] = TEXTS, layers: Sequence[int] = LAYERS, picture: int = PICTURE
) -> pd.DataFrame:
    """One line per convention, number of texts and of whole layers: the ``reduction`` of the prefill's FLOPs, and the
    whole prefill's ``tflops``. A convention that counts visual tokens alone knows no text, so has a line for 0 only."""
    out = []
    for convention in CONVENTIONS:
        for text in [0] if convention.visual_only else texts:
            for whole in layers:
                full, short = (_count(shape, convention, n, text, whole, picture) for n in (picture, left))
                line = {"convention": convention.name, "text": text, "layers": whole}
                out.append(line | {"reduction": 1 - short / full, "tflops": full / 1e12})
    return pd.DataFrame(out)


def curves(
    shape: Shape, left: int, texts: Sequence[int], layers: Sequence[int], conventions: Sequence[Convention]
) -> pd.DataFrame:
    """`reductions` for every text length of a figure, of conventions that count the text."""
    found = reductions(shape, left, texts, layers)
    return found[found["convention"].isin([c.name for c in conventions])]


def meets(found: pd.DataFrame, printed: float) -> pd.Series:
    """Whether each reduction is the ``printed`` one (both shares), by the ledger's rule, in whole percent."""
    return found["reduction"].map(lambda reduction: verdict.meets(f"{100 * printed:.0f}", 100 * reduction))


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """A line per convention and text length, a column per number of whole layers; conventions that agree in all of them
    to a tenth of a percentage point share their lines."""
    table = found.pivot_table(index=["convention", "text"], columns="layers", values="reduction", sort=False)
    groups: dict[str, list[str]] = {}
    for name, part in table.groupby("convention", sort=False):
        groups.setdefault(str((100 * part.droplevel(0)).round(1).to_dict()), []).append(name)
    lead = {names[0]: ", ".join(names) for names in groups.values()}
    kept = table[table.index.get_level_values(0).isin(lead)]
    return kept.rename(index=lead, level=0)


def implied(numbers: Mapping[str, float], picture: int = PICTURE) -> int:
    """Visual tokens that a printed ``compression`` (a share) leaves of the picture: the multiple of 32 next to it, as
    settings in this literature are 192, 128, 64 and 32."""
    return max(32, 32 * round((1 - numbers["compression"]) * picture / 32))


def _count(shape: Shape, convention: Convention, left: int, text: int, whole: int, picture: int) -> int:
    visual = [picture] * whole + [left] * (shape.layers - whole)
    return flops(shape, [n + text for n in visual], convention, visual=visual)
