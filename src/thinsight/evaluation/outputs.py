"""Answers -> scores, costs and the files of a run.

metrics.json         scores per task and budget (`score_records`, `counted.flops_besides_decoder`); the same bytes for
                     the same config and machine
curve.csv            the same as a table for plots
predictions.parquet  one line per task, budget and row: what was asked, answered, and how many tokens it took; where
                     rows failed, a column ``failed`` with the reason
trace.parquet        one line per task, budget and row: tokens entering each layer and the patches alive at the end
protocol.json        the protocol card
timing.json          seconds and answers of the last session; differs from run to run
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from thinsight.costs.flops import DecoderShape, decode_steps, flops_by_convention, kv_bytes
from thinsight.errors import UserError, writing
from thinsight.evaluation.answer import FAILED
from thinsight.evaluation.sweep import SweepPoint
from thinsight.paths import save_whole
from thinsight.stats import wilson

Record = Mapping[str, Any]
"""What `answer` says of one row."""


def score_records(
    records: Sequence[Record],
    shape: DecoderShape,
    element_bytes: int,
    summary: Callable[[Sequence[Record]], Any] | None = None,
) -> dict[str, Any]:
    """Scores of one task under one budget; with what ``summary`` makes of the records, if there is one.

    FLOPs are means over the rows of the count from each row's own lengths (the mean of n^2 is not the square of the
    mean): ``prefill_flops``, and ``flops`` with the decoding of the answer. ``kv_bytes``: the cache after the prefill.
    ``layer``: the first decoder layer that the picture does not reach whole, if it is the same for all rows. Rows that
    failed, and those of a group that is not whole without them, count in ``failed`` alone. Answers that nothing here
    can score (``correct`` is None in all records) have costs, and `UNSCORED` in place of a score.
    """
    records, failed = _scored(records)
    unscored = all(r["correct"] is None for r in records)
    layers = {_first_short(r) for r in records}
    visual = _mean_rows([r["visual"] for r in records])
    return {
        "n": len(records),
        **(UNSCORED if unscored else _score(records)),
        "layer": layers.pop() if len(layers) == 1 else None,
        "picture_tokens": _mean([r["picture"] for r in records]),
        "visual_tokens": visual,
        "visual_tokens_mean": _mean(visual),
        "visual_tokens_kept": _mean([len(r["kept"]) for r in records]),
        "generated_tokens": _mean([r["generated"] for r in records]),
        **_costs(records, shape, element_bytes),
        **({"summary": summary(records)} if summary and not unscored else {}),
        **({FAILED: failed} if failed else {}),
    }


UNSCORED = {"correct": None, "accuracy": None, "interval": [None, None], "kinds": {}}
"""What stands in place of a score where there is none: a server or a judge is to give it."""


def _score(records: Sequence[Record]) -> dict[str, Any]:
    correct = sum(r["correct"] for r in records)
    low, high = _interval([r["correct"] for r in records])
    return {
        "correct": correct,
        "accuracy": correct / len(records),
        "interval": [low, high],
        "kinds": _kinds(records),
    }


def _scored(records: Sequence[Record]) -> tuple[list[Record], int]:
    """The records that a score is made of, and the number of the others."""
    there = [record for record in records if FAILED not in record]
    if len(there) < len(records):
        sizes = Counter(record["group"] for record in there if "group" in record)
        there = [r for r in there if "group" not in r or sizes[r["group"]] >= r["group_size"]]
    if not there:
        raise UserError("no row is left to be scored: all of them, or one of each group, failed")
    return there, len(records) - len(there)


def budget_curve(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """One line per task and budget, for plots: task, budget, accuracy, tflops, layer, visual_tokens_mean.

    ``tflops``: prefill in the `profiler` convention.
    """
    lines = [
        {
            "task": task,
            "budget": budget,
            "accuracy": cell["accuracy"],
            "tflops": cell["prefill_flops"]["profiler"] / 1e12,
            "layer": cell["layer"],
            "visual_tokens_mean": cell["visual_tokens_mean"],
        }
        for task, budgets in scores.items()
        for budget, cell in budgets.items()
    ]
    return pd.DataFrame(lines).astype({"layer": "Int64"})


def _costs(records: Sequence[Record], shape: DecoderShape, element_bytes: int) -> dict[str, Any]:
    # rows of a task share few different lengths
    @cache
    def cost(lengths: tuple[int, ...], visual: tuple[int, ...], generated: int) -> tuple[dict, dict, int]:
        steps = decode_steps(lengths, generated)
        return (
            flops_by_convention(shape, lengths, visual=visual),
            flops_by_convention(shape, lengths, visual=visual, steps=steps),
            kv_bytes(shape, lengths, element_bytes=element_bytes),
        )

    costs = [cost(tuple(r["lengths"]), tuple(r["visual"]), r["generated"]) for r in records]
    prefill, whole, cached = zip(*costs, strict=True)
    return {
        "prefill_flops": {name: _mean([counts[name] for counts in prefill]) for name in prefill[0]},
        "flops": {name: _mean([counts[name] for counts in whole]) for name in whole[0]},
        "kv_bytes": _mean(cached),
    }


def _interval(scores: Sequence[bool | float]) -> tuple[float, float]:
    """95 % of the mean: Wilson's of right and wrong; of shares the normal one, within [0, 1]."""
    if all(isinstance(score, bool) for score in scores):
        return wilson(sum(scores), len(scores))
    mean, error = float(np.mean(scores)), float(np.std(scores, ddof=len(scores) > 1)) / len(scores) ** 0.5
    return max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)


