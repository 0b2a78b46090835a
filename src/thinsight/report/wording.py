"""Sentences made of a figure's own numbers.

Empty where nothing was run. `thinsight.report.artifacts.stating` sets one beside its figure.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import pandas as pd

from thinsight.analysis.comparisons import MEAN
from thinsight.analysis.ranks import BUDGETS, TASKS


def listed(things: Iterable[object]) -> str:
    """``a, b and c``."""
    words = [str(thing) for thing in things]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


KEPT = 0.99  # the share of the score from which on `cheapest_sentence` says that a method keeps it


def attention_sentence(shares: pd.DataFrame) -> str:
    """Of `thinsight.papers.vtw.attention_shares`: what the picture gets in both halves of the decoder."""
    seen = shares[shares["group"] == "visual"]
    halves = seen["layer"] > seen["layer"].max() // 2
    means = seen.groupby(["rows", halves], sort=False)["share"].mean().unstack()
    told = [f"from {kind} rows {of[False]:.0%} and {of[True]:.0%}" for kind, of in means.iterrows()]
    return f"In the first and the second half of the decoder the picture gets, of the attention {listed(told)}."


def thresholds_sentence(met: Mapping[float, int | None]) -> str:
    """Which layer a mean divergence below each threshold chooses."""
    told = [f"{eta:g} {'at no layer' if k is None else f'from layer {k} on'}" for eta, k in met.items()]
    return f"The mean divergence is below {listed(told)}."


def withdrawn_sentence(curve: pd.DataFrame, whole: pd.DataFrame, blind: pd.DataFrame, within: float = 0.01) -> str:
    """From where on withdrawing costs no more than ``within`` of the accuracy, the mean over tasks; columns task,
    accuracy, and layer of ``curve``."""
    means, best = curve.groupby("layer")["accuracy"].mean().sort_index(), whole["accuracy"].mean()
    costs = means[means < best - within]
    first = means.index[0] if costs.empty else next((k for k in means.index if k > costs.index[-1]), None)
    where = f"From layer {first:.0f} on it" if first is not None else "Nowhere it"
    return (
        f"{where} stays within {100 * within:g} point of the whole model's {best:.1%}, the mean over tasks; before "
        f"layer {means.index[0]:.0f} it is {means.iloc[0]:.1%}, and without the picture {blind['accuracy'].mean():.1%}."
    )


def cheapest_sentence(frontier: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """With how little of the FLOPs each of the runs (run -> title) of `thinsight.analysis.comparisons.score_flops_frontier` keeps the score."""
    kept = frontier[frontier["score"] >= KEPT].groupby("run")["flops"].min()
    there = {run: title for run, title in titles.items() if run in set(frontier["run"])}
    some = sorted((kept[run], title) for run, title in there.items() if run in kept)
    never = [title for run, title in there.items() if run not in kept]
    told = [f"{title} ({flops:.0%})" for flops, title in some]
    rest = f"; never by {listed(never)}" if never else ""
    return f"{KEPT:.0%} of the score are kept, with so much of the FLOPs, by {listed(told) or 'none'}{rest}."


def heeding_sentence(table: pd.DataFrame) -> str:
    """Of `thinsight.analysis.prompt_awareness.prompt_swap_table`: whose answers another question's choice takes away."""
    lost = table[table["high"] < 0].sort_values("difference", kind="stable")
    told = [f"{line.method} ({100 * line.difference:+.1f} points)" for line in lost.itertuples()]
    rest = [line.method for line in table.itertuples() if line.method not in set(lost["method"])]
    still = f" No interval says so of: {'; '.join(rest)}." if rest else ""
    return (
        f"Another question keeps {table['common'].min():.0%} to {table['common'].max():.0%} of the tokens as well; "
        f"answering with its choice loses for sure under {'; '.join(told) or 'no method'}.{still}"
    )


def overlap_sentence(kept: Iterable[Sequence[int]]) -> str:
    """How many tokens several questions about one picture keep, and how many of them two have in common, as a share of
    the smaller set."""
    sets = [set(one) for one in kept]
    shares = [len(a & b) / min(len(a), len(b)) for a, b in combinations(sets, 2)]
    sizes = sorted({len(one) for one in sets})
    count = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    return (
        f"Each question keeps {count} tokens, and two of them have {sum(shares) / len(shares):.0%} in common in the "
        f"mean ({min(shares):.0%} to {max(shares):.0%})."
    )


