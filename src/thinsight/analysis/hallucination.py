"""Yes rates and false yes rates of yes-no questions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from thinsight.analysis.results import without_seed
from thinsight.stats import wilson

YES, NO = "yes", "no"


@dataclass(frozen=True)
class YesCounts:
    """Counts of one set of answers; what is neither yes nor no counts as no, as in POPE's own script.

    n            questions;  absent  those whose right answer is no
    yes          share that was answered with yes, and ``right_yes`` the share that should have been
    false_yes    share of the absent ones that were answered with yes, ``low`` to ``high`` its Wilson 95 % interval
    precision, recall, f1   of yes; 0 where nothing was answered with yes
    """

    n: int
    absent: int
    yes: float
    right_yes: float
    false_yes: float
    low: float
    high: float
    precision: float
    recall: float
    f1: float


def count_yes(predictions: pd.Series, answers: pd.Series) -> YesCounts:
    """Of equally long columns of texts; at least one right answer is no and one is yes."""
    said, truth = predictions.str.strip().str.lower().str.startswith(YES), answers.eq(YES)
    hit, false = int((said & truth).sum()), int((said & ~truth).sum())
    absent = int((~truth).sum())
    precision = hit / int(said.sum()) if said.any() else 0.0
    recall = hit / int(truth.sum())
    low, high = wilson(false, absent)
    f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
    return YesCounts(
        len(said), absent, float(said.mean()), float(truth.mean()), false / absent, low, high, precision, recall, f1
    )


def false_yes_rates(rows: pd.DataFrame, shares: Mapping[tuple[str, str], float], task: str = "exist") -> pd.DataFrame:
    """One line per run and budget: `YesCounts` of the questions of ``task``, and of the kinds of absent things apart.

    rows    as `thinsight.analysis.results.load_answers` gives them; draws of one budget (seeds, phases) are counted together, and
            ``least`` and ``most`` are the lowest and highest false yes rate of a single draw
    shares  (run, budget) -> share of the visual tokens that is left, which goes to the column ``share``

    The columns ``false_yes_<kind>`` are the rate among the absent things of a kind (random, popular, adversarial).
    """
    asked = rows[(rows["task"] == task) & rows["answer"].isin((YES, NO))]
    out = []
    for (run, label), part in asked.groupby(["run", asked["budget"].map(without_seed)], sort=False):
        draws = [count_yes(one["prediction"], one["answer"]) for _, one in part.groupby("budget")]
        found = asdict(count_yes(part["prediction"], part["answer"]))
        rates = [draw.false_yes for draw in draws]
        if len(draws) > 1:  # the same questions several times are no more questions
            found |= {name: sum(getattr(d, name) for d in draws) / len(draws) for name in ("low", "high")}
            found |= {"n": draws[0].n, "absent": draws[0].absent}
        share = sum(shares[run, budget] for budget in part["budget"].unique()) / len(draws)
        absent = part[part["answer"] == NO]
        kinds = absent["prediction"].str.strip().str.lower().str.startswith(YES).groupby(absent["kind"]).mean()
        line = {"run": run, "budget": label, "share": share, **found, "least": min(rates), "most": max(rates)}
        out.append(line | {f"false_yes_{kind}": rate for kind, rate in kinds.items()})
    return pd.DataFrame(out)


def repeated_runs(results: pd.DataFrame, rows: pd.DataFrame, end: str = "-exist") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two frames with the runs' names without ``end``; PAR's budgets without the field ``keep``, where it decides
    itself how many stay, go to a run of their own, par-adaptive."""

    def named(table: pd.DataFrame) -> pd.DataFrame:
        run = table["run"].str.removesuffix(end)
        own = (run == "par") & ~table["budget"].str.contains("keep=")
        return table.assign(run=run.mask(own, "par-adaptive"))

    return named(results), named(rows)


def shares_of(results: pd.DataFrame, task: str = "exist") -> dict[tuple[str, str], float]:
    """(run, budget) -> share of the visual tokens entering a decoder layer on average."""
    part = results[results["task"] == task]
    return {
        (run, budget): visual / picture
        for run, budget, visual, picture in zip(
            part["run"], part["budget"], part["visual"], part["picture"], strict=True
        )
    }
