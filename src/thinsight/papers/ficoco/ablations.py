"""FiCoCo's ablations: printed and run.

A printed row is a point of a run's sweep. What is compared is the direction of the difference to the method as it is,
not scores of different models.
"""

import pandas as pd

from thinsight.analysis.comparisons import MEAN, compare
from thinsight.evaluation.budget import FIXED, Budget
from thinsight.ledger.verdicts import same_order
from thinsight.stats import Bootstrap

PAIRS = {"ScienceQA-IMG": "choice", "TextVQA": "read"}  # printed benchmark -> the task of ours that is modelled on it

SHARED = {
    "full": FIXED,
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


def ficoco_ablation(published: pd.DataFrame, rows: pd.DataFrame, method: str, run: str) -> pd.DataFrame:
    """One line per printed row of ``method`` in tables 5, 6 and 9, and per further point of the ``run``.

    row (the point's name if it is not printed), the printed benchmarks, point (None: no such point in the sweep); the
    run's tasks, mean (all in %), difference (points, mean over tasks, to the method as it is) with low and high
    (paired bootstrap, 95 %), same (share of questions with the very same answer); agrees: whether print and run have
    the same of the two in front, this row or the method as it is, by `_same_direction`.

    rows  as `load_answers` reads them; a run that is not there leaves the measured part empty
    """
    rows = rows[rows["run"] == run]
    points, printed = list(rows["budget"].unique()), _printed_rows(published, method)
    lines = {row: POINTS[method][row] for row in printed.index if row in POINTS[method]}
    lines |= {point: point for point in points if point not in lines.values()}
    table = pd.DataFrame({"row": list(lines)}).join(printed, on="row")
    table["point"] = [point if point in points else None for point in lines.values()]
    if not points:
        return table.assign(agrees=None)
    sampled, agrees = Bootstrap(rows), []
    for row, point in zip(table["row"], table["point"], strict=True):
        decides = row in printed.index and point in points and point != FIXED
        agrees.append(_same_direction(printed, row, sampled, run, point) if decides else None)
    return table.join(_measured(rows, run, points), on="point").assign(agrees=pd.Series(agrees, dtype=object))


def _measured(rows: pd.DataFrame, run: str, points: list[str]) -> pd.DataFrame:
    """What each point of the run scored, in %, beside the method as it is."""
    compared = compare(None, rows, {point: (run, [point]) for point in points}, FIXED)
    scores = 100 * compared.pivot(index="line", columns="task", values="accuracy")[compared["task"].unique()]
    means = compared[compared["task"] == MEAN].set_index("line")
    answers = rows.pivot(index=["task", "id"], columns="budget", values="prediction")
    same = answers.eq(answers[FIXED], axis=0).mean().rename("same")
    return scores.rename(columns={MEAN: "mean"}).join(100 * means[["difference", "low", "high"]]).join(same)


def _same_direction(printed: pd.DataFrame, row: str, sampled: Bootstrap, run: str, point: str) -> bool | None:
    """`same_order` of the mean over the benchmarks of `PAIRS` that are printed, and over their tasks."""
    benchmarks = [name for name in PAIRS if pd.notna(printed.loc[row, name]) and PAIRS[name] in sampled.tasks]
    change = (printed.loc[row, benchmarks] - printed.loc["full", benchmarks]).mean()
    tasks = [sampled.tasks.index(PAIRS[name]) for name in benchmarks]
    measured = sampled.score(run, [point]).select(tasks).minus(sampled.score(run, [FIXED]).select(tasks))
    return same_order(change, measured.interval())


def budget_curve(rows: pd.DataFrame, run: str, field: str, default: float) -> pd.DataFrame:
    """The points that change ``field`` alone, the method as it is at its ``default``: value, share, low, high, all as
    shares of the mean score of the method as it is, paired on the same questions."""
    rows, out = rows[rows["run"] == run], []
    if rows.empty:
        return pd.DataFrame(columns=["value", "share", "low", "high"])
    sampled = Bootstrap(rows)
    base = sampled.score(run, [FIXED])
    for point in rows["budget"].unique():
        fields = {field: default} if point == FIXED else Budget.parse(point).fields
        if set(fields) == {field}:
            score = sampled.score(run, [point])
            low, high = score.average().over(base.average()).interval()
            out.append({"value": float(fields[field]), "share": score.mean / base.mean, "low": low, "high": high})
    return pd.DataFrame(out).sort_values("value", ignore_index=True)


def printed_curve(published: pd.DataFrame, method: str, field: str) -> pd.DataFrame:
    """Table 12's (epsilon) or 13's (penalty) line for ``method``: value, share of the default's mean over both
    benchmarks, and the benchmarks."""
    key = {"penalty": "scale"}.get(field, field)
    rows = published[(published["method"] == method) & published["row"].str.contains(f"{key}=", regex=False)]
    wide = rows.pivot_table(index="row", columns="column", values="number", sort=False)[list(PAIRS)]
    values = wide.index.str.partition("=").get_level_values(2).astype(float)
    full = _printed_rows(published, method).loc["full", list(PAIRS)].mean()
    return wide.assign(value=values, share=wide.mean(axis=1) / full).reset_index(drop=True).rename_axis(columns=None)


def _printed_rows(published: pd.DataFrame, method: str) -> pd.DataFrame:
    """Rows of the method's ablations, without its name: columns `PAIRS`."""
    tables = published["table"].str.contains("ablation|stands for the class token|local penalty", regex=True)
    rows = published[tables & (published["method"] == method) & published["column"].isin(PAIRS)]
    rows = rows.assign(row=rows["row"].str.removeprefix(f"{method}, "))
    return rows.pivot_table(index="row", columns="column", values="number", sort=False).reindex(columns=list(PAIRS))
