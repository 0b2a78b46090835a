"""Which kind of question a method hurts: losses against the whole model, kind by kind."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thinsight.standing import budgets_at


def kinds(
    results: pd.DataFrame,
    rows: pd.DataFrame,
    keeps: Sequence[float],
    base: str = "plain",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One line per budget, run, task and kind of its questions.

    keep, run, task, kind, n   what was asked, and how many questions
    whole, accuracy            the score of ``base`` and of the run, seeds averaged
    change, low, high          their difference on the same questions, with a paired bootstrap interval
    """
    rng, out = np.random.default_rng(seed), []
    lines = [(keep, run, of) for keep in keeps for run in results["run"].unique()
             if (of := budgets_at(results, run, keep)) and run != base]  # fmt: skip
    for (task, kind), part in rows.groupby(["task", "kind"], sort=False):
        right = part.pivot(index="id", columns=["run", "budget"], values="correct").astype(float)
        n, whole = len(right), right[base, "fixed"].to_numpy()
        answered = dict(zip(right.columns, right.to_numpy().T, strict=True))
        draws = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
        for keep, run, budgets in lines:
            own = np.mean([answered[run, budget] for budget in budgets], axis=0)
            low, high = np.quantile(draws @ (own - whole), [0.025, 0.975])
            line = {"keep": keep, "run": run, "task": task, "kind": kind, "n": n, "whole": whole.mean()}
            line |= {"accuracy": own.mean(), "change": (own - whole).mean(), "low": low, "high": high}
            out.append(line)
    return pd.DataFrame(out)


def changes(table: pd.DataFrame) -> pd.DataFrame:
    """Mean change by task and kind over the runs of a `kinds` frame, the largest loss first."""
    means = table.groupby(["task", "kind"], sort=False, as_index=False)["change"].mean()
    return means.sort_values("change", kind="stable", ignore_index=True)
