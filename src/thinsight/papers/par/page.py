"""What the page on PAR shows, computed once from the runs, the training questions and the model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.ablation import ablation_facts, ablation_table, method_variants, spelled
from thinsight.analysis.curves import compression_curve, kept_counts, kept_spread, nearest_share, tokens_needed_by
from thinsight.analysis.hallucination import false_yes_rates, rename_by_method, shares_of
from thinsight.analysis.results import read_if_run
from thinsight.config.catalogue import method_entry
from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.costs.conventions import FASTV, PROFILER, PYRAMIDDROP
from thinsight.costs.flops import decoder_shape
from thinsight.ledger.ledger import ledger
from thinsight.ledger.published import load_published
from thinsight.models.loading import load_model, meta_model
from thinsight.papers.par.flops import LAYERS, MODEL, meets_printed, reductions, tokens_left
from thinsight.papers.par.prompts import prompt_swaps
from thinsight.paths import ROOT
from thinsight.report.tables import finding

NOT_RUN = "not run"

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
"""The runs of the page's curves (run -> title), and of its table below."""

METHODS = {
    **CURVES,
    "par": "PAR",
    "fastv": "FastV",
    "trim": "TRIM",
    "prumerge": "LLaVA-PruMerge",
    "random": "random subset",
}

PARTS = {
    "keep": "router",
    "rewriting": "A rewriting",
    "asked": "A rewriting",
    "phrase": "A rewriting",
    "graph": "B clusters",
    "clusters": "B clusters",
    "tau_e": "C retrieval",
    "prototype": "C retrieval",
    "aggregate": "C retrieval",
    "space": "C retrieval",
    "sign": "C retrieval",
    "tau_r": "D router",
    "tau_s": "D router",
    "scope": "D router",
    "merge": "D router",
    "positions": "positions",
}
"""A field of PAR -> the part of the method that it belongs to."""

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
    """Frames of the page; a run that is not there leaves its frame empty.

    claims      the abstract's numbers (`abstract_claims`), and ``tokens`` that its compression leaves of a picture
    curve       `compression_curve`;  false_yes  `false_yes_rates` by the same names of runs
    times       `tokens_needed_by` of PAR's score, and ``budget`` the table at the abstract's compression (`at_budget`)
    flops       the saving in every convention (`papers.par.flops.reductions`), and ``by_length`` over the text's length
    counts      tokens kept of each question by PAR adaptive (`kept_counts`), ``adaptive`` a summary, and ``settings``
                its budgets in words
    parts       variants of PAR (`ablation_table`)
    prompt      `prompt_swaps` of the methods `SWAPPED`
    ledger      the printed numbers with their verdicts
    calibration what the choice of the thresholds found (`papers.par.calibration`)
    """

    claims: dict[str, float]
    tokens: int
    questions: int
    curve: pd.DataFrame
    false_yes: pd.DataFrame
    times: pd.DataFrame
    budget: pd.DataFrame
    flops: pd.DataFrame
    by_length: pd.DataFrame
    counts: pd.DataFrame
    adaptive: pd.DataFrame
    settings: dict[str, str]
    parts: pd.DataFrame
    prompt: pd.DataFrame
    ledger: pd.DataFrame
    calibration: dict[str, Any]

    @property
    def claim(self) -> tuple[float, float]:
        """What the abstract prints: the share of the tokens that is left, and the share of the score."""
        return 1 - self.claims["compression"], self.claims["score"]

    @property
    def keeps(self) -> dict[float, str]:
        """The budgets of the variants, each with a title."""
        return {keep: f"{keep:.0%} of the tokens" for keep in self.parts["keep"].dropna().unique()}

    @property
    def facts(self) -> dict[str, Any]:
        """What `report.artifacts.save` writes."""
        return {"printed": self.claims, "tokens": self.tokens, "questions": self.questions}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that are saved beside the facts."""
        names = ("curve", "false_yes", "budget", "flops", "adaptive", "parts", "prompt", "ledger")
        return {name: getattr(self, name) for name in names}

    @property
    def finding(self) -> str:
        """The finding in markdown."""
        return finding("par/finding.md.j2", finding_facts(self))


def build(folder: Path, reads: Sequence[str], model: str, questions: int) -> ParPage:
    """The page from the runs in ``folder``: of ``reads`` the first is the main runs, the second PAR's own variants, the
    third the runs with many questions on what is in the picture. ``questions``: training questions of each task."""
    results, answers = read_if_run(folder, [reads[0], "par-adaptive"])
    repeated = rename_by_method(*read_if_run(folder, [reads[2]]))
    asked = repeated if len(repeated[0]) else (results, answers)
    claims = abstract_claims(load_published("par"))
    left, tokens = 1 - claims["compression"], tokens_left(claims["compression"])
    curve, false_yes = compression_curve(results, answers), false_yes_rates(asked[1], shares_of(asked[0]))
    others = {run: title for run, title in METHODS.items() if run not in ("par", "par-adaptive")}
    times = tokens_needed_by(curve, others, left)
    shape = decoder_shape(meta_model(load_config([f"model={MODEL}"]).model))
    counts = kept_counts(folder, "par-adaptive")
    parts = ablation_table(
        *read_if_run(folder, ["par-parts"]), "par-parts", method_variants(folder, "par-parts"), PARTS
    )
    without_router = parts["variant"].astype(str).str.contains("k_max")
    swaps = {title: load_method(name, keep=round(left, 4), **fields) for title, (name, fields) in SWAPPED.items()}
    swapped = prompt_swaps(model, swaps, questions)
    return ParPage(
        claims=claims,
        tokens=tokens,
        questions=int(swapped["n"].max()),
        curve=curve,
        false_yes=false_yes,
        times=times,
        budget=at_budget(curve, false_yes, times, METHODS, left),
        flops=reductions(shape, tokens),
        by_length=reductions(shape, tokens, range(0, 121, 2), LAYERS, [FASTV, PYRAMIDDROP]),
        counts=counts,
        adaptive=kept_spread(counts, decoder_shape(load_model(model)[0]), PROFILER),
        settings={budget: spelled(fields) for budget, fields in method_variants(folder, "par-adaptive").items()},
        parts=parts.assign(variant=parts["variant"].mask(without_router, "no router: the most relevant")),
        prompt=swapped,
        ledger=ledger(load_published("par").query("paper == 'PAR'"), results, answers),
        calibration=json.loads((ROOT / "data" / "pocket" / "par.json").read_text(encoding="utf-8")),
    )


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
            line |= dict(nearest[["n", "absent", "yes", "false_yes", "precision", "recall", "f1"]])
            line |= {"false_low": nearest["low"], "false_high": nearest["high"], "asked_share": nearest["share"]}
        lines.append(line)
    return pd.DataFrame(lines)


def budget_table(table: pd.DataFrame) -> pd.DataFrame:
    """`at_budget` in words and per cent."""
    rows = [{name: value for name, value in row.items() if pd.notna(value)} for row in table.to_dict("records")]

    def shown(form: str, *names: str) -> list[str]:
        return [form.format(**row) if row.keys() >= set(names) else NOT_RUN for row in rows]

    out = pd.DataFrame(index=table["method"])
    out["tokens left"], out["FLOPs"] = shown("{kept:.0%}", "kept"), shown("{flops:.0%}", "flops")
    out["score kept"] = shown("{score:.1%} ({low:.0%} to {high:.0%})", "score", "low", "high")
    out["needs for PAR's score"] = [
        f"{'≤ ' if row['least'] else ''}{row['needs']:.0%}, {row['times']:.1f} ×" if "needs" in row else ""
        for row in rows
    ]
    out["says yes"] = shown("{yes:.1%}", "yes")
    out["false yes"] = shown("{false_yes:.1%} ({false_low:.0%} to {false_high:.0%})", "false_yes")
    out["precision"], out["F1"] = shown("{precision:.1%}", "precision"), shown("{f1:.1%}", "f1")
    return out


def finding_facts(page: ParPage) -> dict[str, Any]:
    """What the template of the finding is filled with."""
    runs = [run for run in ("par", "par-adaptive") if run in set(page.curve["run"])]
    met = page.flops[meets_printed(page.flops, page.claims["flops"])]
    false_yes = {run: rows.to_dict("records") for run, rows in page.false_yes.groupby("run")}
    return {
        "statement": method_entry("par").deviations[0],
        "printed": page.claims,
        "kept": [nearest_share(page.curve, run, page.claim[0]).to_dict() for run in runs],
        "ways": met.groupby(["layers", "text"])["convention"].nunique().to_dict(),
        "lengths": sorted(page.flops["text"].unique()),
        "times": page.times.to_dict("records"),
        "whole": false_yes.get("plain", []),
        "par": max(false_yes.get("par", []), key=lambda row: row["false_yes"], default=None),
        "calibration": page.calibration,
        "parts": ablation_facts(page.parts),
    }
