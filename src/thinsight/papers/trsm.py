"""What the page on TRSM needs: the two readings of its 20 %."""

from collections.abc import Mapping, Sequence

import pandas as pd

from thinsight.analysis.comparisons import MEAN, compare
from thinsight.analysis.results import budgets_at
from thinsight.report.wording import listed
from thinsight.stats import Resampled

DROP, KEEP = "drop20", "keep20"


SHARES = {DROP: 0.8, KEEP: 0.2}
"""The share of the tokens that stays under each reading."""


Lines = Mapping[str, tuple[str, Sequence[str]]]


def reading_lines(
    results: pd.DataFrame, runs: Mapping[str, str], base: str = "plain"
) -> dict[str, tuple[str, list[str]]]:
    """Lines for `comparisons.compare`: the whole model, then for each reading the ``runs`` (title -> run) that have its
    share among their budgets, as "title, drop20"."""
    lines: dict[str, tuple[str, list[str]]] = {"whole model": (base, ["fixed"])}
    for name, share in SHARES.items():
        for title, run in runs.items():
            budgets = budgets_at(results, run, share) if run in set(results["run"]) else []
            if budgets:
                lines[f"{title}, {name}"] = (run, budgets)
    return lines


def compare_readings(
    results: pd.DataFrame, answers: pd.DataFrame, lines: Lines, base: str = "whole model"
) -> pd.DataFrame:
    """`comparisons.compare`, and for each line one more task, the mean over all: its accuracy, and its difference to the
    line ``base`` with a paired bootstrap interval over questions."""
    table = compare(results, answers, lines, base)
    sampled, out = Resampled(answers), []
    whole = sampled.score(lines[base][0], lines[base][1])
    for label, (run, budgets) in lines.items():
        own = sampled.score(run, budgets)
        difference = own.minus(whole)
        low, high = difference.interval()
        costs = table[table["line"] == label].mean(numeric_only=True)
        out.append(
            dict(costs) | {"line": label, "task": MEAN, "accuracy": own.mean, "difference": difference.mean}
            | {"low": low, "high": high, "spread": float("nan"), "p": float("nan")}
        )  # fmt: skip
    return pd.concat([table, pd.DataFrame(out)], ignore_index=True)


def trsm_finding(table: pd.DataFrame, titles: Mapping[str, str], missing: Sequence[str]) -> str:
    """Which reading keeps the score, in a few sentences of markdown.

    table    `compare_readings`;  titles  reading -> the line that has it, and ``missing`` the readings that were not run
    """
    means = table[table["task"] == MEAN].set_index("line")
    whole, said = means.iloc[0], []
    for name, line in titles.items():
        own = means.loc[line]
        tasks = table[(table["line"] == line) & (table["task"] != MEAN)]
        lost = tasks[tasks["high"] < 0].sort_values("difference")
        loses = ", ".join(f"{task} {100 * by:+.1f}" for task, by in zip(lost["task"], lost["difference"], strict=True))
        verdict = "a sure loss" if own["high"] < 0 else "a sure gain" if own["low"] > 0 else "no sure difference"
        text = (
            f"**{name}** ({SHARES[name]:.0%} of the tokens stay, {own['profiler'] / whole['profiler']:.0%} of the "
            f"prefill FLOPs) scores {own['accuracy']:.1%} beside the whole model's {whole['accuracy']:.1%}: "
            f"{100 * own['difference']:+.1f} points ({100 * own['low']:+.1f} to {100 * own['high']:+.1f}), {verdict}"
        )
        said.append(text + (f"; sure losses on {loses}." if loses else "; no task loses for sure."))
    said += [f"**{name}** was not run." for name in missing]
    return " ".join(["The abstract's “by 20 %” can be read in two ways.", *said])


def readings_finding(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """By how much each reading (-> the line of `compare_readings` that has it) changes the mean score, in a sentence."""
    means = table[table["task"] == MEAN].set_index("line")
    ends = {name: 100 * means.loc[line, ["difference", "low", "high"]] for name, line in titles.items()}
    told = [f"{name} by {of.iloc[0]:+.1f} points ({of.iloc[1]:+.1f} to {of.iloc[2]:+.1f})" for name, of in ends.items()]
    return f"The mean score changes under {listed(told)}." if told else ""


def controls_finding(table: pd.DataFrame, name: str, title: str = "TRSM") -> str:
    """How TRSM stands to the controls at one reading, from `compare_readings`: a sentence; empty where nothing was run."""
    means = table[table["task"] == MEAN].set_index("line")["accuracy"]
    own = f"{title}, {name}"
    others = {line: value for line, value in means.items() if line.endswith(f", {name}") and line != own}
    if own not in means or not others:
        return ""
    told = ", ".join(f"{line.partition(', ')[0]} {value:.1%}" for line, value in others.items())
    return f"At {name} TRSM scores {means[own]:.1%}, and with as many tokens {told}."