def _kinds(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[bool | float]] = {}
    for record in records:
        groups.setdefault(record["kind"], []).append(record["correct"])
    return {kind: {"n": len(groups[kind]), "accuracy": _mean(groups[kind])} for kind in sorted(groups)}


def _first_short(record: Record) -> int | None:
    return next((layer for layer, n in enumerate(record["visual"]) if n < record["picture"]), None)


def _mean_rows(rows: Sequence[Sequence[int]]) -> list[float]:
    return [_mean(column) for column in zip(*rows, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def write_run(
    out: Path,
    config: DictConfig,
    points: Sequence[SweepPoint],
    records: Mapping[str, Mapping[str, Sequence[Record]]],
    result: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> None:
    """Write all files, each in one step; metrics.json comes last, so that where it is, the others are."""
    with writing(out):
        (out / "metrics.json").unlink(missing_ok=True)
    fields = {str(point.budget): json.dumps(point.budget.fields) for point in points}
    lines = [
        {"run": config.run, "task": task, "budget": fields[budget], **_mean_length(record), **record}
        for task, budgets in records.items()
        for budget, answered in budgets.items()
        for record in answered
    ]
    table = pd.DataFrame(lines)
    answered = table[FAILED].isna() if FAILED in table else pd.Series(True, table.index)
    scored = table["correct"].notna()
    shares = any(isinstance(score, float) for score in table["correct"][scored])
    if shares:  # one type a column: shares beside yes and no
        table["correct"] = table["correct"].astype(float)
    elif not scored.all():
        table["correct"] = table["correct"].astype("boolean")
    prediction_columns = [
        "run",
        "task",
        "budget",
        "id",
        "kind",
        "prediction",
        "answer",
        "correct",
        "generated",
        "visual_mean",
        *([FAILED] if FAILED in table else []),
    ]
    trace_columns = ["task", "budget", "id", "picture", "visual", "lengths", "kept"]
    scores = {key: result[key] for key in ("model", "method", "scores")}
    save_whole(out / "predictions.parquet", lambda path: table[prediction_columns].to_parquet(path, index=False))
    save_whole(out / "trace.parquet", lambda path: table.loc[answered, trace_columns].to_parquet(path, index=False))
    save_whole(out / "curve.csv", lambda path: budget_curve(result["scores"]).to_csv(path, index=False))
    save_whole(out / "protocol.json", _json(result["protocol"]))
    save_whole(out / "timing.json", _json(timing))
    save_whole(out / "metrics.json", _json(scores))


def _mean_length(record: Record) -> dict[str, float]:
    return {} if FAILED in record else {"visual_mean": _mean(record["visual"])}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
