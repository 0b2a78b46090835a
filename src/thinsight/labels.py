"""What a label like "192 tokens" means: papers' settings played through, beside the setting that keeps to the label."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from thinsight.config import load_method
from thinsight.conventions import PYRAMIDDROP, PYRAMIDDROP_VISUAL
from thinsight.cost import flops
from thinsight.errors import UserError
from thinsight.solve import Stage, play, solve


@dataclass(frozen=True)
class Setting:
    """A setting under which a method is published: ``label`` tokens (None: it has no such label) of LLaVA-1.5's 576."""

    title: str
    method: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    label: int | None = None
    source: str = ""


BUDGETS = (192, 128, 64)
SETTINGS = (
    Setting("FastV, K = 2, R = 50 %", "fastv", {"layer": 2, "keep": 0.5}, None, "the paper's headline"),
    Setting("FastV, K = 3, R = 50 %", "fastv", {"layer": 3, "keep": 0.5}, None, "the repository's README"),
    *(Setting(f"FastV, K = 2, keeps {b}", "fastv", {"layer": 2, "keep": b}, b, "count after the cut") for b in BUDGETS),
    *(Setting(f"FastV, K = 3, keeps {b}", "fastv", {"layer": 3, "keep": b}, b, "count after the cut") for b in BUDGETS),
    Setting("PyramidDrop, as released", "pyramiddrop", {"ratios": [0.5, 0.25, 0.125]}, None, "layers 8, 16, 24"),
    *(Setting(f"SparseVLM {b}", "sparsevlm", {"keep": b}, b, "table in the released code") for b in BUDGETS),
    *(Setting(f"SparseVLM+ {b}", "sparsevlm_v2", {"keep": b}, b, "table in the released code") for b in BUDGETS),
    *(Setting(f"DART {b}", "dart", {"keep": b, "exact": False}, b, "image pivots come on top") for b in BUDGETS),
    Setting("FiCoCo-L, 14 a layer", "ficoco_l", {"leave": 14, "start": 5}, None, "released code, layers 5 to 31"),
    Setting("VTW, K = 16", "vtw", {"layer": 16}, None, "the released default"),
)
"""Settings of methods that cut inside the decoder, each as its paper or code has it; source: where it is from."""


def labels(stage: Stage, other: int = 95) -> pd.DataFrame:
    """One line per `Setting`: kept, mean over layers, FLOPs, and the knob that makes the mean equal to the label.

    Counted with three MLP matrices, a multiply-add as one: ``alone``, of visual tokens only (T0), and ``every``, with
    ``other`` tokens of template and question in each layer (T95 for 95), both in T; ``left`` is the latter's share of
    the whole model's; ``same`` the field and value whose mean over layers is the label, or why there is none.
    """
    out = []
    for setting in SETTINGS:
        played = play(load_method(setting.method, **setting.fields), stage)
        alone, every = (_count(stage, played.visual, text) for text in (0, other))
        out.append(
            {
                "setting": setting.title,
                "source": setting.source,
                "label": setting.label,
                "kept": played.kept,
                "layer_mean": played.layer_mean,
                "alone": alone / 1e12,
                "every": every / 1e12,
                "left": every / _count(stage, [stage.total] * stage.depth, other),
                "same": _same(setting, stage),
            }
        )
    return pd.DataFrame(out).astype({"label": "Int64"})


def _count(stage: Stage, visual: list[int], text: int) -> int:
    convention = PYRAMIDDROP if text else PYRAMIDDROP_VISUAL
    return flops(stage.shape, [n + text for n in visual], convention, visual=visual)


def _same(setting: Setting, stage: Stage) -> str:
    """The knob with which the mean over layers is the label."""
    if setting.label is None:
        return ""
    fixed = {key: value for key, value in setting.fields.items() if key != "keep"}
    try:
        return f"keep={solve(setting.method, stage, 'layer_mean', setting.label, **fixed)['keep']}"
    except UserError as error:
        return str(error)
