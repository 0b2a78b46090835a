"""The scores of a run as a few lines on a terminal, beside the unreduced model's."""

import json
from collections.abc import Sequence
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
            "score": _percent(cell["accuracy"], "{:.1f} %") or "not scored",
            "95 % interval": _percent(cell["interval"], "{:.1f} to {:.1f} %"),
            "visual tokens": f"{cell['visual_tokens_mean']:.1f} of {cell['picture_tokens']:.0f} a layer",
            "prefill": f"{cell['prefill_flops']['profiler'] / 1e9:.3g} GFLOP",
            "KV cache": f"{cell['kv_bytes'] / 1e6:.3g} MB",
        }
        for task in result["scores"]
        for name, scores in named
        for budget, cell in scores.get(task, {}).items()
    ]
    return pd.DataFrame(lines).to_string(index=False)


def _percent(shares: float | Sequence[float | None] | None, form: str) -> str:
    """Shares in %; of answers that are not scored nothing."""
    shares = shares if isinstance(shares, list) else [shares]
    return "" if None in shares else form.format(*(100 * share for share in shares))


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
