"""The overview: every method on every task at equal budgets, and the sum of the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import yaml

from thinsight.analysis.comparisons import LEVEL, MEAN, SINGLE, compare_methods, kind_changes, scores_by_kind, survivors
from thinsight.analysis.curves import pareto
from thinsight.analysis.ranks import rank_agreement, rank_stability
from thinsight.analysis.results import PICTURE_TOKENS, label_runs, load_answers, load_scores, not_run, shared_budgets
from thinsight.config.catalogue import MethodEntry, method_entries
from thinsight.evaluation.budget import Budget
from thinsight.ledger.ledger import MOST, count_all, count_verdicts, headline, ledger, reasons
from thinsight.ledger.published import load_all
from thinsight.ledger.verdicts import COST, SCORE, VERDICTS
from thinsight.paths import ROOT
from thinsight.report.render import finding, points, render, signed
from thinsight.report.tables import BETTER, BLOCKS, WORSE, Heat, board, cell_board

AGAINST = {"random": "random at equal kept tokens", "whole": "the whole model"}
CELL = ["head", "column"]  # the two heads above a cell
OFTEN = 0.05  # points off the front are listed if they are on it in this share of the resamples
FACT_SHARE = 0.25  # methods on the front in this share of the resamples or more are named in the finding


@dataclass(frozen=True)
class Overview:
    """What the page shows.

    picture    visual tokens of the picture;  heads  budget -> what it is called
    named      run -> its title, place and whether it is a control;  missing  titles of the methods that were not run
    relative   `compare_methods`, labelled;  kinds  `scores_by_kind`, labelled
    front, ranks, agreement  of `pareto`, `rank_stability` and `rank_agreement`
    ledger     all printed numbers with their verdicts
    """

    picture: float
    heads: Mapping[float, str]
    named: pd.DataFrame
    missing: Sequence[str]
    relative: pd.DataFrame
    kinds: pd.DataFrame
    front: pd.DataFrame
    ranks: pd.DataFrame
    agreement: pd.DataFrame
    ledger: pd.DataFrame

    @property
    def titles(self) -> Mapping[str, str]:
        """run -> its title."""
        return self.named["title"]

    @property
    def facts(self) -> dict[str, Any]:
        """For a machine: budgets, survivors, the front, mean taus, verdicts."""
        best = self.front[self.front["front"]].sort_values("end_to_end", kind="stable")
        between = self.agreement[self.agreement["first"] != self.agreement["second"]]
        taus = between.groupby("of")["tau"].mean().dropna()
        return {
            "budgets": list(self.heads),
            "survivors": survivors(self.relative).to_dict("records"),
            "front": [f"{run} {budget}" for run, budget in zip(best["run"], best["budget"], strict=True)],
            "tau": {name: round(tau, 6) for name, tau in taus.items()},
            "verdicts": count_all(self.ledger),
        }

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The frames that the page saves; of the ledger the lines that stand on no other page."""
        return {
            "relative": self.relative, "front": self.front, "ranks": self.ranks, "agreement": self.agreement,
            "kinds": self.kinds, "summary": count_verdicts(self.ledger), "ledger": elsewhere(self.ledger),
        }  # fmt: skip


def build(runs: str, reads: Sequence[str]) -> Overview:
    """The page of the runs ``reads`` in the folder ``runs``."""
    results, answers = load_scores(ROOT / runs, reads), load_answers(ROOT / runs, reads)
    entries = {entry.name: entry for entry in method_entries()}
    return compute(results, answers, entries, ledger(load_all(), results, answers))


def compute(
    results: pd.DataFrame, answers: pd.DataFrame, entries: Mapping[str, MethodEntry], entered: pd.DataFrame
) -> Overview:
    """The same of frames; ``entered``: the ledger."""
    budgets, picture = shared_budgets(results), results["picture"].max()
    relative = label_runs(compare_methods(results, answers, budgets), results, entries)
    methods = list(dict.fromkeys(relative.loc[~relative["control"], "run"]))
    return Overview(
        picture=picture,
        heads=dict(zip(budgets, task_heads(budgets, picture), strict=True)),
        named=label_runs(results[["run"]].drop_duplicates(), results, entries).set_index("run"),
        missing=not_run(results, entries),
        relative=relative,
        kinds=label_runs(scores_by_kind(results, answers, budgets), results, entries),
        front=pareto(results, answers, budgets),
        ranks=rank_stability(results, answers, budgets, methods),
        agreement=rank_agreement(results, answers, budgets, methods),
        ledger=entered,
    )


