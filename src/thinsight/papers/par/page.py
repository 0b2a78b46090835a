"""What the page on PAR shows, computed once from the runs, the training questions and the model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.ablation import ablation_facts, ablation_table
from thinsight.analysis.curves import compression_curve, kept_counts, kept_spread, nearest_share, tokens_needed_by
from thinsight.analysis.hallucination import false_yes_rates, rename_by_method
from thinsight.analysis.results import read_if_run
from thinsight.config.catalogue import method_entry
from thinsight.config.methods import load_method
from thinsight.costs.conventions import FASTV, PROFILER, PYRAMIDDROP
from thinsight.costs.flops import decoder_shape
from thinsight.ledger.ledger import count_all, headline, ledger
from thinsight.ledger.published import POCKET, load_published
from thinsight.models.loading import load_model
from thinsight.papers.par.flops import LAYERS, meets_printed, reductions, tokens_left
from thinsight.papers.par.prompts import swap_table
from thinsight.paths import ROOT
from thinsight.report.render import finding

CALIBRATION = ROOT / "data" / "pocket" / "par.json"
"""What the choice of the thresholds found (`papers.par.calibration`)."""

NOT_RUN, NEEDS = "not run", "needs for PAR's score"

CURVES = {
    "par": "PAR, so many",
    "par-adaptive": "PAR, adaptive",
    "trsm": "TRSM",
    "cdpruner": "CDPruner",
    "divprune": "DivPrune",
    "visionzip": "VisionZip",
    "sparsevlm": "SparseVLM",
    "grid": "uniform grid",
}
"""The runs of the page's curves, run -> title; below, those of its table."""

METHODS = {
    **CURVES,
    "par": "PAR",
    "fastv": "FastV",
    "trim": "TRIM",
    "prumerge": "LLaVA-PruMerge",
    "random": "random subset",
}

PARTS = {
    "router": ["keep"],
    "A rewriting": ["rewriting", "asked", "phrase"],
    "B clusters": ["graph", "clusters"],
    "C retrieval": ["tau_e", "prototype", "aggregate", "space", "sign"],
    "D router": ["tau_r", "tau_s", "scope", "merge"],
    "positions": ["positions"],
}
"""A part of the method -> the fields of PAR that belong to it."""

SWAPPED = {
    "PAR, clip": ("par", {"space": "clip"}),
    "PAR, llm": ("par", {"space": "llm"}),
    "TRSM, llm": ("trsm", {"space": "llm"}),
    "TRSM, clip": ("trsm", {"space": "clip"}),
    "CDPruner": ("cdpruner", {}),
    "DivPrune": ("divprune", {}),
}
"""Methods that are tested with another question's choice: title -> (method, fields)."""

CLAIMS = {
    "FLOPs saving": "flops",
    "token reduction": "compression",
    "relative average": "score",
    "token reduction against earlier methods": "times",
}
"""A column of the abstract's numbers -> its short name."""


