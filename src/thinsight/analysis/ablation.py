"""Variants of one method compared with the method itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.results import finished
from thinsight.stats import Resampled

COLUMNS = (
    "budget", "part", "variant", "keep", "base", "accuracy", "low", "high", "difference", "least", "most", "kept",
)  # fmt: skip


def method_variants(folder: Path, run: str) -> dict[str, dict[str, Any]]:
    """Budget -> its swept fields, of one run; empty if the run is not there."""
    files = finished(folder, [run])
    if not files:
        return {}
    file = files[0].with_name("predictions.parquet")
    texts = pd.read_parquet(file, columns=["budget"])["budget"].unique()
    fields = [json.loads(text) for text in texts]
    return {",".join(f"{key}={value}" for key, value in one.items()) or "fixed": one for one in fields}


def ablation_table(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    run: str,
    fields: Mapping[str, Mapping[str, Any]],
    parts: Mapping[str, str],
    axis: str = "keep",
) -> pd.DataFrame:
    """One line per variant of ``run``: the mean score over tasks and its difference to the variant with no changed
    field at the same value of ``axis``.

    fields  budget -> its fields (`method_variants`);  parts  field -> the part of the method that it belongs to
    budget, part, variant ("rewriting = none"), keep; accuracy, low, high (bootstrap); difference, least, most (paired,
    on the same questions); kept (mean tokens); a column for each task. The unchanged one is ``base``.
    """
    if not fields:  # the run is not there
        return pd.DataFrame(columns=COLUMNS)
    sampled, own = Resampled(rows[rows["run"] == run]), results[results["run"] == run]
    bases = {of.get(axis): budget for budget, of in fields.items() if set(of) <= {axis}}
    out = []
    for budget, of in fields.items():
        changed = {key: value for key, value in of.items() if key != axis}
        value = of.get(axis)
        base = bases.get(value) or next(iter(bases.values()))  # a variant that sets the number in another way
        score, other = sampled.score(run, [budget]), sampled.score(run, [base])
        difference = score.minus(other)
        low, high = score.interval()
        least, most = difference.interval()
        line = {
            "budget": budget,
            "part": part_of(changed, parts),
            "variant": spelled(changed),
            "keep": value,
            "base": budget == base,
        }
        line |= {"accuracy": score.mean, "low": low, "high": high}
        line |= {"difference": difference.mean, "least": least, "most": most}
        line |= {"kept": own.loc[own["budget"] == budget, "kept"].mean()}
        out.append(line | dict(zip(sampled.tasks, score.point, strict=True)))
    return pd.DataFrame(out)


def part_of(changed: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """The part that the first changed field with a part belongs to; empty for none."""
    return next((parts[key] for key in changed if key in parts), "")


def spelled(changed: Mapping[str, Any]) -> str:
    """The changed fields as one reads them; ``as it is`` for none."""
    return ", ".join(f"{key} = {_value(value)}" for key, value in changed.items()) or "as it is"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " + ".join(map(str, value))
    return str(value)


def ablation_finding(table: pd.DataFrame, most: int = 5) -> str:
    """The variants of `ablation_table` that make a sure difference, in a sentence; the ``most`` largest of them."""
    found, several = significant(table), table["keep"].nunique() > 1
    if found.empty:
        return "No variant makes a difference that its interval is sure of."
    found = found.loc[found["difference"].abs().sort_values(ascending=False, kind="stable").index]
    groups = [part for _, part in found.groupby("variant", sort=False)]
    told = [f"{part['variant'].iloc[0]} ({_points(part, several)})" for part in groups[:most]]
    rest = len(groups) - len(told)
    still = table.loc[~table["base"], "variant"].nunique() - len(groups)
    also = f" and {rest} more" if rest else ""
    return (
        "Each by its own paired 95 % interval, these change the score, in points: "
        f"{'; '.join(told)}{also}. The intervals of {still} other variants hold zero."
    )


def _points(part: pd.DataFrame, several: bool) -> str:
    """``-4.6``, or where there are several values of keep ``-4.6 at 0.2, +1.0 at 0.8``."""
    by = part.sort_values("keep", ascending=False)
    return ", ".join(
        f"{100 * line.difference:+.1f}" + (f" at {line.keep:g}" if several else "") for line in by.itertuples()
    )


def significant(table: pd.DataFrame) -> pd.DataFrame:
    """The variants whose paired interval excludes zero, the largest loss first."""
    found = table[~table["base"] & ((table["most"] < 0) | (table["least"] > 0))]
    return found.sort_values("difference", kind="stable")