def task_heads(keeps: Sequence[float], picture: float) -> list[str]:
    """What the budgets are called: ``48 of 144 tokens (as 192 of 576)``."""
    printed = "" if round(picture) == PICTURE_TOKENS else " (as {} of {})"
    return [
        f"{round(keep * picture)} of {picture:.0f} tokens"
        + printed.format(round(keep * PICTURE_TOKENS), PICTURE_TOKENS)
        for keep in keeps
    ]


def budget_name(label: str, picture: float) -> str:
    """``keep=0.1111`` -> ``16 tokens``; ``layer=3`` -> ``layer 3``; empty where nothing was swept but seeds."""
    budget = Budget.parse(label)
    if isinstance(budget.keep, float) and len(budget.fields) == 1:
        return f"{round(budget.keep * picture)} tokens"
    return label.replace("=", " ").replace(",", ", ") if budget.fields else ""


def elsewhere(entered: pd.DataFrame) -> pd.DataFrame:
    """The lines of papers that have no page of their own: tables in which others ran these methods."""
    pages = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["pages"]
    return entered[~entered["file"].isin(pages)]


def relative_table(page: Overview) -> str:
    """Score relative to the whole model's and points to random: methods, then controls, by their mean over budgets;
    below, what was not run."""
    means = _marked(page, page.relative["task"] == MEAN)
    score = means.assign(
        column="relative\nscore",
        text=(100 * means["relative"]).map("{:.1f}".format),
        small=[f"{100 * row.low:.0f}–{100 * row.high:.0f}" for row in means.itertuples()],
        tooltip=[
            f"{points(row.whole)} points to the whole model ({points(row.whole_low)} to {points(row.whole_high)}); "
            f"McNemar's p {row.whole_p:.2g}, after Holm {row.whole_holm:.2g}"
            for row in means.itertuples()
        ],
    )
    others = means[means["random"].notna()]  # all but random itself
    difference = others.assign(
        column="points\nto random",
        text=[points(row.random) + row.mark for row in others.itertuples()],
        small=[f"{points(row.random_low, 0)} to {points(row.random_high, 0)}" for row in others.itertuples()],
        bold=False,
        tooltip=[f"McNemar's p {row.random_p:.2g}, after Holm {row.random_holm:.2g}" for row in others.itertuples()],
    )
    rows = _rows(means, "relative")
    columns = pd.MultiIndex.from_product([page.heads.values(), ["relative\nscore", "points\nto random"]], names=CELL)
    table = cell_board(
        pd.concat([score, difference]), rows, columns, notes=list(rows["place"].where(~rows["control"], ""))
    )
    return table + (f"<p>Not run: {escape(', '.join(page.missing))}.</p>" if page.missing else "")


def survivors_table(page: Overview) -> str:
    """How many of the comparisons differ, before and after correction."""
    table = survivors(page.relative).assign(
        kind=lambda table: table["kind"].map({MEAN: "all questions", SINGLE: SINGLE})
    )
    table["against"] = table["against"].map(AGAINST)
    names = {
        "nominal": f"p below {LEVEL}", "fdr": "after Benjamini\nand Hochberg", "holm": "after Holm",
        "better": "of these\nbetter", "worse": "of these\nworse",
    }  # fmt: skip
    return board(table.rename(columns=names).set_index(["kind", "against"]).rename_axis([None, "against"]))


def budget_heat(page: Overview) -> str:
    """Relative scores by budget and task: bold where a loss against the whole model is sure, marked where a method
    surely differs from random."""
    table = _marked(page, page.relative["task"] != MEAN)
    cells = table.assign(
        column=table["task"],
        text=100 * table["relative"],
        small=table["mark"],
        tooltip=[_share_tooltip(row) for row in table.itertuples()],
    )
    columns = pd.MultiIndex.from_product([page.heads.values(), table["task"].unique()], names=CELL)
    rows, heat = _rows(page.relative, "relative"), Heat("RdBu", 20, 125, 100)
    return cell_board(cells, rows, columns, heat=heat, formats="{:.0f}", classes="board upright")


def kind_heat(page: Overview) -> str:
    """Changes in points at the smallest budget by task and kind of question, bold where the interval excludes zero."""
    table = page.kinds[page.kinds["keep"] == min(page.heads)]
    cells = table.assign(
        head=table["task"],
        column=[f"{row.kind} ({row.n})" for row in table.itertuples()],
        text=100 * table["change"],
        small="",
        bold=(table["low"].round(9) > 0) | (table["high"].round(9) < 0),  # not an end that is zero but for rounding
        tooltip=[
            f"{row.title}, {row.task}, {row.kind}: {row.whole:.1%} to {row.accuracy:.1%} on {row.n} questions, "
            f"{points(row.change)} points ({points(row.low)} to {points(row.high)})"
            for row in table.itertuples()
        ],
    )
    columns = pd.MultiIndex.from_frame(cells[CELL].drop_duplicates())
    heat = Heat("RdBu", -80, 25, 0)
    return cell_board(cells, _rows(table, "change"), columns, heat=heat, formats=signed, classes="board upright")


