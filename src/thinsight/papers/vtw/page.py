"""What the page on VTW shows, computed once from the runs, the training questions and the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.comparisons import compare, relative_points
from thinsight.analysis.results import load_answers, load_scores, nearest_budgets, score_cells, without_seed
from thinsight.ledger.ledger import count_all, headline, ledger
from thinsight.ledger.published import load_published
from thinsight.models.loading import load_model
from thinsight.papers.vtw.analysis import attention_by_question, choose_layers, divergences, first_below, mean_shares
from thinsight.papers.vtw.figures import RUNS
from thinsight.papers.vtw.tables import prefill_costs
from thinsight.report.render import finding
from thinsight.runtime.layer_selection import DIRECTIONS, Selection
from thinsight.tasks.rows import training_rows, training_task

THRESHOLDS = (0.003, 0.0005, 0.0001)
"""Of the released code: for LLaVA-1.5-7B, LLaVA-1.5-13B and LLaVA-1.6-7B."""

ATTENTION_TASKS = ("read", "attribute")
"""On whose training questions attention is looked at, where they are among the tasks; else the first two are."""
SIZES = {"llava_1_5_7b": (15, 16), "llava_1_5_13b": (20,)}
"""Models at whose true shapes the cost is computed, and the layers of withdrawal."""

WHOLE = "whole model"


@dataclass(frozen=True)
class VtwPage:
    """Frames of the page, and the layer that it is about."""

    results: pd.DataFrame  # of the runs (`analysis.results.load_scores`)
    attention: pd.DataFrame  # by part of the prompt, of single questions (`attention_by_question`)
    shares: pd.DataFrame  # the mean over questions and tasks
    divergence: pd.DataFrame  # task, layer, divergence of the released code's direction
    reverse: pd.DataFrame  # the same of the other direction
    chosen: Selection | None  # over the questions of all tasks; None if no layer meets any threshold
    questions: int  # how many training questions
    comparison: pd.DataFrame  # VTW at the chosen layer and its controls (`analysis.comparisons.compare`)
    frontier: pd.DataFrame  # score against FLOPs of the runs that the page compares
    efficiency: pd.DataFrame  # VTW at true shapes (`prefill_costs`)
    published: pd.DataFrame  # what papers print about VTW
    ledger: pd.DataFrame  # the verdicts on it

    @property
    def layer(self) -> int | None:
        """The layer that the first threshold chooses that any layer meets; None if no layer meets any."""
        return self.chosen.layer if self.chosen else None

    @property
    def thresholds(self) -> dict[float, int | None]:
        """The layer that each threshold chooses."""
        return self.chosen.layers if self.chosen else dict.fromkeys(THRESHOLDS)

    @property
    def samples(self) -> pd.DataFrame:
        """Columns layer and divergence of single training questions; empty if no layer meets any threshold."""
        values = pd.Series(self.chosen.per_sample if self.chosen else {}, dtype=object).explode().astype(float)
        return values.rename_axis("layer").reset_index(name="divergence")

    @property
    def curves(self) -> pd.DataFrame:
        """Divergence over all questions in both directions: layer, divergence, direction."""
        directions = {"KL(withdrawn ‖ whole), released code": self.divergence, "KL(whole ‖ withdrawn)": self.reverse}
        return pd.concat([curve[curve["task"] == "all"].assign(direction=d) for d, curve in directions.items()])

    @property
    def layers(self) -> pd.DataFrame:
        """The layer that the questions of each task (index) choose at each threshold (column)."""
        chosen = {f"η = {eta:g}": first_below(self.divergence, eta) for eta in self.thresholds}
        return pd.DataFrame(chosen).astype("Int64")

    @property
    def facts(self) -> dict[str, Any]:
        """What `report.artifacts.save` writes."""
        chosen = {str(eta): layer for eta, layer in self.thresholds.items()}
        return {"layer": self.layer, "thresholds": chosen, "samples": self.questions}

    @property
    def evidence(self) -> dict[str, Any]:
        """What the claims are held against besides runs (`ledger.claim_findings.Evidence`)."""
        return {"layer": self.layer, "attention": self.attention}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that are saved beside the facts."""
        names = ("comparison", "divergence", "efficiency", "ledger")
        return {name: getattr(self, name) for name in names}

    @property
    def finding(self) -> str:
        """The finding in markdown."""
        lines = self.comparison["line"].unique()
        whole, reduced = (self.comparison[self.comparison["line"] == line].set_index("task") for line in lines[:2])
        scored = f"layer={self.layer}" in set(score_cells(self.results, "vtw")["budget"])
        lost = reduced[reduced["high"] < 0].sort_values("difference")["difference"]
        values = {
            "layer": self.layer if scored else None,
            "flops": (reduced["profiler"] / whole["profiler"]).mean(),
            "end_to_end": (reduced["end_to_end"] / whole["end_to_end"]).mean(),
            "whole": whole["accuracy"].mean(),
            "reduced": reduced["accuracy"].mean(),
            "lost": lost.to_dict(),
        }
        said = headline(count_all(self.ledger))
        return f"{said}\n\n" + finding("vtw/finding.md.j2", values)


