"""FiCoCo's ablations: printed and run.

A printed row is a point of a run's sweep. What is compared is the direction of the difference to the method as it is,
not scores of different models.
"""

from pathlib import Path

import pandas as pd

from thinsight.analysis.comparisons import MEAN, compare
from thinsight.analysis.results import load_answers
from thinsight.evaluation.budget import Budget
from thinsight.ledger.verdicts import same_order
from thinsight.stats import Bootstrap

AS_IT_IS = "fixed"  # the point {} of a sweep
PAIRS = {"ScienceQA-IMG": "choice", "TextVQA": "read"}  # printed benchmark -> the task of ours that is modelled on it

SHARED = {
    "full": AS_IT_IS,
    "fixed K=0 (prune)": "edges=0",
    "fixed K=1": "edges=1",
    "fixed K=2": "edges=2",
    "convergent (one sink)": "convergent=True",
    "average compression": "even=True",
}

POINTS = {
    "FiCoCo-V": {
        **SHARED,
        "no vision-aware redundancy": "lambda=0.0",
        "no semantic-aware redundancy": "lambda=1.0",
        "no local penalty": "penalty=1.0",
        "mean key": "cls=key_mean",
        **{f"scale={n}": f"penalty={n}.0" for n in (1, 3, 4)},
    },
    "FiCoCo-L": {
        **SHARED,
        "no vision-aware redundancy": "beta=0.0",
        "no task-aware redundancy": "beta=1.0",
        "with local penalty": "penalty=2.0",
        "no indirect correlation": "gamma=1.0",
        "no direct correlation": "gamma=0.0",
    },
}
"""Printed row, without its method -> the point of the sweep that it is."""


def answers_of(folder: Path, run: str) -> pd.DataFrame:
    """What `load_answers` reads of one run; no lines if it is not there."""
    return load_answers(folder, [run], missing_ok=True)


def ficoco_ablation(published: pd.DataFrame, rows: pd.DataFrame, method: str, run: str) -> pd.DataFrame:
    """One line per printed row of ``method`` in tables 5, 6 and 9, and per further point of the ``run``.

    row (the point's name if it is not printed), point (None: no such point in the sweep), the printed benchmarks;
    the run's tasks, mean (all in %), difference (points, mean over tasks, to the method as it is) with low and high
    (paired bootstrap, 95 %), same (share of questions with the very same answer), agrees (see `ablation_direction`).

    rows  as `load_answers` reads them; a run that is not there leaves the measured part empty
    """
    own = rows[rows["run"] == run] if len(rows) else rows
    sampled = Bootstrap(own) if len(own) else None
    points = list(dict.fromkeys(own["budget"])) if len(own) else []
    compared = compare(None, own, {point: (run, [point]) for point in points}, AS_IT_IS) if points else pd.DataFrame()
    prints = _printed(published, method)
    lines = [(row, POINTS[method].get(row)) for row in prints.index if row in POINTS[method]]
    known = {point for _, point in lines}
    lines += [(point, point) for point in points if point not in known]
    out = []
    for row, point in lines:
        said = prints.loc[row].to_dict() if row in prints.index else dict.fromkeys(PAIRS, float("nan"))
        measured = _measured(compared, own, point) if point in points else {"point": None}
        agrees = None
        if point in points and row in prints.index and point != AS_IT_IS:
            agrees = ablation_direction(prints, row, sampled, run, point)
        out.append({"row": row, **said, **measured, "agrees": agrees})
    return pd.DataFrame(out)


def ablation_direction(prints: pd.DataFrame, row: str, sampled: Bootstrap, run: str, point: str) -> bool | None:
    """Whether print and run agree on which is better, this row or the method as it is: the mean over the benchmarks of
    `PAIRS` that are printed and over their tasks, by `same_order`; None: undecided on either side."""
    there = [name for name in PAIRS if prints.loc[row].notna()[name] and PAIRS[name] in sampled.tasks]
    change = (prints.loc[row, there] - prints.loc["full", there]).mean()
    at = [sampled.tasks.index(PAIRS[name]) for name in there]
    both = [sampled.score(run, [p]) for p in (point, AS_IT_IS)]
    ours, base = (score.select(at) for score in both)
    return same_order(change, ours.minus(base).interval())


def budget_curve(rows: pd.DataFrame, run: str, field: str, default: float) -> pd.DataFrame:
    """The points that change ``field`` alone, the method as it is at its ``default``: value, mean, low, high, all as
    shares of the mean score of the method as it is, paired on the same questions."""
    if not len(rows):
        return pd.DataFrame(columns=["value", "share", "low", "high"])
    sampled = Bootstrap(rows[rows["run"] == run])
    base, out = sampled.score(run, [AS_IT_IS]), []
    for point in dict.fromkeys(rows.loc[rows["run"] == run, "budget"]):
        fields = Budget.parse(point).fields
        if point != AS_IT_IS and set(fields) != {field}:
            continue
        score = sampled.score(run, [point])
        low, high = score.average().over(base.average()).interval()
        value = default if point == AS_IT_IS else float(fields[field])
        out.append({"value": value, "share": score.mean / base.mean, "low": low, "high": high})
    return pd.DataFrame(out).sort_values("value", ignore_index=True)


def printed_curve(published: pd.DataFrame, method: str, field: str) -> pd.DataFrame:
    """Table 12's (epsilon) or 13's (penalty) line for ``method``: value, share of the default's mean over both
    benchmarks, and the benchmarks."""
    key = {"penalty": "scale"}.get(field, field)
    own = published[(published["method"] == method) & published["row"].str.contains(f"{key}=", regex=False)]
    wide = own.pivot_table(index="row", columns="column", values="number", sort=False)[list(PAIRS)]
    values = wide.index.str.partition("=").get_level_values(2).astype(float)
    full = _printed(published, method).loc["full", list(PAIRS)].mean()
    out = wide.assign(value=values, share=wide.mean(axis=1) / full).reset_index(drop=True)
    return out.rename_axis(columns=None)


def _printed(published: pd.DataFrame, method: str) -> pd.DataFrame:
    """Rows of the method's ablations, without its name: columns `PAIRS`."""
    tables = published["table"].str.contains("ablation|stands for the class token|local penalty", regex=True)
    own = published[tables & (published["method"] == method) & published["column"].isin(PAIRS)]
    own = own.assign(row=own["row"].str.removeprefix(f"{method}, "))
    return own.pivot_table(index="row", columns="column", values="number", sort=False).reindex(columns=list(PAIRS))


def _measured(compared: pd.DataFrame, rows: pd.DataFrame, point: str) -> dict[str, object]:
    """What a point of the run scored, in %, beside the method as it is; ``compared``: `compare`."""
    line = compared[compared["line"] == point].set_index("task")
    tasks, mean = 100 * line["accuracy"].drop(MEAN), 100 * line.loc[MEAN, ["accuracy", "difference", "low", "high"]]
    predictions = rows.pivot(index=["task", "id"], columns="budget", values="prediction")
    same = float((predictions[point] == predictions[AS_IT_IS]).mean())
    return {"point": point, **tasks, **mean.rename({"accuracy": "mean"}), "same": same}
