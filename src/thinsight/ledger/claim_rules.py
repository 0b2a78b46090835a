"""The rules by which a claim of a paper is held against what was run here: evidence in, a `Finding` out.

A claim in data/claims.yaml names one of `RULES` with its parameters; no verdict is written by hand.

- A claim about scores gets one of `claim_findings.WORDS`. A difference counts where its paired 95 % bootstrap interval
  excludes zero and McNemar's exact test has p < 5 %; a share or a margin counts where the interval lies beyond it.
- A claim about costs gets one of `COST_WORDS` there, from formulae and without a run.
- What needs the paper's own model or a GPU is `NEEDS_MODEL`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from thinsight.analysis.comparisons import LEVEL, MEAN, Line, compare
from thinsight.analysis.results import budgets_at, without_seed
from thinsight.config.compose import load_config
from thinsight.costs.meta_device import cost_report
from thinsight.evaluation.budget import FIXED
from thinsight.ledger.claim_findings import (
    AGREES,
    DIFFERS,
    DISAGREES,
    INFERRED,
    NEEDS_MODEL,
    RECOMPUTED,
    UNDECIDED,
    Evidence,
    Finding,
    NotRunError,
)
from thinsight.ledger.verdicts import meets
from thinsight.stats import Bootstrap, bootstrap_means, percentile_interval

WHOLE = "plain"  # the run of the unreduced model
SHUFFLES = 200
POWER = (1.96 + 0.84) / (2 * 1.96)
"""Of the width of a 95 % interval: the smallest difference seen at 5 % in four of five repetitions (80 % power)."""
FEWEST = 6  # rows that must change, all in one direction, before McNemar's exact test can reach 5 %


# ------------------------------------------------------------------------------------------------- scores


def keeps_share(evidence: Evidence, *, line: Mapping[str, Any], share: float) -> Finding:
    """The line keeps at least ``share`` of the whole model's score (the mean of the tasks' shares).

    Agrees where the interval lies at or above it, disagrees where it lies below.
    """
    row = _compared(evidence, _line(evidence, line), (WHOLE, [FIXED]))
    low, high = _widened(row["share"], row["share_low"], row["share_high"], row["n"])
    return Finding(
        _beyond(low, high, share, reaches=True),
        f"share of the whole model's score, against {share:.1%}",
        row["share"], low, high, _smallest(low, high, row["n"]), row["p"], n=row["n"], scale="share",
    )  # fmt: skip


def chosen_layer_keeps_share(evidence: Evidence, *, run: str, share: float) -> Finding:
    """`keeps_share` at the layer that the criterion chose on training questions; beside it the share of all layers of
    the sweep, drawn at random, that keep at least as much."""
    layer = evidence.extra.get("layer")
    if layer is None:
        raise NotRunError("no layer met the criterion's threshold")
    found = keeps_share(evidence, line={"run": run, "budget": f"layer={layer}"}, share=share)
    scores = _results(evidence, run).groupby("budget")["accuracy"].mean()
    at_least = float((scores >= scores[f"layer={layer}"] - 1e-12).mean())
    text = f"{found.statistic}, at the chosen layer {layer}"
    return replace(found, statistic=text, chance=at_least, of=len(scores), draws="layers")


def better(
    evidence: Evidence, *, line: Mapping[str, Any], than: Mapping[str, Any], margin: float = 0.0, answer: str = ""
) -> Finding:
    """The line's accuracy is above that of ``than`` on the same questions, or at most ``margin`` below it.

    answer  only questions whose right answer this is ("no": false yes on what is absent)
    Shuffled: the labels of the two lines are swapped at random, question by question.
    """
    if answer:
        evidence = Evidence(evidence.results, evidence.answers[evidence.answers["answer"] == answer], evidence.extra)
    first, second = _line(evidence, line), _line(evidence, than)
    row = _compared(evidence, first, second)
    low, high = _widened(row["difference"], row["low"], row["high"], row["n"])
    word = _beyond(low, high, -margin)
    if not margin and row["p"] >= LEVEL:
        word = UNDECIDED
    chance = _swapped(evidence.answers, first, second, row["difference"])
    text = "difference of accuracies" + (f", against −{100 * margin:g} points" if margin else "")
    smallest = _smallest(low, high, row["n"])
    return Finding(word, text, row["difference"], low, high, smallest, row["p"], chance, SHUFFLES, n=row["n"])


def leads(
    evidence: Evidence, *, run: str, others: Sequence[str], keeps: Sequence[float],
    others_keeps: Sequence[float] | None = None, margin: float = 0.0,
) -> Finding:  # fmt: skip
    """The run is above the best of ``others``, the mean over ``keeps``; with ``others_keeps`` these stand at budgets of
    their own, and with ``margin`` it may be so far below.

    Shuffled: the methods change places with each other, so that a random one of them stands in the run's.
    """
    methods = [run, *others]
    bootstrap = Bootstrap(_answers(evidence, methods))
    own = _at_keeps(evidence, bootstrap, methods, keeps)  # (methods, budgets, resamples + 1): the first is the estimate
    rivals = _at_keeps(evidence, bootstrap, methods, others_keeps or keeps)

    def lead(order: np.ndarray) -> np.ndarray:
        return (own[order[0]] - rivals[order[1:]].max(0)).mean(0)

    value, *replicates = lead(np.arange(len(methods)))
    low, high = percentile_interval(np.array(replicates))
    shuffles = [lead(order)[0] for order in _orders(len(methods))]
    n, text = sum(bootstrap.counts), f"lead over the best of {len(others)} others"
    text += f", against −{100 * margin:g} points" if margin else ""
    return Finding(
        _beyond(low, high, -margin), text, value, low, high, _smallest(low, high, n),
        chance=float(np.mean(np.array(shuffles) >= value - 1e-12)), of=SHUFFLES, n=n,
    )  # fmt: skip


def same_order(
    evidence: Evidence, *, printed: pd.DataFrame, runs: Mapping[str, str], budgets: Mapping[int, float]
) -> Finding:
    """Print and runs put methods in the same order: Kendall's tau over pairs of methods, the mean over budgets.

    printed  lines of data/published with method, tokens and number;  runs: method -> run;  budgets: tokens -> keep
    Agrees (disagrees) where the interval over questions lies above (below) zero and no more than 5 % of the shuffles,
    in which the methods change places, go as far: methods are few, and questions do not tell of others.
    """
    wide = printed.pivot_table(index="method", columns="tokens", values="number")
    wide = wide.loc[list(runs), [str(tokens) for tokens in budgets]].to_numpy()
    bootstrap = Bootstrap(_answers(evidence, list(runs.values())))
    scores = _at_keeps(evidence, bootstrap, list(runs.values()), list(budgets.values()))
    pairs = list(combinations(range(len(runs)), 2))

    def tau(order: np.ndarray, scores: np.ndarray) -> np.ndarray:
        signs = [np.sign(wide[a] - wide[b])[:, None] * np.sign(scores[order[a]] - scores[order[b]]) for a, b in pairs]
        return np.mean(signs, axis=(0, 1))

    value, *replicates = tau(np.arange(len(runs)), scores)
    low, high = percentile_interval(np.array(replicates))
    shuffles = np.array([tau(order, scores[:, :, :1])[0] for order in _orders(len(runs))])
    above, below = (float(np.mean(sign * shuffles >= sign * value - 1e-12)) for sign in (1, -1))
    word = _beyond(low, high, 0.0)
    if (word == AGREES and above > LEVEL) or (word == DISAGREES and below > LEVEL):
        word = UNDECIDED
    seen = float(np.quantile(shuffles, 1 - LEVEL))  # what chance alone does not reach
    return Finding(
        word, f"Kendall's tau with the printed order of {len(runs)} methods", value, low, high, seen,
        chance=above, of=SHUFFLES, n=sum(bootstrap.counts), scale="number",
    )  # fmt: skip


def tokens_vary(evidence: Evidence, *, line: Mapping[str, Any], least: float) -> Finding:
    """The number of tokens that a question keeps varies: its standard deviation is at least ``least`` of its mean."""
    run, budgets = _line(evidence, line)
    rows = _answers(evidence, [run])
    kept = rows.loc[rows["budget"].isin(budgets), "visual_mean"].to_numpy(float)
    deviations, means = _deviations(kept)
    low, high = percentile_interval(deviations / means)
    return Finding(
        _beyond(low, high, least, reaches=True),
        f"standard deviation of the tokens kept over their mean ({kept.mean():.1f}), against {least:.0%}",
        float(kept.std() / kept.mean()), low, high, _smallest(low, high), n=len(kept), scale="share",
    )  # fmt: skip


# --------------------------------------------------------------------------------- what a page looked into


def attention_share(
    evidence: Evidence, *, rows: str, group: str, below: float | str | None = None, above: float | None = None
) -> Finding:
    """The share of attention that the ``group`` of the prompt gets from ``rows`` in the deeper half of the layers lies
    ``below`` or ``above`` a number, or below what it gets in the "shallow" half. Interval over questions."""
    frame = evidence.extra.get("attention")
    if frame is None or frame.empty:
        raise NotRunError("attention was not looked at")
    part = frame[(frame["rows"] == rows) & (frame["group"] == group)]
    deep = part["layer"] >= (part["layer"].max() + 1) / 2
    halves = [part[some].groupby("number")["share"].mean() for some in (deep, ~deep)]
    against = halves[1] if below == "shallow" else 0.0
    values = (halves[0] - against).to_numpy()
    low, high = percentile_interval(bootstrap_means(values[:, None])[:, 0])
    limit = above if above is not None else 0.0 if below == "shallow" else float(below)
    word = _beyond(low, high, limit) if above is not None else _beyond(-high, -low, -limit)
    text = f"attention of {rows} rows to {group} tokens in the deeper half of the layers"
    text += ", less that in the first half" if below == "shallow" else f", against {limit:.0%}"
    value, smallest = float(values.mean()), _smallest(low, high)
    return Finding(word, text, value, low, high, smallest, n=len(values), scale="points" if below else "share")


def own_question(evidence: Evidence, *, method: str) -> Finding:
    """Answers are better with the tokens that the own question chose than with those of another question."""
    frame = evidence.extra.get("prompt")
    if frame is None or method not in set(frame["method"]):
        raise NotRunError(f"{method} was not tried with another question's tokens")
    row = frame.set_index("method").loc[method]
    value, low, high = -row["difference"], -row["high"], -row["low"]
    word = _beyond(low, high, 0.0) if row["p"] < LEVEL else UNDECIDED
    smallest, text = _smallest(low, high, row["n"]), "accuracy with the own question's tokens less with another's"
    return Finding(word, text, value, low, high, smallest, row["p"], n=int(row["n"]))


def edges_adapt(evidence: Evidence, *, point: str) -> Finding:
    """The number of targets differs between leavers of one layer (its standard deviation is not zero)."""
    frame = evidence.extra.get("edges")
    if frame is None or point not in set(frame["point"]):
        raise NotRunError("edges were not counted")
    part = frame[frame["point"] == point]
    edges = (part["edges"] - part.groupby("layer")["edges"].transform("mean")).to_numpy(float)
    low, high = percentile_interval(_deviations(edges)[0])
    word = AGREES if low > 0 else DISAGREES if high == 0 else UNDECIDED
    text = f"standard deviation, within a layer, of the targets of a leaver (mean {part['edges'].mean():.2f})"
    one = float(np.sqrt(FEWEST / len(edges)))  # of a few leavers with one target more
    smallest = max(_smallest(low, high), one)
    return Finding(word, text, float(edges.std()), low, high, smallest, n=len(edges), scale="number")


# -------------------------------------------------------------------------------------------------- costs


def cost(
    evidence: Evidence, *, printed: pd.DataFrame, model: str, method: str, text: int, quantity: str,
    convention: str = "", fields: Mapping[str, Any] | None = None, at_least: bool = False, inferred: bool = False,
) -> Finding:  # fmt: skip
    """A printed cost from formulae, at the true shape of ``model`` with ``text`` tokens besides the picture.

    quantity    "saving" (share of the prefill's FLOPs), "times" (whole over reduced) or "tflops" (reduced, 1e12)
    convention  by which it is counted; none: by every one, and the least counts
    at_least    the printed number is a lower bound; else it is met rounded or cut to its digits, or within 1 %
    inferred    the way of counting or the tokens were looked for so as to meet the document's numbers
    Beside it stands the same end to end, with the whole vision tower, by the profiler's count.
    """
    words = [f"model={model}", f"method={method}", f"text_tokens={text}"]
    report = cost_report(load_config([*words, *(f"method.{key}={value}" for key, value in (fields or {}).items())]))
    ways = [convention] if convention else list(report["conventions"])
    value = min(_quantity(quantity, report["conventions"][way]) for way in ways)
    tower = report["vision"]["vision_tower"] + report["vision"]["projector"]
    profiled = report["conventions"]["profiler_last_row"]
    whole = _quantity(quantity, {which: profiled[which] + tower for which in ("full", "reduced")})
    line = printed.iloc[0]
    wanted = line["number"] / (100 if quantity == "saving" else 1)
    met = value >= wanted if at_least else meets(line["value"], value * (100 if quantity == "saving" else 1))
    word = (INFERRED if inferred else RECOMPUTED) if met else DIFFERS
    scale = "share" if quantity == "saving" else "number"
    names = {"saving": "FLOPs saved", "times": "times fewer FLOPs", "tflops": "TFLOPs"}
    way = f"counted by {convention.replace('_', ' ')}" if convention else "the least of all conventions"
    beside = "end to end, with the whole tower, " + (f"{whole:.1%}" if scale == "share" else f"{whole:.3g}")
    return Finding(word, f"{names[quantity]} in the decoder, {way}", value, scale=scale, why=beside)


def needs_model(evidence: Evidence, *, what: str) -> Finding:
    """Nothing here can weigh it: ``what`` would be needed."""
    return Finding(NEEDS_MODEL, why=f"would need {what}")


RULES: dict[str, Callable[..., Finding]] = {
    rule.__name__: rule
    for rule in (
        keeps_share, chosen_layer_keeps_share, better, leads, same_order, tokens_vary, attention_share, own_question,
        edges_adapt, cost, needs_model,
    )
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- what they share


def _beyond(low: float, high: float, limit: float, *, reaches: bool = False) -> str:
    """Where an interval lies: above ``limit`` (or from it on, if it ``reaches``) agrees, below disagrees."""
    return AGREES if low > limit or (reaches and low >= limit) else DISAGREES if high < limit else UNDECIDED


def _widened(value: float, low: float, high: float, n: int) -> tuple[float, float]:
    """The interval, at least 3 / n to both sides: of n rows that do not change another 3 / n may (95 %), which a
    bootstrap of them cannot know."""
    return min(low, value - 3 / n), max(high, value + 3 / n)


def _smallest(low: float, high: float, n: int = 0) -> float:
    """The smallest difference that a test with this 95 % interval sees with 80 % power, on ``n`` paired rows not less
    than that of `FEWEST` of them."""
    return max(POWER * (high - low), FEWEST / n if n else 0.0)


def _line(evidence: Evidence, where: Mapping[str, Any]) -> Line:
    """The run and budgets that a parameter names: ``run`` with ``keep`` (`budgets_at`), with ``budget`` (a label, seeds
    left out), or with neither for a run at one budget."""
    run = where["run"]
    part = _results(evidence, run)
    wanted = where.get("budget", FIXED)
    alike = [label for label in part["budget"].unique() if without_seed(label) == wanted]
    budgets = budgets_at(part, run, where["keep"]) if "keep" in where else alike
    if not budgets:
        raise NotRunError(f"{run} was not run at {where.get('keep', wanted)}")
    return run, budgets


def _results(evidence: Evidence, run: str) -> pd.DataFrame:
    part = evidence.results[evidence.results["run"] == run]
    if part.empty:
        raise NotRunError(f"{run} was not run")
    return part


def _answers(evidence: Evidence, runs: Sequence[str]) -> pd.DataFrame:
    """The answers of some runs, of the tasks that all of them were asked."""
    part = evidence.answers[evidence.answers["run"].isin(runs)]
    for run in runs:
        if run not in set(part["run"]):
            raise NotRunError(f"the answers of {run} are not here")
    shared = set.intersection(*(set(rows["task"]) for _, rows in part.groupby("run")))
    return part[part["task"].isin(shared)]


def _compared(evidence: Evidence, line: Line, base: Line) -> pd.Series:
    """The line of `analysis.comparisons.compare` for the mean over tasks."""
    rows = _answers(evidence, sorted({line[0], base[0]}))
    wanted = pd.Series(False, index=rows.index)
    for run, budgets in (line, base):
        wanted |= (rows["run"] == run) & rows["budget"].isin(budgets)
    with np.errstate(invalid="ignore"):  # a task in which the base is never right has no share
        table = compare(None, rows[wanted], {"line": line, "base": base}, "base")
    return table[(table["line"] == "line") & (table["task"] == MEAN)].iloc[0]


def _at_keeps(evidence: Evidence, bootstrap: Bootstrap, runs: Sequence[str], keeps: Sequence[float]) -> np.ndarray:
    """(runs, keeps, 1 + resamples): means over tasks, the estimate first."""
    out = []
    for run in runs:
        scores = [bootstrap.score(*_line(evidence, {"run": run, "keep": keep})) for keep in keeps]
        out.append([np.concatenate([[score.mean], score.replicates.mean(1)]) for score in scores])
    return np.array(out)


def _orders(methods: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.permutation(methods) for _ in range(SHUFFLES)]


def _swapped(answers: pd.DataFrame, first: Line, second: Line, value: float) -> float:
    """The share of shuffles with at least the difference ``value``, when the two lines' labels change by question."""
    right = []
    for run, budgets in (first, second):
        rows = answers[(answers["run"] == run) & answers["budget"].isin(budgets)]
        right.append(rows.groupby(["task", "id"])["correct"].mean())
    gaps = (right[0] - right[1]).dropna()
    weights = (gaps / gaps.groupby("task").transform("size") / gaps.index.get_level_values("task").nunique()).to_numpy()
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (SHUFFLES, len(weights)))
    return float(np.mean(signs @ weights >= value - 1e-12))


def _deviations(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(resamples,) each: standard deviation and mean of ``values`` drawn with replacement."""
    means, squares = bootstrap_means(np.stack([values, values**2], 1)).T
    return np.sqrt(np.maximum(np.round(squares - means**2, 9), 0)), means


def _quantity(quantity: str, counted: Mapping[str, float]) -> float:
    full, reduced = counted["full"], counted["reduced"]
    times = full / reduced if reduced else inf
    return {"saving": 1 - reduced / full, "times": times, "tflops": reduced / 1e12}[quantity]
