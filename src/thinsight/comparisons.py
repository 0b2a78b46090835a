"""Every method beside the whole model and beside random, task by task, with correction for how often that is asked."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from thinsight.resampled import Resampled
from thinsight.results import drawn
from thinsight.standing import MEAN, budgets_at
from thinsight.stats import holm, mcnemar

LEVEL = 0.05  # the chance of a false difference that a comparison, or all of them together, may have
OPPONENTS = ("random", "whole")
SINGLE = "single tasks"


def comparisons(
    results: pd.DataFrame, rows: pd.DataFrame, keeps: Sequence[float], base: str = "plain", control: str = "random"
) -> pd.DataFrame:
    """One line per budget, run and task, and for all questions together (task "mean").

    keep, run, budget, task, n  what is compared, on how many questions
    accuracy                    the mean over seeds, and over tasks
    relative, low, high         the score as a share of ``base``'s, the mean of the tasks' shares; paired bootstrap
    random, whole               difference of accuracies to ``control`` at the same ``keep``, and to ``base``, with
    ..._low, ..._high           a paired bootstrap interval over questions,
    ..._p                       McNemar's exact p on the same questions: with several seeds the largest of all pairs,
                                and 1 if they do not agree in direction
    ..._fdr, ..._holm           p adjusted by Benjamini and Hochberg, and by Holm, for all comparisons of this table
                                that are of its kind: those of all questions, or those of single tasks
    """
    sampled, right = Resampled(rows), _right(rows)
    whole, out = sampled.score(base, ["fixed"]), []
    for keep, run in product(keeps, results["run"].unique()):
        budgets = budgets_at(results, run, keep)
        if not budgets or run == base:
            continue
        others = {"random": (control, budgets_at(results, control, keep)), "whole": (base, ["fixed"])}
        score = sampled.score(run, budgets)
        for task in (*sampled.tasks, MEAN):
            at = slice(None) if task == MEAN else [sampled.tasks.index(task)]
            part = right[task]
            own = type(score)(score.point[at], score.boots[:, at])
            share = score.over(whole)
            share = type(score)(share.point[at], share.boots[:, at])
            low, high = share.interval()
            line = {"keep": keep, "run": run, "budget": drawn(budgets[0]), "task": task, "n": len(part[base, "fixed"])}
            line |= {"accuracy": own.mean, "relative": share.mean, "low": low, "high": high}
            for name, (other, theirs) in others.items():
                if other == run:
                    line |= dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_p"), np.nan)
                    continue
                beside = sampled.score(other, theirs)
                difference = own.minus(type(score)(beside.point[at], beside.boots[:, at]))
                low, high = difference.interval()
                p = _p([_split(part, (run, a), (other, b)) for a, b in product(budgets, theirs)])
                line |= {name: difference.mean, f"{name}_low": low, f"{name}_high": high, f"{name}_p": p}
            out.append(line)
    return _corrected(pd.DataFrame(out))


def survivors(table: pd.DataFrame) -> pd.DataFrame:
    """How many differences of `comparisons` are left: a line per kind ("mean", "single tasks") and opponent.

    kind, against, comparisons; nominal, fdr, holm: those below `LEVEL` without and with correction; better, worse: of
    those that survive Holm, the method's direction.
    """
    out = []
    for (kind, part), name in product(_kinds(table), OPPONENTS):
        part = part[part[f"{name}_p"].notna()]
        sure = part[part[f"{name}_holm"] < LEVEL]
        line = {"kind": kind, "against": name, "comparisons": len(part)}
        line |= {"nominal": int((part[f"{name}_p"] < LEVEL).sum()), "fdr": int((part[f"{name}_fdr"] < LEVEL).sum())}
        line |= {"holm": len(sure), "better": int((sure[name] > 0).sum()), "worse": int((sure[name] < 0).sum())}
        out.append(line)
    return pd.DataFrame(out)


def _kinds(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(MEAN, table[table["task"] == MEAN]), (SINGLE, table[table["task"] != MEAN])]


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    columns = [f"{name}_p" for name in OPPONENTS]
    for _, part in _kinds(table):
        asked = part[columns].to_numpy()
        there = ~np.isnan(asked)
        for ending, adjust in {"fdr": false_discovery_control, "holm": holm}.items():
            adjusted = np.full(asked.shape, np.nan)
            if there.any():
                adjusted[there] = adjust(asked[there])
            for number, name in enumerate(OPPONENTS):
                table.loc[part.index, f"{name}_{ending}"] = adjusted[:, number]
    return table


def _right(rows: pd.DataFrame) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """task, or "mean" for all -> (run, budget) -> for each question whether its answer is more than half right."""
    wide = rows.pivot(index=["task", "id"], columns=["run", "budget"], values="correct") > 0.5
    parts = dict(list(wide.groupby(level="task", sort=False))) | {MEAN: wide}
    return {task: dict(zip(wide.columns, part.to_numpy().T, strict=True)) for task, part in parts.items()}


def _split(
    right: dict[tuple[str, str], np.ndarray], first: tuple[str, str], second: tuple[str, str]
) -> tuple[int, int]:
    """On how many questions only the first, and only the second, is right."""
    a, b = right[first], right[second]
    return int((a & ~b).sum()), int((b & ~a).sum())


def _p(splits: Sequence[tuple[int, int]]) -> float:
    """The largest p of several draws: what is said to differ must differ from each of them, in one direction."""
    if len({np.sign(first - second) for first, second in splits}) > 1:
        return 1.0
    return max(mcnemar(first, second) for first, second in splits)
