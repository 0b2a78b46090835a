"""The page on efficiency: what it computes, its facts and its finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from thinsight.analysis.results import load_answers, load_scores
from thinsight.config.catalogue import method_entries, printed_models
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.model_costs import ModelSizes, method_cost, method_costs, model_sizes
from thinsight.ledger.ledger import ledger
from thinsight.ledger.published import load_all
from thinsight.ledger.verdicts import meets
from thinsight.papers.efficiency.claims import (
    attention_bytes,
    baseline_conventions,
    printed_memory,
    published_budgets,
)
from thinsight.papers.efficiency.clock import Clock, printed_speedups, target_frame
from thinsight.paths import ROOT
from thinsight.report.render import finding

MODELS = ("LLaVA-1.5-7B", "LLaVA-1.5-13B", "LLaVA-NeXT-7B")
"""The models, as papers call them; the first one is shown by itself as well."""

UNPRINTED = {"Qwen2.5-VL-7B": "qwen2_5_vl_7b"}
"""Title -> name of models whose costs no paper prints."""

PRINTED_UNITS = ("T", "1e9", "MB", "GB", "ms", "s", "min:s", "it/s", "images/s", "requests/s")
COLUMNS = ("FLOPs", "memory", "KV MB", "time", "latency", "speed-up", "throughput")


@dataclass(frozen=True)
class Efficiency:
    """What the page shows, each frame as the function of its name makes it."""

    sizes: Mapping[str, ModelSizes]  # by printed name
    baselines: pd.DataFrame  # `baseline_conventions` of the first model
    costs: pd.DataFrame  # `method_costs`
    budgets: pd.DataFrame  # `published_budgets` on the first model
    attention: pd.DataFrame  # `attention_bytes` on the first model
    memory: pd.DataFrame  # `printed_memory`
    ledger: pd.DataFrame  # of the printed numbers that are about efficiency
    clock: Clock  # what machines have measured

    @property
    def title(self) -> str:
        """The first model's name."""
        return next(iter(self.sizes))

    @property
    def first(self) -> ModelSizes:
        """The first model."""
        return self.sizes[self.title]

    @property
    def facts(self) -> dict[str, Any]:
        """The numbers that the finding says."""
        first, least = self.first, self.costs["share"].min()
        cheapest = self.costs[(self.costs["share"] == least) & (self.costs["why"] == "")]
        decoder = cheapest[cheapest["model"] == first.name].sort_values("profiler_left")
        random = cheapest[cheapest["method"] == "random"].set_index("model")["vision_share"]
        whole = {title: method_cost(model, model.whole) for title, model in self.sizes.items()}
        numbers = self.baselines[self.baselines["layers"] == first.prefill.shape.layers].drop_duplicates("value")
        calculated = self.memory[self.memory["cache"] != ""]
        return {
            "model": self.title,
            "baselines": len(numbers),
            "lowest": numbers["value"].iloc[0],
            "highest": numbers["value"].iloc[-1],
            "rounded": int((numbers["off"] == 0).sum()),
            "label": round(least * first.prefill.total),
            "left": [float(decoder["profiler_left"].iloc[0]), float(decoder["profiler_left"].iloc[-1])],
            "dearest": decoder["title"].iloc[-1].partition(" (")[0],
            "vision_share": {
                title: (whole[title]["vision_share"], float(random[model.name])) for title, model in self.sizes.items()
            },
            "weights_share": sum(first.weights.values()) / whole[self.title]["peak"],
            "clock": self.clock.facts,
            "memory": {
                "printed": len(calculated),
                "moved": int(calculated["meets"].sum()),
                "held": sum(map(meets, calculated["printed"], calculated["held"])),
            },
        }

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that the page saves."""
        return {
            "ledger": self.ledger, "costs": self.costs, "baselines": self.baselines, "labels": self.budgets,
            "attention": self.attention, "memory": self.memory, "timings": self.clock.timings,
            "targets": target_frame(self.clock), "speedups": printed_speedups(self.clock),
        }  # fmt: skip


def build(runs: str, reads: Sequence[str], text_tokens: int, shares: Sequence[float], most_text: int) -> Efficiency:
    """The page; the ledger asks the runs ``reads`` in the folder ``runs`` for the whole model.

    text_tokens  prompt length besides the picture;  shares  budgets, of each model's visual tokens
    most_text    text tokens up to which printed totals are searched
    """
    published, entries = load_all(), method_entries()
    compared = [e for e in entries if e.name == "random" or (not e.is_control and "ablation" not in e.about)]
    names = {title: printed_models()[title][0] for title in MODELS} | UNPRINTED
    sizes = {title: model_sizes(name, text_tokens) for title, name in names.items()}
    first = sizes[MODELS[0]]
    results, answers = load_scores(ROOT / runs, reads), load_answers(ROOT / runs, reads)
    return Efficiency(
        sizes=sizes,
        baselines=baseline_conventions(published, MODELS[0], first.prefill.shape, first.prefill.total, most_text),
        costs=method_costs(list(sizes.values()), compared, shares),
        budgets=published_budgets(first.prefill),
        attention=attention_bytes(first, compared),
        memory=printed_memory(published, sizes, compared),
        ledger=ledger(about_efficiency(published), results, answers, every=published),
        clock=Clock.read(entries, published),
    )


def about_efficiency(published: pd.DataFrame) -> pd.DataFrame:
    """The printed numbers that are about efficiency: costs in bytes and operations, shares of them, and times."""
    named = published["column"].str.contains("|".join(COLUMNS), case=False)
    return published[published["unit"].isin(PRINTED_UNITS) | named]


def efficiency_finding(facts: Mapping[str, Any]) -> str:
    """`Efficiency.facts` in words."""
    return finding("efficiency/finding.md.j2", {**facts, "conventions": len(CONVENTIONS)})
