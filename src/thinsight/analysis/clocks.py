"""What machines have measured (data/benchmarks, a file a device): seconds, memory and what FLOPs allow, as frames."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.errors import UserError
from thinsight.paths import ROOT

FOLDER = ROOT / "data" / "benchmarks"

WHERE = ("device", "kind", "model", "shape", "dtype", "batch", "label")
"""What says which benchmark a line belongs to; ``label``: tokens of 576 that its budgets are named by."""

COLUMNS = (
    *WHERE, "method", "layer_mean", "visual_tokens", "phase", "realised", "low", "high", "bound", "share", "own_share",
    "peak", "plain_peak", "repeats",
)  # fmt: skip


def read_benchmarks(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The files of ``folder`` by name, without those that only showed that every line runs (``--smoke``)."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            lacking = {"device", "kind", "timings", "not_run", "smoke"} - content.keys()
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path.name} is no benchmark: write it again with benchmarks/cpu.sh or gpu.sh") from error
        if lacking:
            raise UserError(f"{path.name} is no benchmark: it lacks {', '.join(sorted(lacking))}")
        found += [] if content["smoke"] else [content]
    return found


def timing_frame(benchmarks: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per device, model, batch, budget, method and phase, with the columns `COLUMNS`; prefills alone.

    realised, low, high   how many times faster than the plain model: median and quartiles
    bound, share          the same by FLOPs, and realised over it
    own_share             the method's own work over the plain prefill;  peak, plain_peak  bytes besides the weights
    """
    lines = []
    for benchmark in benchmarks:
        for part in benchmark["timings"]:
            if part["answers"]:
                continue
            where = {"device": benchmark["device"], "kind": benchmark["kind"]}
            where |= {name: part[name] for name in WHERE if name not in where}
            lines += [line for group in _groups(part["records"]) for line in _lines(where, *group)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _groups(records: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(the plain model, a method) that were interleaved with each other."""
    pairs, plain = [], None
    for number, record in enumerate(records):
        if "method" not in record:  # the headline is the first of the plain ones
            plain = record if not number or "method" in records[number - 1] else plain
        elif "why" not in record:
            pairs.append((plain, record))
    return pairs


def _lines(where: Mapping[str, Any], plain: Mapping[str, Any], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    out = []
    same = {name: record.get(name) for name in ("method", "layer_mean", "visual_tokens", "own_share", "repeats")}
    same |= {"peak": record.get("peak_bytes"), "plain_peak": plain.get("peak_bytes")}
    for phase, bound in record["bound"].items():
        spread = record["speedup"][phase]
        line = {"phase": phase, "realised": spread["median"], "low": spread["low"], "high": spread["high"]}
        out.append({**where, **same, **line, "bound": bound, "share": spread["median"] / bound})
    return out
