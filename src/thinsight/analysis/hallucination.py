"""Yes rates and false yes rates of yes-no questions about what a picture holds."""

import pandas as pd

from thinsight.analysis.results import without_seed
from thinsight.evaluation.budget import Budget
from thinsight.stats import wilson
from thinsight.tasks.metrics import precision_recall_f1

YES, NO = "yes", "no"


def count_yes(predictions: pd.Series, answers: pd.Series) -> dict[str, float]:
    """Counts of equally long columns of texts; at least one right answer is no. What is neither yes nor no counts as
    no, as in POPE's own script.

    n            questions;  absent  those whose right answer is no
    yes          share that was answered with yes, and ``right_yes`` the share that should have been
    false_yes    share of the absent ones that were answered with yes, ``low`` to ``high`` its Wilson 95 % interval
    precision, recall, f1   of yes; 0 where nothing was answered with yes
    """
    affirmed, truth = _says_yes(predictions), answers.eq(YES)
    false, absent = int((affirmed & ~truth).sum()), int((~truth).sum())
    counts = {"n": len(truth), "absent": absent, "yes": float(affirmed.mean()), "right_yes": float(truth.mean())}
    counts |= {"false_yes": false / absent} | dict(zip(("low", "high"), wilson(false, absent), strict=True))
    rates = precision_recall_f1(affirmed.tolist(), truth.tolist())
    return counts | dict(zip(("precision", "recall", "f1"), rates, strict=True))


def false_yes_rates(results: pd.DataFrame, rows: pd.DataFrame, task: str = "exist") -> pd.DataFrame:
    """One line per run and budget: `count_yes` of the questions of ``task``, and of the kinds of absent things apart.

    share               visual tokens entering a decoder layer on average, of those of the picture
    least, most         lowest and highest false yes rate of a single draw (seed, phase) of the budget; all other counts
                        are of the draws together
    false_yes_<kind>    the rate among the absent things of a kind (random, popular, adversarial)
    """
    cells = results[results["task"] == task].set_index(["run", "budget"])
    shares = (cells["visual"] / cells["picture"]).to_dict()
    questions = rows[(rows["task"] == task) & rows["answer"].isin((YES, NO))]
    out = []
    for (run, label), part in questions.groupby(["run", questions["budget"].map(without_seed)], sort=False):
        draws = [count_yes(draw["prediction"], draw["answer"]) for _, draw in part.groupby("budget")]
        counts = count_yes(part["prediction"], part["answer"])
        rates = [draw["false_yes"] for draw in draws]
        if len(draws) > 1:  # the same questions several times are no more questions
            counts |= {name: sum(draw[name] for draw in draws) / len(draws) for name in ("low", "high")}
            counts |= {name: draws[0][name] for name in ("n", "absent")}
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
    keys = [zip(table["run"], table["budget"], strict=True) for table in (results, rows)]
    return results.assign(run=[names[key] for key in keys[0]]), rows.assign(run=[names[key] for key in keys[1]])
