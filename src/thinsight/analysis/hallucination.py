"""Yes rates and false yes rates of yes-no questions about what a picture holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from thinsight.analysis.results import without_seed
from thinsight.evaluation.budget import Budget
from thinsight.stats import wilson
from thinsight.tasks.metrics import precision_recall_f1

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
    """Of equally long columns of texts; at least one right answer is no."""
    said, truth = _says_yes(predictions), answers.eq(YES)
    false, absent = int((said & ~truth).sum()), int((~truth).sum())
    return YesCounts(
        len(said),
        absent,
        float(said.mean()),
        float(truth.mean()),
        false / absent,
        *wilson(false, absent),
        *precision_recall_f1(said.tolist(), truth.tolist()),
    )


def false_yes_rates(rows: pd.DataFrame, shares: Mapping[tuple[str, str], float], task: str = "exist") -> pd.DataFrame:
    """One line per run and budget: `YesCounts` of the questions of ``task``, and of the kinds of absent things apart.

    rows    as `load_answers` gives them; draws of one budget (seeds, phases) are counted together, and ``least`` and
            ``most`` are the lowest and highest false yes rate of a single draw
    shares  (run, budget) -> share of the visual tokens that is left, which goes to the column ``share``

    The columns ``false_yes_<kind>`` are the rate among the absent things of a kind (random, popular, adversarial).
    """
    questions = rows[(rows["task"] == task) & rows["answer"].isin((YES, NO))]
    out = []
    for (run, label), part in questions.groupby(["run", questions["budget"].map(without_seed)], sort=False):
        draws = [count_yes(draw["prediction"], draw["answer"]) for _, draw in part.groupby("budget")]
        counts = asdict(count_yes(part["prediction"], part["answer"]))
        rates = [draw.false_yes for draw in draws]
        if len(draws) > 1:  # the same questions several times are no more questions
            counts |= {name: sum(getattr(draw, name) for draw in draws) / len(draws) for name in ("low", "high")}
            counts |= {"n": draws[0].n, "absent": draws[0].absent}
        share = sum(shares[run, budget] for budget in part["budget"].unique()) / len(draws)
        absent = part[part["answer"] == NO]
        kinds = _says_yes(absent["prediction"]).groupby(absent["kind"]).mean()
        line = {"run": run, "budget": label, "share": share, **counts, "least": min(rates), "most": max(rates)}
        out.append(line | {f"false_yes_{kind}": rate for kind, rate in kinds.items()})
    return pd.DataFrame(out)


def _says_yes(predictions: pd.Series) -> pd.Series:
    return predictions.str.strip().str.lower().str.startswith(YES)


def rename_by_method(results: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two frames of a group of runs with one run a method, the runs called by their method, as the main runs are:
    so that the same titles fit both. The whole model is "plain"; PAR at budgets without the field ``keep``, where it
    decides itself how many stay, is "par-adaptive"."""
    names = {}
    for run, method, budget in results[["run", "method", "budget"]].drop_duplicates().itertuples(index=False):
        adaptive = method == "par" and "keep" not in Budget.parse(budget).fields
        names[run, budget] = "plain" if method == "identity" else "par-adaptive" if adaptive else method

    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(run=[names[key] for key in zip(table["run"], table["budget"], strict=True)])

    return renamed(results), renamed(rows)


def shares_of(results: pd.DataFrame, task: str = "exist") -> dict[tuple[str, str], float]:
    """(run, budget) -> share of the visual tokens entering a decoder layer on average."""
    part = results[results["task"] == task].set_index(["run", "budget"])
    return (part["visual"] / part["picture"]).to_dict()
