"""What PAR's page says in words, from the same numbers as its tables."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from thinsight.ablated import said as said_of
from thinsight.compression import nearest_share
from thinsight.par_flops import meets
from thinsight.words import listed

ABSTRACT = "abstract"
NAMES = {
    "FLOPs saving": "flops",
    "token reduction": "compression",
    "relative average": "score",
    "token reduction against earlier methods": "times",
}


def claims(published: pd.DataFrame, paper: str = "PAR") -> dict[str, float]:
    """The numbers of PAR's abstract by short names: flops, compression and score as shares, and times."""
    own = published[(published["paper"] == paper) & (published["table"] == ABSTRACT)]
    found = {NAMES[column]: number for column, number in zip(own["column"], own["number"], strict=True)}
    return {name: number if name == "times" else number / 100 for name, number in found.items()}


def at_budget(
    points: pd.DataFrame, wrong: pd.DataFrame, times: pd.DataFrame, runs: Mapping[str, str], share: float
) -> pd.DataFrame:
    """The table of a page at one ``share`` of the tokens: a line per run (run -> title), the score there, the tokens
    that it needs for PAR's score, and its answers on absent things. What was not run is empty.

    points  `thinsight.compression.curve`;  wrong  `thinsight.hallucination.hallucination`, with the same names of runs
    times   `thinsight.compression.against`
    """
    needs = times.set_index("run") if len(times) else pd.DataFrame()
    out = []
    for run, title in runs.items():
        line: dict[str, object] = {"method": title}
        if run in set(points["run"]):
            found = nearest_share(points, run, share)
            line |= {"kept": found["share"], "score": found["score"], "low": found["low"], "high": found["high"]}
            line["flops"] = found["flops"]
        if run in needs.index:
            line |= {
                "needs": needs.loc[run, "share"],
                "times": needs.loc[run, "times"],
                "least": needs.loc[run, "least"],
            }
        asked = wrong[wrong["run"] == run]
        if len(asked):
            there = asked.loc[(asked["share"] - line.get("kept", share)).abs().idxmin()]
            names = ("n", "absent", "yes", "false_yes", "precision", "recall", "f1")
            line |= {name: there[name] for name in names}
            line |= {"false_low": there["low"], "false_high": there["high"], "asked_share": there["share"]}
        out.append(line)
    return pd.DataFrame(out)


def finding(
    points: pd.DataFrame,
    times: pd.DataFrame,
    flops: pd.DataFrame,
    calibration: Mapping[str, Any],
    parts: pd.DataFrame,
    wrong: pd.DataFrame,
    printed: Mapping[str, float],
) -> str:
    """The page's finding, in paragraphs of markdown; what was not run is named as that."""
    said = [kept(points, printed), ways(flops, printed["flops"]), _times(times, printed["times"]), absent(wrong)]
    said += [calibrated(calibration), said_of(parts) if len(parts) else "The ablation was not run."]
    return "\n\n".join(filter(None, said))


def kept(points: pd.DataFrame, printed: Mapping[str, float]) -> str:
    if "par" not in set(points["run"]):
        return "PAR's curve was not run."
    own = [nearest_share(points, "par", 1 - printed["compression"])]
    if "par-adaptive" in set(points["run"]):
        own.append(nearest_share(points, "par-adaptive", 1 - printed["compression"]))
    told = [
        f"{one['score']:.1%}{mark} ({one['low']:.1%} to {one['high']:.1%})"
        for one, mark in zip(own, ("**", ""), strict=False)
    ]
    met = sum(one["low"] <= printed["score"] <= one["high"] for one in own)
    inside = "inside" if met == len(own) else "outside" if not met else "inside one of"
    adaptive = f", and deciding itself how many, {own[1]['share']:.0%} in the mean, {told[1]}" if len(own) > 1 else ""
    return (
        f"At {own[0]['share']:.0%} of the tokens our PAR keeps **{told[0]} of pocket's score{adaptive}; the abstract "
        f"prints {printed['score']:.0%} of its model's, {inside} {'these intervals' if adaptive else 'that interval'}."
    )


def ways(flops: pd.DataFrame, printed: float) -> str:
    """With which text lengths and whole layers the printed saving comes out, and in how many conventions."""
    found = flops[meets(flops, printed)]
    lengths = ", ".join(map(str, sorted(flops["text"].unique())))
    if found.empty:
        return f"Its {printed:.0%} of the FLOPs come out at none of the lengths tried (L = {lengths})."
    ways = found.groupby(["layers", "text"])["convention"].nunique()
    told = [f"K = {layers} and L = {text} ({count} conventions)" for (layers, text), count in ways.items()]
    return f"Its {printed:.0%} of the FLOPs come out with {listed(told)} and no other length tried (L = {lengths})."


def _times(times: pd.DataFrame, printed: float) -> str:
    """Which methods need as many times PAR's tokens as is printed, and which do not; a method whose smallest budget is
    enough may need fewer still, so that this decides nothing where it is a large one."""
    if times.empty:
        return ""
    named = times.assign(said=[f"{line.title} ({line.times:.1f})" for line in times.itertuples()])
    many = named["times"] >= printed
    told, fewer, open_ = (list(named["said"][of]) for of in (many & ~named["least"], ~many, many & named["least"]))
    rest = f"; open for {listed(open_)}, whose smallest budget is enough" if open_ else ""
    return (
        f"For the score that it keeps there, {printed:g} times its tokens or more are needed by "
        f"{listed(told) or 'no method'}, fewer by {listed(fewer) or 'none'}{rest}."
    )


def calibrated(record: Mapping[str, Any]) -> str:
    """The same test on the questions of the calibration (``data/pocket/par.json``), in a sentence."""
    told = []
    for space, found in record["spaces"].items():
        other = found["shuffled"]
        told.append(f"{space} from {found['accuracy']:.1%} to {other['accuracy']:.1%}, {other['common']:.0%} in common")
    return (
        f"It listens by its space: on the {record['questions']} training questions of its calibration the choice of "
        f"another question takes the accuracy in the space {listed(told)}."
    )


def absent(wrong: pd.DataFrame) -> str:
    whole, own = (wrong[wrong["run"] == name] for name in ("plain", "par"))
    if whole.empty or own.empty:
        return ""
    most = own.loc[own["false_yes"].idxmax()]
    return (
        f"Absent things are affirmed in {whole['false_yes'].iloc[0]:.1%} of {int(most['absent'])} questions by the "
        f"whole model, and under PAR in up to {most['false_yes']:.1%}, at {most['share']:.0%} of the tokens."
    )
