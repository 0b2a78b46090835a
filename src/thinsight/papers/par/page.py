"""Tables of the pages on PAR and TRSM.

The abstract (arXiv:2410.07278v2) prints a reduction of the FLOPs beside a compression of the visual tokens and says of
neither how it is counted. The second leaves little choice in the first: with n visual tokens of 576, L others and K
layers that still see all of them,

    reduction = 1 - (K F(576 + L) + (layers - K) F(n + L)) / (layers F(576 + L))

where F is a layer's count in one of `thinsight.costs.conventions`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from thinsight.analysis.ablation import ablation_finding
from thinsight.analysis.curves import nearest_share
from thinsight.costs.conventions import CONVENTIONS, Convention
from thinsight.costs.flops import DecoderShape, flops
from thinsight.ledger.verdicts import meets
from thinsight.report.wording import listed

PICTURE = 576  # visual tokens of LLaVA-1.5


TEXTS = (0, 35, 44, 60)
"""Tokens of the prompt besides the picture: none, LLaVA's preamble, that with a short question, with a long one."""


LAYERS = (0, 2, 3)
"""Layers that see all tokens: none (in front of the decoder), two as FastV has it, three."""


def reductions(
    shape: DecoderShape, left: int, texts: Sequence[int] = TEXTS, layers: Sequence[int] = LAYERS, picture: int = PICTURE
) -> pd.DataFrame:
    """One line per convention, number of texts and of whole layers: the ``reduction`` of the prefill's FLOPs, and the
    whole prefill's ``tflops``. A convention that counts visual tokens alone knows no text, so has a line for 0 only."""
    out = []
    for convention in CONVENTIONS:
        for text in [0] if convention.visual_only else texts:
            for whole in layers:
                full, short = (_count(shape, convention, n, text, whole, picture) for n in (picture, left))
                line = {"convention": convention.name, "text": text, "layers": whole}
                out.append(line | {"reduction": 1 - short / full, "tflops": full / 1e12})
    return pd.DataFrame(out)


def flops_curves(
    shape: DecoderShape, left: int, texts: Sequence[int], layers: Sequence[int], conventions: Sequence[Convention]
) -> pd.DataFrame:
    """`reductions` for every text length of a figure, of conventions that count the text."""
    found = reductions(shape, left, texts, layers)
    return found[found["convention"].isin([c.name for c in conventions])]


def flops_meet(found: pd.DataFrame, printed: float) -> pd.Series:
    """Whether each reduction is the ``printed`` one (both shares), by the ledger's rule, in whole percent."""
    return found["reduction"].map(lambda reduction: meets(f"{100 * printed:.0f}", 100 * reduction))


def wide(found: pd.DataFrame) -> pd.DataFrame:
    """A line per convention and text length, a column per number of whole layers; conventions that agree in all of them
    to a tenth of a percentage point share their lines."""
    table = found.pivot_table(index=["convention", "text"], columns="layers", values="reduction", sort=False)
    groups: dict[str, list[str]] = {}
    for name, part in table.groupby("convention", sort=False):
        groups.setdefault(str((100 * part.droplevel(0)).round(1).to_dict()), []).append(name)
    lead = {names[0]: ", ".join(names) for names in groups.values()}
    kept = table[table.index.get_level_values(0).isin(lead)]
    return kept.rename(index=lead, level=0)


def implied(numbers: Mapping[str, float], picture: int = PICTURE) -> int:
    """Visual tokens that a printed ``compression`` (a share) leaves of the picture: the multiple of 32 next to it, as
    settings in this literature are 192, 128, 64 and 32."""
    return max(32, 32 * round((1 - numbers["compression"]) * picture / 32))


def _count(shape: DecoderShape, convention: Convention, left: int, text: int, whole: int, picture: int) -> int:
    visual = [picture] * whole + [left] * (shape.layers - whole)
    return flops(shape, [n + text for n in visual], convention, visual=visual)


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

    points  `thinsight.analysis.curves.compression_curve`;  wrong  `thinsight.analysis.hallucination.false_yes_rates`, with the same names of runs
    times   `thinsight.analysis.curves.tokens_needed_by`
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


def par_finding(
    points: pd.DataFrame,
    times: pd.DataFrame,
    flops: pd.DataFrame,
    calibration: Mapping[str, Any],
    parts: pd.DataFrame,
    wrong: pd.DataFrame,
    printed: Mapping[str, float],
) -> str:
    """The page's finding, in paragraphs of markdown; what was not run is named as that."""
    said = [
        kept_finding(points, printed),
        ways_finding(flops, printed["flops"]),
        _times(times, printed["times"]),
        absent_finding(wrong),
    ]
    said += [calibrated_finding(calibration), ablation_finding(parts) if len(parts) else "The ablation was not run."]
    return "\n\n".join(filter(None, said))


