"""FiCoCo's page: what it reads and computes, its facts and its finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from thinsight.analysis.results import PICTURE_TOKENS, load_answers, load_scores, score_cells, shared_budgets
from thinsight.config.catalogue import MethodEntry, method_entries
from thinsight.ledger.ledger import count_all, headline, ledger
from thinsight.ledger.published import load_published
from thinsight.models.loading import load_model
from thinsight.papers.ficoco.ablations import PAIRS, budget_curve, ficoco_ablation, printed_curve
from thinsight.papers.ficoco.flops import PRINTED_MODELS, cache_sizes, cost_floor, tflops_costs, tflops_labels
from thinsight.papers.ficoco.internals import Moment, edges_of, moments, ranks, spreads
from thinsight.papers.ficoco.tables import measured_scores, printed_scores, published_beside, rank_correlations
from thinsight.paths import ROOT
from thinsight.report.render import finding
from thinsight.tasks.rows import Row, collate, training_rows, training_task

NAMES = {"FiCoCo-V": "ficoco_v", "FiCoCo-L": "ficoco_l"}
WEIGHTS = {"FiCoCo-V": "lambda", "FiCoCo-L": "beta"}  # the field that weighs redundancy

SWEPT = {
    "lambda (V)": ("FiCoCo-V", "lambda"),
    "penalty (V)": ("FiCoCo-V", "penalty"),
    "epsilon (V)": ("FiCoCo-V", "epsilon"),
    "epsilon (L)": ("FiCoCo-L", "epsilon"),
    "beta (L)": ("FiCoCo-L", "beta"),
    "gamma (L)": ("FiCoCo-L", "gamma"),
}
"""Panel -> the method and field that are swept."""
PRINTED_PANELS = ("penalty (V)", "epsilon (V)", "epsilon (L)")  # for which the paper prints numbers

LEAST = 0.1111  # the budget at which the method is looked into

QUANTILES = {
    "row, ε = 0.998": {"keep": LEAST},
    "matrix, ε = 0.998": {"keep": LEAST, "quantile_scope": "matrix"},
    "row, ε = 0.945": {"keep": LEAST, "epsilon": 0.945},
    "matrix, ε = 0.945": {"keep": LEAST, "epsilon": 0.945, "quantile_scope": "matrix"},
}
AS_PUBLISHED = next(iter(QUANTILES))
PRUNED, ITSELF = "fixed K=0 (prune)", ["fixed K=1", "average compression"]

COST_LINES = {
    **{f"FiCoCo-V, {n} tokens": ("ficoco_v", {"keep": n}) for n in (192, 128, 64)},
    **{f"FiCoCo-V released, {r} a block": ("ficoco_v", {"leave": r}) for r in (32, 37, 42)},
    **{f"FiCoCo-L, {n} tokens": ("ficoco_l", {"keep": n}) for n in (192, 128, 64)},
    **{f"FiCoCo-L released, {r} a layer": ("ficoco_l", {"leave": r, "start": 5}) for r in (14, 19, 21)},
}
"""Label -> method and fields: at the papers' budgets, and as released."""


