"""Variants of one method, the budgets of one run, compared with the method itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.comparisons import MEAN, compare
from thinsight.analysis.results import load_answers
from thinsight.evaluation.budget import Budget

COLUMNS = (
    "budget", "part", "variant", "keep", "base", "accuracy", "low", "high", "difference", "least", "most", "kept",
)  # fmt: skip


def method_variants(folder: Path, run: str) -> dict[str, dict[str, Any]]:
    """Budget -> its swept fields, of one run; empty if the run is not there."""
    labels = load_answers(folder, [run], missing_ok=True)["budget"].unique()
    return {label: Budget.parse(label).fields for label in labels}


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
        return pd.DataFrame(columns=list(COLUMNS))
    bases = {swept.get(axis): budget for budget, swept in fields.items() if set(swept) <= {axis}}
    first = next(iter(bases.values()))  # for a variant that sets the number in another way
    base = {budget: bases.get(swept.get(axis), first) for budget, swept in fields.items()}
    compared = compare(None, rows[rows["run"] == run], {budget: (run, [budget]) for budget in fields}, base)
    means = compared[compared["task"] == MEAN].set_index("line")
    tasks = compared[compared["task"] != MEAN].pivot(index="line", columns="task", values="accuracy")
    kept = results[results["run"] == run].groupby("budget")["kept"].mean()
    out = []
    for budget, swept in fields.items():
        changed = {key: value for key, value in swept.items() if key != axis}
        line = {
            "budget": budget,
            "part": part_of(changed, parts),
            "variant": spelled(changed),
            "keep": swept.get(axis),
            "base": budget == base[budget],
        }
        names = ("accuracy", "accuracy_low", "accuracy_high", "difference", "low", "high")
        line |= dict(zip(COLUMNS[5:11], means.loc[budget, list(names)], strict=True))
        out.append(line | {"kept": kept[budget]} | tasks.loc[budget, list(dict.fromkeys(rows["task"]))].to_dict())
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


def significant(table: pd.DataFrame) -> pd.DataFrame:
    """The variants whose paired interval excludes zero, the largest loss first."""
    sure = table[~table["base"].astype(bool) & ((table["most"] < 0) | (table["least"] > 0))]
    return sure.sort_values("difference", kind="stable")


def ablation_facts(table: pd.DataFrame) -> dict[str, Any]:
    """What a finding says of `ablation_table`.

    changes   variant with a sure difference -> {keep: difference}, the largest difference first
    keeps     how many values of ``keep`` there are;  variants  how many variants
    """
    sure = significant(table)
    sure = sure.loc[sure["difference"].abs().sort_values(ascending=False, kind="stable").index]
    changes = {
        variant: part.sort_values("keep", ascending=False).set_index("keep")["difference"].to_dict()
        for variant, part in sure.groupby("variant", sort=False)
    }
    variants = table.loc[~table["base"].astype(bool), "variant"]
    return {"changes": changes, "keeps": table["keep"].nunique(), "variants": variants.nunique()}