def build(folder: Path, reads: Sequence[str], model: str, samples: int, text_tokens: int) -> VtwPage:
    """The page from the runs ``reads`` in ``folder``; ``samples`` training questions of each task choose the layer, and
    costs are those of a prompt of ``text_tokens`` and a picture."""
    results, answers = load_scores(folder, reads), load_answers(folder, reads)
    tasks = list(results["task"].unique())
    loaded, training = load_model(model), training_rows(tasks, samples)
    looked_at = ATTENTION_TASKS if training.keys() >= {*ATTENTION_TASKS} else tasks[:2]
    attention = {task: attention_by_question(*loaded, training_task(task), training[task]) for task in looked_at}
    shares = pd.concat(mean_shares(table) for table in attention.values())
    found = divergences(*loaded, training)
    (chosen, divergence), (_, reverse) = (choose_layers(found[way], THRESHOLDS, way) for way in DIRECTIONS)
    lines = comparison_lines(results, chosen.layer if chosen else None)
    published = load_published("vtw")
    return VtwPage(
        results=results,
        attention=pd.concat([t.assign(number=task + t["number"].astype(str)) for task, t in attention.items()]),
        shares=mean_shares(shares),
        divergence=divergence,
        reverse=reverse,
        chosen=chosen,
        questions=sum(map(len, training.values())),
        comparison=compare(results, answers, lines, WHOLE),
        frontier=relative_points(results[results["run"].isin(RUNS)], answers),
        efficiency=pd.concat([prefill_costs(name, at, text_tokens) for name, at in SIZES.items()], ignore_index=True),
        published=published,
        ledger=ledger(published, results, answers),
    )


def comparison_lines(results: pd.DataFrame, layer: int | None) -> dict[str, tuple[str, list[str]]]:
    """Lines for `analysis.comparisons.compare`: the whole model, VTW at ``layer`` (or at the last one that was run),
    its own two ablations, random tokens and a grid at the budget whose mean over layers is nearest, and no picture."""
    budgets = {run: list(part["budget"].unique()) for run, part in results.groupby("run")}
    at = f"layer={layer}" if f"layer={layer}" in budgets["vtw"] else budgets["vtw"][-1]
    lines = {
        WHOLE: ("plain", ["fixed"]),
        f"VTW, {at.replace('layer=', 'K = ')}": ("vtw", [at]),
        "VTW, random layer": ("vtw_random_layer", budgets["vtw_random_layer"]),
        "VTW, random tokens": ("vtw_random_tokens", budgets["vtw_random_tokens"]),
    }
    for run in ("random", "grid"):
        same = nearest_budgets(results, run, ("vtw", at))
        lines[f"{run}, {without_seed(same[0])}"] = (run, same)
    return lines | {"no picture": ("blind", ["fixed"])}