def spread_sentence(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Of `thinsight.analysis.curves.kept_spread`: the setting whose counts differ most between questions."""
    if not len(table):
        return ""
    line = table.loc[(table["sd"] / table["mean"]).idxmax()]
    return (
        f"The thresholds move the mean from {table['mean'].min():.0f} to {table['mean'].max():.0f} tokens. Questions "
        f"differ most under {labels[line['budget']]}: {line['least']:.0f} to {line['most']:.0f}, {line['mean']:.0f} ± "
        f"{line['sd']:.0f}."
    )


def first_sentence(places: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Of `thinsight.analysis.ranks.rank_stability`: the best at the smallest budget, and who cannot be told from it."""
    own = places[places["first"].notna()]
    own = own[own["keep"] == own["keep"].min()].sort_values("rank", kind="stable")
    if not len(own):
        return ""
    best, others = own.iloc[0], own.iloc[1:]
    near = [titles[run] for run in others.loc[others["low"] <= best["high"], "run"]]
    told = f"the intervals of {listed(near)} reach its own" if near else "no other interval reaches its own"
    return (
        f"At the smallest budget {titles[best['run']]} is first in {best['first']:.0%} of the resamples; of "
        f"{len(others)} others {told}."
    )


def orders_sentence(taus: pd.DataFrame) -> str:
    """Of `thinsight.analysis.ranks.rank_agreement`: how well two tasks or budgets agree, and one with itself."""
    told = []
    for of in (TASKS, BUDGETS):
        part = taus[taus["of"] == of]
        same = part["first"] == part["second"]
        two, one = part.loc[~same, "tau"].mean(), part.loc[same, "tau"].mean()
        if two == two and one == one:
            told.append(f"two {of} agree with a τ of {two:.2f}, halves of one with {one:.2f}")
    return f"In the mean {listed(told)}." if told else ""


def places_sentence(table: pd.DataFrame) -> str:
    """Of `thinsight.analysis.results.budget_labels`: what the published methods of each place make at the smallest budget."""
    means = table[(table["task"] == MEAN) & ~table["control"] & (table["keep"] == table["keep"].min())]
    told = [
        f"{part['accuracy'].min():.0%} to {part['accuracy'].max():.0%} {place}"
        for place, part in means.groupby("place", sort=False)
    ]
    return f"With the fewest tokens methods score {listed(told)}." if told else ""


def answers_sentence(said: Mapping[str, str], right: str, controls: Sequence[str]) -> str:
    """How many of the methods (title -> answer) are right about one picture, controls apart."""
    hits = {title: answer == right for title, answer in said.items()}
    own = [hit for title, hit in hits.items() if title not in controls]
    rest = [hit for title, hit in hits.items() if title in controls]
    return f"{sum(own)} of {len(own)} methods read it right, and {sum(rest)} of {len(rest)} controls."


def stages_sentence(lengths: Sequence[int]) -> str:
    """Visual tokens that enter each layer, where their number changes."""
    counts = list(dict.fromkeys(lengths))
    return f"{counts[0]} visual tokens come in, then {listed(counts[1:])} are left." if len(counts) > 1 else ""


def moved_sentence(curves: Mapping[str, pd.DataFrame]) -> str:
    """Of curves (title -> frame with ``share``): which moves the score most, and which least."""
    ends = {title: (of["share"].min(), of["share"].max()) for title, of in curves.items() if len(of) > 1}
    if len(ends) < 2:
        return ""
    order = sorted(ends, key=lambda title: ends[title][0] - ends[title][1])
    told = [f"{title} ({ends[title][0]:.0%} to {ends[title][1]:.0%})" for title in (order[0], order[-1])]
    return f"The score, as a share of what it is at the default, moves most with {told[0]} and least with {told[1]}."


def brought_sentence(spreads: Mapping[str, pd.DataFrame], readings: Mapping[str, str]) -> str:
    """Of `thinsight.papers.ficoco.internals.spreads` by method: the redundancy term's share of the score's spread, by reading
    (name -> what it is called)."""
    told = []
    for method, table in spreads.items():
        means = table.groupby("reading", sort=False)["share"].mean()
        told.append(f"of {method} " + listed(f"{means[name]:.0%} ({title})" for name, title in readings.items()))
    return f"The redundancy term brings, of the spread of the score {'; '.join(told)}."
