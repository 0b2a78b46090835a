"""FiCoCo's page: what it reads and computes, its facts and its finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from thinsight.analysis.results import PICTURE_TOKENS, load_answers, load_scores, score_cells, shared_budgets
from thinsight.config.catalogue import MethodEntry, method_entries
from thinsight.ledger.ledger import ledger
from thinsight.ledger.published import load_published
from thinsight.models.loading import load_model
from thinsight.papers.ficoco.ablations import PAIRS, answers_of, budget_curve, ficoco_ablation, printed_curve
from thinsight.papers.ficoco.flops import PRINTED_MODELS, cache_sizes, cost_floor, tflops_costs, tflops_labels
from thinsight.papers.ficoco.internals import Moment, edges_of, moments, ranks, spreads
from thinsight.papers.ficoco.tables import measured_scores, printed_scores, published_beside, rank_correlations
from thinsight.paths import ROOT
from thinsight.report.tables import finding
from thinsight.tasks.rows import Row, training_rows

NAMES = {"FiCoCo-V": "ficoco_v", "FiCoCo-L": "ficoco_l"}

SWEPT = {
    "lambda (V)": ("FiCoCo-V", "lambda"),
    "penalty (V)": ("FiCoCo-V", "penalty"),
    "epsilon (V)": ("FiCoCo-V", "epsilon"),
    "epsilon (L)": ("FiCoCo-L", "epsilon"),
    "beta (L)": ("FiCoCo-L", "beta"),
    "gamma (L)": ("FiCoCo-L", "gamma"),
}
"""Panel -> the method and field that are swept; for penalty and epsilon the paper prints numbers."""

LEAST = 0.1111  # the budget at which the method is looked into

QUANTILES = {
    "row, ε = 0.998": {"keep": LEAST},
    "matrix, ε = 0.998": {"keep": LEAST, "quantile_scope": "matrix"},
    "row, ε = 0.945": {"keep": LEAST, "epsilon": 0.945},
    "matrix, ε = 0.945": {"keep": LEAST, "epsilon": 0.945, "quantile_scope": "matrix"},
}
AS_PUBLISHED = next(iter(QUANTILES))
PRUNED, ITSELF = "fixed K=0 (prune)", ("fixed K=1", "average compression")


@dataclass(frozen=True)
class Ficoco:
    """What the page shows.

    entries     FiCoCo's methods;  all_entries  every method
    printed, measured, both   `printed_scores`, `measured_scores`, `published_beside`
    correlations  tokens -> Spearman's rho of printed and measured, and of how many methods
    whole       task -> accuracy (%) of the unreduced model
    ablations   method -> `ficoco_ablation`;  tasks  those of the ablations
    curves, printed_curves, defaults  panel of `SWEPT` -> `budget_curve`, `printed_curve`, the published value
    edges       `edges_of` the points of `QUANTILES`;  rows  the training rows;  moments  method -> `moments`
    spreads, ranks  method -> the same of its moments
    labels, caches, costs, floor  `tflops_labels`, `cache_sizes`, `tflops_costs`, `cost_floor`
    """

    all_entries: Sequence[MethodEntry]
    printed: pd.DataFrame
    measured: pd.DataFrame
    both: pd.DataFrame
    correlations: Mapping[int, tuple[float, int]]
    whole: Mapping[str, float]
    ablations: Mapping[str, pd.DataFrame]
    tasks: Sequence[str]
    curves: Mapping[str, pd.DataFrame]
    printed_curves: Mapping[str, pd.DataFrame]
    defaults: Mapping[str, float]
    edges: pd.DataFrame
    rows: Sequence[Row]
    moments: Mapping[str, Sequence[Sequence[Moment]]]
    spreads: Mapping[str, pd.DataFrame]
    ranks: Mapping[str, pd.DataFrame]
    labels: pd.DataFrame
    caches: pd.DataFrame
    costs: pd.DataFrame
    floor: Mapping[int, float]
    ledger: pd.DataFrame

    @property
    def entries(self) -> list[MethodEntry]:
        """FiCoCo's methods."""
        return [entry for entry in self.all_entries if entry.name.startswith("ficoco")]

    @property
    def facts(self) -> dict[str, Any]:
        """For a machine: how printed and measured orders agree, and on how many pictures the method was looked into."""
        return {"ranks": {str(n): rho for n, (rho, _) in self.correlations.items()}, "samples": len(self.rows)}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that the page saves."""
        tables = {"comparison": self.measured, "printed": self.printed, "edges": self.edges, "labels": self.labels}
        tables |= {"costs": self.costs, "ledger": self.ledger}
        tables |= {f"ablation_{NAMES[method]}": table for method, table in self.ablations.items()}
        return tables | {f"readings_{NAMES[method]}": table for method, table in self.spreads.items()}


def build(runs: str, reads: Sequence[str], model: str, task: str, samples: int) -> Ficoco:
    """The page of the runs ``reads`` in the folder ``runs``; attention is that of ``model`` on ``samples`` training
    pictures of ``task``."""
    published, folder, entries = load_published("ficoco"), ROOT / runs, method_entries()
    main = [run for run in reads if "/" not in run]
    results, answers = load_scores(folder, main), load_answers(folder, main)
    printed, measured = printed_scores(published), measured_scores(results, answers, shared_budgets(results))
    both = published_beside(printed, measured)
    knobs = {entry.title: entry.knobs for entry in entries if entry.title in NAMES}
    runs_of = {method: f"{name}-fields" for method, name in NAMES.items()}
    fields = {method: answers_of(folder, run) for method, run in runs_of.items()}
    defaults = {panel: knobs[method][field] for panel, (method, field) in SWEPT.items()}
    llava, processor = load_model(model)
    rows = training_rows([task], samples)[task]
    found = {method: moments(llava, processor, task, rows, name, keep=LEAST) for method, name in NAMES.items()}
    weights = {"FiCoCo-V": knobs["FiCoCo-V"]["lambda"], "FiCoCo-L": knobs["FiCoCo-L"]["beta"]}
    return Ficoco(
        all_entries=entries,
        printed=printed,
        measured=measured,
        both=both,
        correlations=rank_correlations(both),
        whole=score_cells(results, "plain").set_index("task")["accuracy"].mul(100).to_dict(),
        ablations={method: ficoco_ablation(published, fields[method], method, run) for method, run in runs_of.items()},
        tasks=list(dict.fromkeys(task for frame in fields.values() for task in frame["task"].unique())),
        curves={
            panel: budget_curve(fields[method], runs_of[method], field, defaults[panel])
            for panel, (method, field) in SWEPT.items()
        },
        printed_curves={
            panel: printed_curve(published, *SWEPT[panel]) for panel in ("penalty (V)", "epsilon (V)", "epsilon (L)")
        },
        defaults=defaults,
        edges=edges_of(llava, processor, task, rows, "ficoco_v", QUANTILES),
        rows=rows,
        moments=found,
        spreads={method: spreads(stages, weights[method]) for method, stages in found.items()},
        ranks={method: ranks(stages) for method, stages in found.items()},
        labels=tflops_labels(published),
        caches=cache_sizes(published),
        costs=tflops_costs(PRINTED_MODELS[0], _cost_lines()),
        floor=cost_floor(PRINTED_MODELS[0], [3, 4, 5]),
        ledger=ledger(published, results, answers),
    )


def _cost_lines() -> dict[str, tuple[str, dict[str, Any]]]:
    """Label -> method and fields: at the papers' budgets, and as released."""
    lines = {f"FiCoCo-V, {n} tokens": ("ficoco_v", {"keep": n}) for n in (192, 128, 64)}
    lines |= {f"FiCoCo-V released, {r} a block": ("ficoco_v", {"leave": r}) for r in (32, 37, 42)}
    lines |= {f"FiCoCo-L, {n} tokens": ("ficoco_l", {"keep": n}) for n in (192, 128, 64)}
    return lines | {f"FiCoCo-L released, {r} a layer": ("ficoco_l", {"leave": r, "start": 5}) for r in (14, 19, 21)}