@dataclass(frozen=True)
class ParPage:
    """Frames of the page; a run that is not there leaves its frame empty."""

    claims: dict[str, float]  # the abstract's numbers (`abstract_claims`)
    tokens: int  # visual tokens that its compression leaves of a picture
    curve: pd.DataFrame  # `compression_curve`
    false_yes: pd.DataFrame  # `false_yes_rates` by the same names of runs
    times: pd.DataFrame  # `tokens_needed_by` of PAR's score
    flops: pd.DataFrame  # the saving in every convention (`papers.par.flops.reductions`)
    by_length: pd.DataFrame  # the same over the length of the text
    counts: pd.DataFrame  # tokens kept of each question by PAR adaptive (`kept_counts`)
    adaptive: pd.DataFrame  # their spread (`kept_spread`)
    parts: pd.DataFrame  # variants of PAR (`ablation_table`)
    prompt: pd.DataFrame  # `swap_table` of the methods `SWAPPED`
    model: str  # the model of the runs
    ledger: pd.DataFrame  # the printed numbers with their verdicts

    @property
    def claim(self) -> tuple[float, float]:
        """What the abstract prints: the share of the tokens that is left, and the share of the score."""
        return 1 - self.claims["compression"], self.claims["score"]

    @property
    def budget(self) -> pd.DataFrame:
        """The table at the abstract's compression (`at_budget`)."""
        return at_budget(self.curve, self.false_yes, self.times, METHODS, self.claim[0])

    @property
    def facts(self) -> dict[str, Any]:
        """What `report.artifacts.save` writes."""
        return {"printed": self.claims, "tokens": self.tokens, "questions": int(self.prompt["n"].max())}

    @property
    def evidence(self) -> dict[str, Any]:
        """What the claims are held against besides runs (`ledger.claim_findings.Evidence`)."""
        return {"prompt": self.prompt}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that are saved beside the facts."""
        names = ("curve", "false_yes", "budget", "flops", "adaptive", "parts", "prompt", "ledger")
        return {name: getattr(self, name) for name in names}

    @property
    def finding(self) -> str:
        """The finding in markdown."""
        runs = [run for run in ("par", "par-adaptive") if run in set(self.curve["run"])]
        met = self.flops[meets_printed(self.flops, self.claims["flops"])]
        rates = {run: rows.to_dict("records") for run, rows in self.false_yes.groupby("run")}
        values = {
            "statement": method_entry("par").deviations[0],
            "model": self.model,
            "printed": self.claims,
            "kept": [nearest_share(self.curve, run, self.claim[0]).to_dict() for run in runs],
            "ways": met.groupby(["layers", "text"])["convention"].nunique().to_dict(),
            "lengths": sorted(self.flops["text"].unique()),
            "times": self.times.to_dict("records"),
            "whole": rates.get("plain", []),
            "par": max(rates.get("par", []), key=lambda row: row["false_yes"], default=None),
            "calibration": json.loads(CALIBRATION.read_text(encoding="utf-8")),
            "parts": ablation_facts(self.parts),
        }
        said = headline(count_all(self.ledger))
        return f"{said}\n\n" + finding("par/finding.md.j2", values)


def build(folder: Path, reads: Sequence[str], model: str, questions: int) -> ParPage:
    """The page from the runs in ``folder``: of ``reads`` the first is the main runs, the second PAR's own variants, the
    third the runs with many questions on what is in the picture. ``questions``: training questions of each task."""
    results, answers = read_if_run(folder, [reads[0], "par-adaptive"])
    many = rename_by_method(*read_if_run(folder, [reads[2]]))
    published = load_published("par")
    claims = abstract_claims(published)
    left, tokens = 1 - claims["compression"], tokens_left(claims["compression"])
    curve, counts = compression_curve(results, answers), kept_counts(folder, "par-adaptive")
    parts = ablation_table(*read_if_run(folder, ["par-parts"]), PARTS)
    without_router = parts["variant"].astype(str).str.contains("k_max")
    others = {run: title for run, title in METHODS.items() if run not in ("par", "par-adaptive")}
    swaps = {title: load_method(name, keep=round(left, 4), **fields) for title, (name, fields) in SWAPPED.items()}
    return ParPage(
        claims=claims,
        tokens=tokens,
        curve=curve,
        false_yes=false_yes_rates(*(many if len(many[0]) else (results, answers)), absent_task(results)),
        times=tokens_needed_by(curve, others, left, "par"),
        flops=reductions(tokens),
        by_length=reductions(tokens, range(0, 121, 2), LAYERS, [FASTV, PYRAMIDDROP]),
        counts=counts,
        adaptive=kept_spread(counts, decoder_shape(load_model(model)[0]), PROFILER),
        parts=parts.assign(variant=parts["variant"].mask(without_router, "no router: the most relevant")),
        model=results["model"].iloc[0] if len(results) else POCKET,
        prompt=swap_table(model, swaps, questions, list(dict.fromkeys(results["task"]))),
        ledger=ledger(published[published["paper"] == "PAR"], results, answers),
    )


def absent_task(results: pd.DataFrame) -> str:
    """The task that asks for things which are not there: POPE where that was asked, else pocket's copy of it."""
    return "pope" if "pope" in set(results["task"]) else "exist"


def abstract_claims(published: pd.DataFrame) -> dict[str, float]:
    """The numbers of PAR's abstract by short names: flops, compression and score as shares, and times."""
    abstract = published[(published["paper"] == "PAR") & (published["table"] == "abstract")]
    numbers = {CLAIMS[column]: number for column, number in zip(abstract["column"], abstract["number"], strict=True)}
    return {name: number if name == "times" else number / 100 for name, number in numbers.items()}


def at_budget(
    points: pd.DataFrame, wrong: pd.DataFrame, times: pd.DataFrame, runs: Mapping[str, str], share: float
) -> pd.DataFrame:
    """The table of a page at one ``share`` of the tokens: a line per run (run -> title), the score there, the tokens
    that it needs for PAR's score, and its answers on absent things. What was not run is empty.

    points, wrong, times  as in `ParPage`: curve, false_yes, times
    """
    needed = times.set_index("run") if len(times) else pd.DataFrame()
    lines = []
    for run, title in runs.items():
        line: dict[str, object] = {"method": title}
        if run in set(points["run"]):
            nearest = nearest_share(points, run, share)
            line |= {"kept": nearest["share"], **nearest[["score", "low", "high", "flops"]]}
        if run in needed.index:
            line |= {"needs": needed.loc[run, "share"], **needed.loc[run, ["times", "least"]]}
        if run in set(wrong["run"]):
            nearest = nearest_share(wrong, run, line.get("kept", share))
            line |= nearest[["n", "absent", "yes", "false_yes", "precision", "recall", "f1"]].to_dict()
            line |= {"false_low": nearest["low"], "false_high": nearest["high"], "asked_share": nearest["share"]}
        lines.append(line)
    return pd.DataFrame(lines)


def budget_table(table: pd.DataFrame) -> pd.DataFrame:
    """`at_budget` in words and per cent."""
    columns = {
        "tokens left": "{kept:.0%}",
        "FLOPs": "{flops:.0%}",
        "score kept": "{score:.1%} ({low:.0%} to {high:.0%})",
        NEEDS: "{at_most}{needs:.0%}, {times:.1f} ×",
        "says yes": "{yes:.1%}",
        "false yes": "{false_yes:.1%} ({false_low:.0%} to {false_high:.0%})",
        "precision": "{precision:.1%}",
        "F1": "{f1:.1%}",
    }
    lines = []
    for row in table.to_dict("records"):
        known = {name: value for name, value in row.items() if pd.notna(value)}
        known["at_most"] = "≤ " if known.get("least") else ""
        lines.append({title: _filled(form, known) for title, form in columns.items()})
    out = pd.DataFrame(lines, index=table["method"])
    return out.assign(**{NEEDS: out[NEEDS].replace(NOT_RUN, "")})


def _filled(form: str, values: Mapping[str, Any]) -> str:
    try:
        return form.format(**values)
    except KeyError:
        return NOT_RUN
