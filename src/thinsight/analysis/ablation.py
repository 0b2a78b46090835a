"""Variants of one method, the budgets of one run, compared with the method itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from thinsight.analysis.comparisons import MEAN, compare
from thinsight.evaluation.budget import Budget

COLUMNS = (
    "budget", "part", "variant", "keep", "base", "accuracy", "low", "high", "difference", "least", "most", "kept",
)  # fmt: skip


def ablation_table(results: pd.DataFrame, rows: pd.DataFrame, parts: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One line per variant: the mean score over tasks and its difference to the variant with no changed field at the
    same ``keep``, or to the first such one if the variant sets the number in another way.

    results, rows  of one run (`analysis.results.read_if_run`); no lines give none
    parts          a part of the method -> the fields that belong to it

    budget, part, variant ("rewriting = none"), keep; accuracy, low, high (bootstrap); difference, least, most (paired,
    on the same questions); kept (mean tokens); a column for each task. The unchanged one is ``base``.
    """
    if rows.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    fields = {label: Budget.parse(label).fields for label in rows["budget"].unique()}
    bases = {swept.get("keep"): budget for budget, swept in fields.items() if set(swept) <= {"keep"}}
    first = next(iter(bases.values()))
    base = {budget: bases.get(swept.get("keep"), first) for budget, swept in fields.items()}
    compared = compare(None, rows, {budget: (rows["run"].iloc[0], [budget]) for budget in fields}, base)
    means = compared[compared["task"] == MEAN].set_index("line")
    tasks = compared[compared["task"] != MEAN].pivot(index="line", columns="task", values="accuracy")
    kept = results.groupby("budget")["kept"].mean()
    out = []
    for budget, swept in fields.items():
        changed = {key: value for key, value in swept.items() if key != "keep"}
        line = {"budget": budget, "part": part_of(changed, parts), "variant": spelled(changed)}
        line |= {"keep": swept.get("keep"), "base": budget == base[budget]}
        names = ["accuracy", "accuracy_low", "accuracy_high", "difference", "low", "high"]
        line |= dict(zip(COLUMNS[5:11], means.loc[budget, names], strict=True))
        out.append(line | {"kept": kept[budget]} | tasks.loc[budget, rows["task"].unique()].to_dict())
    return pd.DataFrame(out)


def part_of(changed: Mapping[str, Any], parts: Mapping[str, Sequence[str]]) -> str:
    """The part that the first changed field with a part belongs to; empty for none."""
    return next((part for key in changed for part, fields in parts.items() if key in fields), "")


def spelled(changed: Mapping[str, Any]) -> str:
    """The changed fields as one reads them; ``as it is`` for none."""
    texts = {
        key: "null" if value is None else " + ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for key, value in changed.items()
    }
    return ", ".join(f"{key} = {text}" for key, text in texts.items()) or "as it is"


def ablation_facts(table: pd.DataFrame) -> dict[str, Any]:
    """What a finding says of `ablation_table`.

    changes   variant whose paired interval excludes zero -> {keep: difference}, the largest difference first
    keeps     how many values of ``keep`` there are;  variants  how many variants
    """
    variants = table[~table["base"].astype(bool)]
    sure = variants[(variants["most"] < 0) | (variants["least"] > 0)].sort_values("difference", kind="stable")
    sure = sure.sort_values("difference", key=abs, ascending=False, kind="stable")
    changes = {
        variant: part.sort_values("keep", ascending=False).set_index("keep")["difference"].to_dict()
        for variant, part in sure.groupby("variant", sort=False)
    }
    return {"changes": changes, "keeps": table["keep"].nunique(), "variants": variants["variant"].nunique()}