def front_table(page: Overview) -> str:
    """The front of `pareto`, and what is on it `OFTEN` enough, by FLOPs end to end."""
    table = page.front[page.front["front"] | (page.front["frequency"] >= OFTEN)]
    table = table.sort_values(["end_to_end", "score"], kind="stable", ignore_index=True)
    frame = pd.DataFrame(
        {
            "method": table["run"].map(page.titles),
            "budget": [budget_name(budget, page.picture) for budget in table["budget"]],
            "FLOPs end to end": table["end_to_end"],
            "decoder": table["flops"],
            "relative score": table["score"],
            "95 % interval": [f"{row.low:.1%}–{row.high:.1%}" for row in table.itertuples()],
            "on the front": table["frequency"],
            "any budget": table["run_frequency"],
        }
    )
    formats = {
        "FLOPs end to end": "{:.1%}",
        "decoder": "{:.1%}",
        "relative score": "{:.1%}",
        "on the front": "{:.0%}",
        "any budget": "{:.0%}",
    }
    bold = pd.DataFrame({"on the front": table["front"]})
    return board(frame.set_index("method"), formats=formats, bold=bold, runs=list(table["run"]), text=["budget"])


def ledger_table(page: Overview) -> str:
    """The verdicts by paper, scores and costs apart; on a click all papers, and why numbers have no answer."""
    tables = [count_verdicts(page.ledger, most) for most in (MOST, None)]
    return render(
        "tally.html.j2",
        verdicts={question: VERDICTS[question] for question in (SCORE, COST)},
        parts=[table.to_dict("records") for table in tables[: 1 + (len(tables[1]) > MOST)]],
        total=count_all(page.ledger) | {"paper": "all"},
        reasons=reasons(page.ledger).to_dict("records"),
    )


def overview_finding(page: Overview) -> str:
    """The page's finding in markdown."""
    facts, means = page.facts, page.relative[(page.relative["task"] == MEAN) & ~page.relative["control"]]
    least = min(page.heads)
    last = means[means["keep"] == least]
    often = page.front[page.front["run"].isin(means["run"]) & (page.front["run_frequency"] >= FACT_SHARE)]
    often = often.drop_duplicates("run").sort_values("run_frequency", ascending=False, kind="stable")
    kinds = page.kinds[~page.kinds["control"] & (page.kinds["keep"] == least)]
    return finding(
        "overview_finding.md.j2",
        facts | {
            "keep": least,
            "methods": len(last),
            "beat": int(((last["random_holm"] < LEVEL) & (last["random"] > 0)).sum()),
            "lose": int(((last["whole_holm"] < LEVEL) & (last["whole"] < 0)).sum()),
            "often": {page.titles[run]: share for run, share in zip(often["run"], often["run_frequency"], strict=True)},
            "changes": kind_changes(kinds).to_dict("records"),
            "documents": page.ledger["paper"].nunique(),
            "headline": headline(facts["verdicts"]),
        },
    )  # fmt: skip


def _marked(page: Overview, lines: pd.Series) -> pd.DataFrame:
    """Some lines of ``page.relative`` with the name of their budget, ``bold`` for a sure loss against the whole model,
    and the ``mark`` of a sure difference to random."""
    table = page.relative[lines]
    sure = table["random_holm"] < LEVEL
    return table.assign(
        head=table["keep"].map(page.heads),
        bold=(table["whole_holm"] < LEVEL) & (table["whole"] < 0),
        mark=np.select([sure & (table["random"] > 0), sure], [BETTER, WORSE], ""),
    )


def _rows(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Run -> title, place, control and block: methods, then controls, each by the mean of ``value``."""
    order = table.groupby("run")[value].mean().sort_values(ascending=False, kind="stable").index
    rows = table.drop_duplicates("run").set_index("run").loc[order, ["title", "place", "control"]]
    return rows.assign(block=rows["control"].map(BLOCKS)).sort_values("control", kind="stable")


def _share_tooltip(row: Any) -> str:
    text = (
        f"{row.title}, {row.task}: {row.accuracy:.1%} on {row.n} questions, {row.relative:.1%} of the whole model "
        f"({row.low:.1%} to {row.high:.1%}; p {row.whole_holm:.2g} after Holm)"
    )
    return text + (f"; {points(row.random)} points to random (p {row.random_holm:.2g})" if pd.notna(row.random) else "")
