"""The scores of a run as a few lines on a terminal, beside the unreduced model's."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.errors import UserError
from thinsight.evaluation.protocol import comparable
from thinsight.paths import ROOT

IDENTITY = "identity"


def score_table(result: dict[str, Any], plain: dict[str, Any] | None) -> str:
    """The scores of ``result`` as a few lines, beside the unreduced model's (``plain``) where they are at hand."""
    named = [(result["method"], result["scores"]), *([("plain model", plain["scores"])] if plain else [])]
    lines = [
        {
            "task": task,
            "method": name if budget == "fixed" else f"{name} {budget}",
            "score": f"{100 * cell['accuracy']:.1f} %",
            "95 % interval": "{:.1f} to {:.1f} %".format(*(100 * end for end in cell["interval"])),
            "visual tokens": f"{cell['visual_tokens_mean']:.1f} of {cell['picture_tokens']:.0f} a layer",
            "prefill": f"{cell['prefill_flops']['profiler'] / 1e9:.3g} GFLOP",
            "KV cache": f"{cell['kv_bytes'] / 1e6:.3g} MB",
        }
        for task in result["scores"]
        for name, scores in named
        for budget, cell in scores.get(task, {}).items()
    ]
    return pd.DataFrame(lines).to_string(index=False)


def plain_result(result: dict[str, Any], runs: Path = ROOT / "data" / "runs") -> dict[str, Any] | None:
    """What the unreduced model scored on the very same questions, if a run in the folder ``runs`` has asked it."""
    for file in sorted(runs.glob("*/protocol.json")) if result["method"] != IDENTITY else []:
        card, metrics = _read(file), file.with_name("metrics.json")
        if card["method"]["name"] != IDENTITY or not metrics.is_file():
            continue
        asked = {task: card["tasks"].get(task) for task in result["protocol"]["tasks"]}
        with suppress(UserError):
            comparable(result["protocol"], {**card, "tasks": asked})
            return _read(metrics)
    return None


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