def ficoco_finding(page: Ficoco) -> str:
    """The page's finding in markdown."""
    edges = page.edges[page.edges["point"] == AS_PUBLISHED]
    return finding(
        "ficoco/finding.md.j2", finding_facts(page.both, page.correlations, page.ablations, edges, page.costs)
    )


def finding_facts(
    both: pd.DataFrame,
    correlations: Mapping[int, tuple[float, int]],
    ablations: Mapping[str, pd.DataFrame],
    edges: pd.DataFrame,
    costs: pd.DataFrame,
) -> dict[str, Any]:
    """What the finding says; the arguments are fields of `Ficoco`, ``edges`` those of the method as it is."""
    own = both[both["method"].str.startswith("FiCoCo")]
    own = own[own["tokens"] == own["tokens"].min()]
    rho, compared = correlations.get(int(own["tokens"].iloc[0]), (None, 0)) if len(own) else (None, 0)
    pruned, itself = [], []
    for method, table in ablations.items():
        ran = table[table["point"].notna()].set_index("row")
        change = (ran[list(PAIRS)] - table.set_index("row").loc["full", list(PAIRS)]).mean(axis=1)
        if PRUNED in ran.index:
            row = ran.loc[PRUNED]
            line = {"difference": row["difference"], "sure": not row["low"] <= 0 <= row["high"]}
            pruned.append(line | {"method": method.removeprefix("FiCoCo-"), "printed": change[PRUNED]})
        if all(name in ran.index and ran.loc[name, "same"] == 1 for name in ITSELF):
            itself.append({"method": method.removeprefix("FiCoCo-"), "printed": [change[name] for name in ITSELF]})
    decoder = costs[costs["label"].str.startswith("FiCoCo-L,")]
    return {
        "picture": PICTURE_TOKENS,
        "tokens": int(own["tokens"].iloc[0]) if len(own) else None,
        "standing": own.assign(method=own["method"].str.removeprefix("FiCoCo-")).to_dict("records"),
        "rank_correlation": rho if rho == rho else None,
        "compared": compared,
        "pruned": pruned,
        "itself": itself,
        "edges": {
            "kinds": edges.groupby("layer")["edges"].nunique().max(),
            "most": edges.groupby("layer")["most"].mean().max(),
        }
        if len(edges)
        else None,
        "cost": decoder.loc[decoder["kept"].idxmin()].to_dict() if len(decoder) else None,
    }
