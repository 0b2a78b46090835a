"""What lmms-eval returns -> scores and records in the layout of a run (`evaluation.outputs`), and the card.

An accuracy here is the mean of what lmms-eval gives each row under the first of the task's metrics that does so, on a
scale from 0 to 1; ``summary.lmms_eval`` holds all that lmms-eval itself makes of the answers. A task whose metrics look
at all answers at once (CIDEr, a judge's score of 10) has no accuracy, only the summary.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from thinsight.costs.flops import DecoderShape
from thinsight.evaluation.outputs import score_records
from thinsight.evaluation.protocol import LMMS_EVAL
from thinsight.lmms.requests import Request

Record = dict[str, Any]


def scored(records: Mapping[str, Record], samples: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[Record]:
    """``records`` (by the row's number) with the reference and the score of each row from lmms-eval's ``samples``, in
    their order. ``correct``: True or False, a share from 0 to 1, or None in all of them.

    Of a task with several filters, each of which scores every row, the first counts.
    """
    samples = list({sample["doc_id"]: sample for sample in reversed(samples)}.values())[::-1]
    marks = [next((_number(s[name]) for name in metrics if _number(s.get(name)) is not None), None) for s in samples]
    if any(mark is None or not 0 <= mark <= 1 for mark in marks):
        marks = [None] * len(samples)
    elif all(mark in (0, 1) for mark in marks):
        marks = [bool(mark) for mark in marks]
    return [
        {**records[str(sample["doc_id"])], "answer": _text(sample["target"]), "correct": mark}
        for sample, mark in zip(samples, marks, strict=True)
    ]


def metric_names(scores: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics in lmms-eval's results of one task, ``{"exact_match,none": 0.5, ...}``, in their order, as far as
    some of its ``samples`` have a value of them."""
    names = dict.fromkeys(key.partition(",")[0] for key in scores if "," in key)
    return [name for name in names if any(name in sample for sample in samples)]


def cell(
    records: Sequence[Record], shape: DecoderShape, element_bytes: int, scores: Mapping[str, Any]
) -> dict[str, Any]:
    """The scores and costs of one task under one budget; ``scores``: lmms-eval's own of the task."""
    summary = {"lmms_eval": {key: value for key, value in scores.items() if "," in key and _is_number(value)}}
    return {**score_records(records, shape, element_bytes), "summary": summary}


def lmms_card(card: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The protocol card of a run by lmms-eval: that of the model, ``card``, with ``tasks`` (from `task_card`)."""
    versions = {**card["versions"], "lmms_eval": version("lmms_eval")}
    return {**card, "protocol": LMMS_EVAL, "tasks": dict(tasks), "versions": versions}


def task_card(
    requests: Sequence[Request],
    records: Mapping[str, Record],
    prompt: str,
    config: Mapping[str, Any],
    splits: Mapping[str, Any],
) -> dict[str, Any]:
    """What the card says of a task; ``config``: lmms-eval's of it, ``prompt``: the first one, ``splits``: its data."""
    first, ids = requests[0], [request.id for request in requests]
    digests = [records[row]["digest"] for row in ids]
    split = config.get("test_split") or config.get("validation_split")
    return {
        "split": split,
        "rows": len(ids),
        "ids_sha256": _sha(ids),
        "rows_sha256": _sha(digests),
        "prompt": prompt,
        "metric": ", ".join(str(metric["metric"]) for metric in config.get("metric_list") or []),
        "protocol": LMMS_EVAL,
        "max_new_tokens": first.max_new_tokens,
        "stops": list(first.stops),
        **({"not_followed": dict(first.sampling)} if first.sampling else {}),
        "source": {
            "hub": config.get("dataset_path"),
            "config": config.get("dataset_name"),
            "revision": commit(splits.get(split)),
        },
        "version": _version(config.get("metadata")),
    }


def commit(rows: Any) -> str | None:
    """The commit of the hub's data set that ``rows`` (of `datasets`) were made of, by which its cache is laid out.

    None for local files, which ``rows_sha256`` identifies.
    """
    parts = [part for file in getattr(rows, "cache_files", []) for part in Path(file["filename"]).parts]
    return next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def _version(metadata: Any) -> str | None:
    """The version in the metadata of a task, a mapping or a list of them."""
    parts = metadata if isinstance(metadata, list) else [metadata]
    return next((str(part["version"]) for part in parts if isinstance(part, Mapping) and "version" in part), None)


def _number(value: Any) -> float | None:
    """The score of a row: a number, or the ``score`` in a mapping, as POPE's and MME's tasks have it."""
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value == value  # not a number is none


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _sha(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
