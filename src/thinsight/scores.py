"""From the records of a run to its scores: accuracy with its interval, tokens, FLOPs in every convention, bytes."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from thinsight.cost import Shape, decode_steps, kv_bytes, ledger
from thinsight.stats import wilson
from thinsight.summaries import summary


def score_of(
    records: Sequence[Mapping[str, Any]], shape: Shape, element_bytes: int, metric: str = "exact"
) -> dict[str, Any]:
    """Scores of one task under one budget; with a ``summary`` where ``metric`` has one (see `thinsight.summaries`).

    FLOPs are means over the rows of the count from each row's own lengths (the mean of n^2 is not the square of the
    mean): ``prefill_flops``, and ``flops`` with the decoding of the answer. ``kv_bytes``: the cache after the prefill.
    ``layer``: the first decoder layer that the picture does not reach whole, if it is the same for all rows.
    """
    correct = sum(r["correct"] for r in records)
    low, high = _interval([r["correct"] for r in records])
    layers = {_first_short(r) for r in records}
    visual = _mean_rows([r["visual"] for r in records])
    return {
        "n": len(records),
        "correct": correct,
        "accuracy": correct / len(records),
        "interval": [low, high],
        "kinds": _kinds(records),
        "layer": layers.pop() if len(layers) == 1 else None,
        "picture_tokens": _mean([r["picture"] for r in records]),
        "visual_tokens": visual,
        "visual_tokens_mean": _mean(visual),
        "visual_tokens_kept": _mean([len(r["kept"]) for r in records]),
        "generated_tokens": _mean([r["generated"] for r in records]),
        **_costs(records, shape, element_bytes),
        **summary(metric, records),
    }


def curve(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """One line per task and budget, for plots: task, budget, accuracy, tflops, layer, visual_tokens_mean.

    ``tflops``: prefill in the `profiler` convention.
    """
    lines = [
        {
            "task": task,
            "budget": budget,
            "accuracy": found["accuracy"],
            "tflops": found["prefill_flops"]["profiler"] / 1e12,
            "layer": found["layer"],
            "visual_tokens_mean": found["visual_tokens_mean"],
        }
        for task, budgets in scores.items()
        for budget, found in budgets.items()
    ]
    return pd.DataFrame(lines).astype({"layer": "Int64"})


def _costs(records: Sequence[Mapping[str, Any]], shape: Shape, element_bytes: int) -> dict[str, Any]:
    # rows of a task share few different lengths
    @cache
    def cost(lengths: tuple[int, ...], visual: tuple[int, ...], generated: int) -> tuple[dict, dict, int]:
        steps = decode_steps(lengths, generated)
        return (
            ledger(shape, lengths, visual=visual),
            ledger(shape, lengths, visual=visual, steps=steps),
            kv_bytes(shape, lengths, element_bytes=element_bytes),
        )

    found = [cost(tuple(r["lengths"]), tuple(r["visual"]), r["generated"]) for r in records]
    prefill, whole, cached = zip(*found, strict=True)
    return {
        "prefill_flops": {name: _mean([one[name] for one in prefill]) for name in prefill[0]},
        "flops": {name: _mean([one[name] for one in whole]) for name in whole[0]},
        "kv_bytes": _mean(cached),
    }


def _interval(scores: Sequence[bool | float]) -> tuple[float, float]:
    """95 % of the mean: Wilson's of right and wrong; of shares the normal one, within [0, 1]."""
    if all(isinstance(one, bool) for one in scores):
        return wilson(sum(scores), len(scores))
    mean, error = float(np.mean(scores)), float(np.std(scores, ddof=len(scores) > 1)) / len(scores) ** 0.5
    return max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)


def _kinds(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[bool | float]] = {}
    for record in records:
        groups.setdefault(record["kind"], []).append(record["correct"])
    return {kind: {"n": len(groups[kind]), "accuracy": _mean(groups[kind])} for kind in sorted(groups)}


def _first_short(record: Mapping[str, Any]) -> int | None:
    return next((layer for layer, n in enumerate(record["visual"]) if n < record["picture"]), None)


def _mean_rows(rows: Sequence[Sequence[int]]) -> list[float]:
    return [_mean(column) for column in zip(*rows, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
