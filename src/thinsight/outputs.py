"""The files of a finished run.

metrics.json         scores per task and budget (see `thinsight.scores`); the same bytes for the same config and machine
curve.csv            the same as a table for plots
predictions.parquet  one line per task, budget and row: what was asked, answered, and how many tokens it took
trace.parquet        one line per task, budget and row: tokens entering each layer and the patches alive at the end
config.yaml          the resolved config
protocol.json        the protocol card
timing.json          seconds and batches of the last session; differs from run to run
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from thinsight.budgets import Budget
from thinsight.config import to_yaml
from thinsight.errors import UserError
from thinsight.scores import curve

Records = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def write(
    out: Path,
    config: DictConfig,
    points: Sequence[Budget],
    records: Records,
    result: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> None:
    """Write all files, each in one step; metrics.json comes last, so that where it is, the others are."""
    (out / "metrics.json").unlink(missing_ok=True)
    budget = {point.name: point.json for point in points}
    lines = [
        {"run": config.run, "task": task, "budget": budget[name], "visual_mean": _mean(r["visual"]), **r}
        for task, found in records.items()
        for name, rows in found.items()
        for r in rows
    ]
    table = pd.DataFrame(lines)
    if any(isinstance(one, float) for one in table["correct"]):  # one type a column: shares beside yes and no
        table["correct"] = table["correct"].astype(float)
    answered = ["run", "task", "budget", "id", "kind", "prediction", "answer", "correct", "generated", "visual_mean"]
    traced = ["task", "budget", "id", "picture", "visual", "lengths", "kept"]
    scores = {key: result[key] for key in ("model", "method", "scores")}
    try:
        _whole(out / "predictions.parquet", lambda path: table[answered].to_parquet(path, index=False))
        _whole(out / "trace.parquet", lambda path: table[traced].to_parquet(path, index=False))
        _whole(out / "curve.csv", lambda path: curve(result["scores"]).to_csv(path, index=False))
        _whole(out / "config.yaml", lambda path: path.write_text(to_yaml(config), encoding="utf-8"))
        _whole(out / "protocol.json", _json(result["protocol"]))
        _whole(out / "timing.json", _json(timing))
        _whole(out / "metrics.json", _json(scores))
    except OSError as error:
        raise UserError(f"the results cannot be written to {out} ({error.strerror}).") from error


def _json(value: Any) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _whole(path: Path, save: Callable[[Path], None]) -> None:
    """Save under another name and rename: a reader sees the old file or the new one, never a half."""
    part = path.with_name(path.name + ".part")
    save(part)
    part.replace(path)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
