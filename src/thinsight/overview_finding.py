"""What the page of all results found, in sentences and as facts, from the frames that it draws."""

from typing import Any

import pandas as pd

from thinsight.comparisons import LEVEL, survivors
from thinsight.heat import signed
from thinsight.kinds import changes
from thinsight.ranks import BUDGETS, TASKS
from thinsight.standing import MEAN
from thinsight.words import listed

SHARE = 0.25  # methods on the front in this share of the resamples or more are named


def finding(
    table: pd.DataFrame, points: pd.DataFrame, taus: pd.DataFrame, lost: pd.DataFrame, counts: pd.DataFrame
) -> str:
    """In paragraphs of markdown.

    table, lost  labelled frames of `thinsight.comparisons.comparisons` and `thinsight.kinds.kinds`
    points, taus, counts  of `thinsight.pareto.pareto`, `thinsight.ranks.agreement` and `thinsight.tally.tally`
    """
    means = table[(table["task"] == MEAN) & ~table["control"]]
    if not len(means):
        return "No published method has been run yet, so there is nothing to set beside random."
    last = means[means["keep"] == means["keep"].min()]
    beat, lose = _sure(last, "random", 1), _sure(last, "whole", -1)
    sentences = [
        f"With {last['keep'].iloc[0]:.1%} of the tokens **{beat} of {len(last)} published methods beat a random "
        f"subset** of as many and {lose} lose to the whole model, after correction for {_asked(table)} comparisons."
    ]
    titles = table.drop_duplicates("run").set_index("run")["title"]
    sentences += filter(None, [front(points, titles)])
    hurt = changes(lost[~lost["control"] & (lost["keep"] == lost["keep"].min())])
    ends = hurt.iloc[[0, -1]].to_dict("records")
    worst, best = (f"{of['task']}, {of['kind']} ({signed(100 * of['change'])} points)" for of in ends)
    between = taus[taus["first"] != taus["second"]].groupby("of")["tau"].mean().dropna()
    said = [f"{between[of]:.2f} between {of}" for of in (TASKS, BUDGETS) if of in between]
    orders = f"; the methods' orders agree with a Kendall's τ of {listed(said)}" if said else ""
    sentences.append(f"The most is lost on {worst}, the least on {best}{orders}.")
    sentences += filter(None, [counted(counts)])
    return "\n\n".join(sentences)


def front(points: pd.DataFrame, titles: "pd.Series[str]") -> str:
    """Which runs (run -> title) are often on the front of `thinsight.pareto.pareto`."""
    often = points[points["run"].isin(titles.index) & (points["run_frequency"] >= SHARE)].drop_duplicates("run")
    often = often.sort_values("run_frequency", ascending=False, kind="stable")
    names = listed([f"{titles[line.run]} ({line.run_frequency:.0%})" for line in often.itertuples()])
    return f"On the front of score against FLOPs in a quarter of the resamples or more: {names}." if names else ""


def counted(counts: pd.DataFrame) -> str:
    """The verdicts of `thinsight.tally.tally`, summed."""
    total = counts.drop(columns=["paper", "total"]).sum()
    parts = listed([f"{n} {verdict}" for verdict, n in total.items() if n])
    return f"Of {total.sum()} printed numbers of {len(counts)} documents: {parts}." if parts else ""


def facts(table: pd.DataFrame, points: pd.DataFrame, taus: pd.DataFrame, counts: pd.DataFrame) -> dict[str, Any]:
    """The same for a machine: budgets, survivors, the front, mean taus, verdicts."""
    front = points[points["front"]].sort_values("flops", kind="stable")
    between = taus[taus["first"] != taus["second"]].groupby("of")["tau"].mean().dropna()
    return {
        "budgets": list(dict.fromkeys(table["keep"])),
        "survivors": survivors(table).to_dict("records"),
        "front": [f"{run} {budget}" for run, budget in zip(front["run"], front["budget"], strict=True)],
        "tau": {of: round(tau, 6) for of, tau in between.items()},
        "verdicts": {name: int(n) for name, n in counts.drop(columns="paper").sum().items()},
    }


def _sure(part: pd.DataFrame, name: str, sign: int) -> int:
    return int(((part[f"{name}_holm"] < LEVEL) & (sign * part[name] > 0)).sum())


def _asked(table: pd.DataFrame) -> int:
    counts = survivors(table)
    return int(counts.loc[counts["kind"] == MEAN, "comparisons"].sum())