def kept_finding(points: pd.DataFrame, printed: Mapping[str, float]) -> str:
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


def ways_finding(flops: pd.DataFrame, printed: float) -> str:
    """With which text lengths and whole layers the printed saving comes out, and in how many conventions."""
    found = flops[flops_meet(flops, printed)]
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


def calibrated_finding(record: Mapping[str, Any]) -> str:
    """The same test on the questions of the calibration (``data/pocket/par.json``), in a sentence."""
    told = []
    for space, found in record["spaces"].items():
        other = found["shuffled"]
        told.append(f"{space} from {found['accuracy']:.1%} to {other['accuracy']:.1%}, {other['common']:.0%} in common")
    return (
        f"It listens by its space: on the {record['questions']} training questions of its calibration the choice of "
        f"another question takes the accuracy in the space {listed(told)}."
    )


def absent_finding(wrong: pd.DataFrame) -> str:
    whole, own = (wrong[wrong["run"] == name] for name in ("plain", "par"))
    if whole.empty or own.empty:
        return ""
    most = own.loc[own["false_yes"].idxmax()]
    return (
        f"Absent things are affirmed in {whole['false_yes'].iloc[0]:.1%} of {int(most['absent'])} questions by the "
        f"whole model, and under PAR in up to {most['false_yes']:.1%}, at {most['share']:.0%} of the tokens."
    )


ABSENT = "not run"


def budget_table(table: pd.DataFrame) -> Styler:
    """`thinsight.papers.par.page.at_budget` in words and per cent."""
    out = pd.DataFrame(index=table["method"].rename(None))
    rows = [line._asdict() for line in table.itertuples()]
    out["tokens left"] = [_percent(line, "kept", ".0%") for line in rows]
    out["FLOPs"] = [_percent(line, "flops", ".0%") for line in rows]
    out["score kept"] = [_interval(line, "score", "low", "high") for line in rows]
    out["needs for PAR's score"] = [_needs(line) for line in rows]
    out["says yes"] = [_percent(line, "yes") for line in rows]
    out["false yes"] = [_interval(line, "false_yes", "false_low", "false_high") for line in rows]
    out["precision"] = [_percent(line, "precision") for line in rows]
    out["F1"] = [_percent(line, "f1") for line in rows]
    return out.style


def ways_table(found: pd.DataFrame, printed: float) -> Styler:
    """`thinsight.papers.par.page.reductions` in %, a column per number of whole layers; bold where it is as ``printed``."""
    table = wide(found)
    hits = table.apply(lambda column: flops_meet(column.to_frame("reduction"), printed))
    shown = (100 * table).map("{:.1f}".format)
    shown = shown.where(~hits, shown + " ◀")
    shown.columns = [f"K = {layers}" for layers in shown.columns]
    shown.index = pd.Index([f"{name}, L = {text}" for name, text in shown.index])
    marks = hits.set_axis(shown.columns, axis=1).set_axis(shown.index)
    return shown.style.apply(lambda _: marks.map(lambda hit: "font-weight: bold" if hit else ""), axis=None)


def _there(line: dict, name: str) -> bool:
    return name in line and pd.notna(line[name])


def _percent(line: dict, name: str, form: str = ".1%") -> str:
    return format(line[name], form) if _there(line, name) else ABSENT


def _interval(line: dict, name: str, low: str, high: str) -> str:
    if not _there(line, name):
        return ABSENT
    return f"{line[name]:.1%} ({100 * line[low]:.0f}–{100 * line[high]:.0f})"


def _needs(line: dict) -> str:
    """``17.3%, 1.6 ×``; with ≤ where the smallest budget that was run is enough."""
    if not _there(line, "needs"):
        return ""
    return f"{'≤ ' if bool(line['least']) else ''}{line['needs']:.0%}, {line['times']:.1f} ×"


def saving(found: pd.DataFrame) -> Styler:
    """`thinsight.papers.par.page.reductions` of several numbers of tokens (columns ``reading`` and ``tokens``): a line
    each, a column per convention, in %."""
    lines = found["reading"] + ", " + found["tokens"].astype(str) + f" of {PICTURE} tokens"
    out = found.assign(line=lines).pivot_table(index="line", columns="convention", values="reduction", sort=False)
    return (100 * out).map("{:.1f}".format).rename_axis(index=None, columns=None).style
