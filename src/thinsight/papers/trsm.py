"""What the page on TRSM shows: the two readings of its 20 %, computed once from the runs and the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.ablation import ablation_facts, ablation_table
from thinsight.analysis.comparisons import MEAN, compare
from thinsight.analysis.curves import compression_curve
from thinsight.analysis.results import budgets_at, read_if_run
from thinsight.config.methods import load_method
from thinsight.ledger.ledger import count_all, headline, ledger
from thinsight.ledger.published import load_published
from thinsight.models.image_tokens import tokens_of
from thinsight.papers.par.flops import MODEL, reductions
from thinsight.papers.par.prompts import swap_table
from thinsight.report.render import finding

SHARES = {"drop20": 0.8, "keep20": 0.2}
"""The share of the tokens that stays under each reading."""

WHOLE = "whole model"
RUNS = {"TRSM": "trsm-20", "random": "random", "grid": "grid"}
"""Title -> the run that has the budgets of the readings."""

PARTS = {
    "space": ["space", "sign"],
    "queries": ["rewriting", "aggregate"],
    "union": ["each"],
    "the dropped": ["merge"],
    "positions": ["positions"],
}
"""A part of the method -> the fields of TRSM that belong to it."""

CURVES = {"trsm": "TRSM", "trsm-20": "TRSM, its two readings", "grid": "uniform grid"}

SWAPPED = {
    "all tokens, llm": {},
    "words, llm": {"rewriting": "words"},
    "entities and actions, llm": {"rewriting": "rules"},
    "entities and actions, clip": {"rewriting": "rules", "space": "clip"},
}
"""Variants that are tested with another question's choice, with the fewer tokens; the first one with both readings."""


@dataclass(frozen=True)
class TrsmPage:
    """Frames of the page; a run that is not there leaves its frame empty."""

    comparison: pd.DataFrame  # the readings and as many random or regular tokens, beside the whole model (`compare`)
    curve: pd.DataFrame  # `compression_curve`
    tokens: dict[str, int]  # reading -> visual tokens that it leaves of a picture of LLaVA-1.5
    flops: pd.DataFrame  # what that saves (`papers.par.flops.reductions`)
    parts: pd.DataFrame  # variants of TRSM (`ablation_table`)
    prompt: pd.DataFrame  # `swap_table` of the variants `SWAPPED`
    ledger: pd.DataFrame  # the printed numbers with their verdicts

    @property
    def facts(self) -> dict[str, Any]:
        """What `report.artifacts.save` writes."""
        missing = [name for name in SHARES if f"TRSM, {name}" not in set(self.comparison["line"])]
        return {"tokens": self.tokens, "missing": missing, "questions": int(self.prompt["n"].max())}

    @property
    def evidence(self) -> dict[str, Any]:
        """What the claims are held against besides runs (`ledger.claim_findings.Evidence`)."""
        return {"prompt": self.prompt}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that are saved beside the facts."""
        names = ("comparison", "curve", "parts", "prompt", "flops", "ledger")
        return {name: getattr(self, name) for name in names}

    @property
    def finding(self) -> str:
        """The finding in markdown."""
        values = {"readings": reading_facts(self.comparison), "parts": ablation_facts(self.parts)}
        said = headline(count_all(self.ledger))
        return f"{said}\n\n" + finding("trsm.md.j2", values)


def build(folder: Path, reads: Sequence[str], model: str, questions: int, text_tokens: int) -> TrsmPage:
    """The page from the runs ``reads`` in ``folder``; ``questions``: training questions of each task; ``text_tokens``:
    of the prompt whose FLOPs are counted."""
    results, answers = read_if_run(folder, [run for run in reads if run != "trsm-fields"])
    tokens = {name: round(share * tokens_of(MODEL)) for name, share in SHARES.items()}
    saved = [reductions(n, [text_tokens], [0]).assign(reading=name, tokens=n) for name, n in tokens.items()]
    methods = {
        f"{title}, {name}": load_method("trsm", keep=share, **fields)
        for name, share in SHARES.items()
        for title, fields in SWAPPED.items()
        if name == "keep20" or not fields
    }
    published = load_published("par")
    return TrsmPage(
        comparison=compare(results, answers, reading_lines(results), WHOLE),
        curve=compression_curve(results, answers),
        tokens=tokens,
        flops=pd.concat(saved),
        parts=ablation_table(*read_if_run(folder, ["trsm-fields"]), PARTS),
        prompt=swap_table(model, methods, questions, list(dict.fromkeys(results["task"]))),
        ledger=ledger(published[published["paper"] == "TRSM"], results, answers),
    )


def reading_lines(results: pd.DataFrame) -> dict[str, tuple[str, list[str]]]:
    """Lines for `analysis.comparisons.compare`: the whole model, then for each reading those of `RUNS` that have its
    share among their budgets, as "title, drop20"."""
    lines: dict[str, tuple[str, list[str]]] = {WHOLE: ("plain", ["fixed"])}
    for (name, share), (title, run) in product(SHARES.items(), RUNS.items()):
        if run in set(results["run"]) and (budgets := budgets_at(results, run, share)):
            lines[f"{title}, {name}"] = (run, budgets)
    return lines


def reading_facts(comparison: pd.DataFrame) -> list[dict[str, Any]]:
    """What the finding says of each reading.

    name, share  the reading;  run  whether it was run, and if so:
    flops        prefill FLOPs of the decoder as a share of the whole model's, ``whole`` the whole model's accuracy
    accuracy, difference, low, high  of the mean over tasks
    lost         task -> difference of those whose interval lies below zero;  controls  title -> accuracy
    """
    means = comparison[comparison["task"] == MEAN].set_index("line")
    whole, facts = means.loc[WHOLE], []
    for name, share in SHARES.items():
        line = f"TRSM, {name}"
        facts.append({"name": name, "share": share, "run": line in means.index})
        if line not in means.index:
            continue
        tasks = comparison[(comparison["line"] == line) & (comparison["task"] != MEAN)]
        lost = tasks[tasks["high"] < 0].sort_values("difference").set_index("task")["difference"]
        controls = {title: f"{title}, {name}" for title in RUNS if title != "TRSM"}
        facts[-1] |= {
            **means.loc[line, ["accuracy", "difference", "low", "high"]],
            "flops": means.loc[line, "profiler"] / whole["profiler"],
            "whole": whole["accuracy"],
            "lost": lost.to_dict(),
            "controls": {title: means.loc[at, "accuracy"] for title, at in controls.items() if at in means.index},
        }
    return facts