@dataclass(frozen=True)
class Ficoco:
    """What the page shows; a mapping "by panel" has the keys of `SWEPT`."""

    entries: Sequence[MethodEntry]  # every method
    printed: pd.DataFrame  # `printed_scores`
    measured: pd.DataFrame  # `measured_scores`
    both: pd.DataFrame  # `published_beside`
    correlations: Mapping[int, tuple[float, int]]  # `rank_correlations`
    whole: Mapping[str, float]  # task -> accuracy (%) of the unreduced model
    ablations: Mapping[str, pd.DataFrame]  # `ficoco_ablation` by method
    tasks: Sequence[str]  # of the ablations
    curves: Mapping[str, pd.DataFrame]  # `budget_curve` by panel
    printed_curves: Mapping[str, pd.DataFrame]  # `printed_curve` by panel
    defaults: Mapping[str, float]  # the published value by panel
    edges: pd.DataFrame  # `edges_of` the points of `QUANTILES`
    rows: Sequence[Row]  # the training rows that it is looked into on
    moments: Mapping[str, Sequence[Sequence[Moment]]]  # `moments` by method
    spreads: Mapping[str, pd.DataFrame]  # `spreads` of these
    ranks: Mapping[str, pd.DataFrame]  # `ranks` of these
    labels: pd.DataFrame  # `tflops_labels`
    caches: pd.DataFrame  # `cache_sizes`
    costs: pd.DataFrame  # `tflops_costs` of `COST_LINES`
    floor: Mapping[int, float]  # `cost_floor`
    ledger: pd.DataFrame

    @property
    def facts(self) -> dict[str, Any]:
        """For a machine: how printed and measured orders agree, and on how many pictures the method was looked into."""
        return {"ranks": {str(n): rho for n, (rho, _) in self.correlations.items()}, "samples": len(self.rows)}

    @property
    def evidence(self) -> dict[str, Any]:
        """What the claims are held against besides runs (`ledger.claim_findings.Evidence`)."""
        return {"edges": self.edges}

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
    ablated = {method: load_answers(folder, [run], missing_ok=True) for method, run in runs_of.items()}
    defaults = {panel: knobs[method][field] for panel, (method, field) in SWEPT.items()}
    llava, processor = load_model(model)
    rows = training_rows([task], samples)[task]
    batches = [collate(processor, [row], training_task(task)).to(llava.device, llava.dtype) for row in rows]
    seen = {method: moments(llava, batches, name, keep=LEAST) for method, name in NAMES.items()}
    return Ficoco(
        entries=entries,
        printed=printed,
        measured=measured,
        both=both,
        correlations=rank_correlations(both),
        whole=score_cells(results, "plain").set_index("task")["accuracy"].mul(100).to_dict(),
        ablations={method: ficoco_ablation(published, ablated[method], method, run) for method, run in runs_of.items()},
        tasks=list(pd.concat(ablated.values())["task"].unique()),
        curves={
            panel: budget_curve(ablated[method], runs_of[method], field, defaults[panel])
            for panel, (method, field) in SWEPT.items()
        },
        printed_curves={panel: printed_curve(published, *SWEPT[panel]) for panel in PRINTED_PANELS},
        defaults=defaults,
        edges=edges_of(llava, batches, "ficoco_v", QUANTILES),
        rows=rows,
        moments=seen,
        spreads={method: spreads(stages, knobs[method][WEIGHTS[method]]) for method, stages in seen.items()},
        ranks={method: ranks(stages) for method, stages in seen.items()},
        labels=tflops_labels(published),
        caches=cache_sizes(published),
        costs=tflops_costs(PRINTED_MODELS[0], COST_LINES),
        floor=cost_floor(PRINTED_MODELS[0], [3, 4, 5]),
        ledger=ledger(published, results, answers),
    )


def ficoco_finding(page: Ficoco) -> str:
    """The page's finding in markdown."""
    ficoco = page.both[page.both["method"].str.startswith("FiCoCo")]
    ficoco = ficoco[ficoco["tokens"] == ficoco["tokens"].min()]
    tokens = int(ficoco["tokens"].iloc[0]) if len(ficoco) else None
    rho, compared = page.correlations.get(tokens, (None, 0))
    pruned, itself = [], []
    for title, table in page.ablations.items():
        table, method = table.set_index("row"), title.removeprefix("FiCoCo-")
        change = (table[list(PAIRS)] - table.loc["full", list(PAIRS)]).mean(axis=1)
        if pd.notna(table.loc[PRUNED, "point"]):
            row = table.loc[PRUNED]
            line = {"difference": row["difference"], "sure": not row["low"] <= 0 <= row["high"]}
            pruned.append(line | {"method": method, "printed": change[PRUNED]})
            if (table.loc[ITSELF, "same"] == 1).all():
                itself.append({"method": method, "printed": list(change[ITSELF])})
    edges = page.edges[page.edges["point"] == AS_PUBLISHED].groupby("layer")
    decoder = page.costs[page.costs["label"].str.startswith("FiCoCo-L,")]
    facts = {
        "picture": PICTURE_TOKENS,
        "tokens": tokens,
        "standing": ficoco.assign(method=ficoco["method"].str.removeprefix("FiCoCo-")).to_dict("records"),
        "rank_correlation": rho if rho == rho else None,
        "compared": compared,
        "pruned": pruned,
        "itself": itself,
        "edges": {"kinds": edges["edges"].nunique().max(), "most": edges["most"].mean().max()},
        "cost": decoder.loc[decoder["kept"].idxmin()].to_dict(),
    }
    said = headline(count_all(page.ledger))
    return f"{said}\n\n" + finding("ficoco/finding.md.j2", facts)
