"""Scores and answers of finished runs as data frames, and which of their budgets belong together.

A run of the group main is compared with all others of it; a run of another group (an ablation, say) within its group.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from thinsight.analysis.runs import finished, group_of, read_json
from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry, printed_models
from thinsight.costs.conventions import CONVENTIONS
from thinsight.errors import UserError, nearest
from thinsight.evaluation.budget import Budget
from thinsight.evaluation.protocol import comparable, run_protocol

FLOPS = ("fastv", "profiler")  # the two conventions that VTW's own numbers mix: its formula's and its profiler's
SCORE_COLUMNS = (
    "run", "group", "model", "method", "task", "budget", "accuracy", "low", "high", "n", "layer", "visual", "kept",
    "picture", "kv_bytes", "printed", "protocol", "end_to_end", *(convention.name for convention in CONVENTIONS),
)  # fmt: skip
ANSWER_COLUMNS = ("run", "task", "budget", "id", "kind", "prediction", "answer", "correct", "generated", "visual_mean")


def load_scores(folder: Path, runs: Sequence[str] | None = None, *, missing_ok: bool = False) -> pd.DataFrame:
    """One line per run, task and budget: group, model, method, accuracy, low, high, n, layer, kv_bytes, a column per
    convention, and visual tokens: entering a layer on average (visual), alive at the end (kept), in the prompt
    (picture). ``end_to_end``: FLOPs of the convention ``profiler_last_row``, and those of the vision tower and of
    the method's own choice. ``printed``: the number that a benchmark's tables hold, where that is not the accuracy;
    ``protocol``: whose rules asked and scored it, by the card; empty where it names none.

    Answers that a server or a judge is to score have no line, here nor in `load_answers`.

    runs        as in `finished`; runs whose protocol cards differ in more than the method are a `UserError`
    missing_ok  a frame without lines if none of the runs is finished, instead of a `UserError`
    """
    files = finished(folder, runs)
    if not files:
        if missing_ok:
            return pd.DataFrame(columns=list(SCORE_COLUMNS))
        raise UserError(f"there are no finished runs in {folder}: `dvc repro` makes them.")
    cards = {file.parent.name: read_json(file.with_name("protocol.json")) for file in files}
    for first, second in combinations(cards, 2):
        comparable(cards[first], cards[second])
    lines = [line for file in files for line in _score_lines(file)]
    return pd.DataFrame(lines) if lines else pd.DataFrame(columns=list(SCORE_COLUMNS))


def load_answers(folder: Path, runs: Sequence[str] | None = None, *, missing_ok: bool = False) -> pd.DataFrame:
    """One line per run, task, budget and row: id, kind, prediction, answer, correct; otherwise as `load_scores`."""
    files = finished(folder, runs, "predictions.parquet")
    frames = [pd.read_parquet(file) for file in files if file.is_file()]
    if not frames and missing_ok:
        return pd.DataFrame(columns=list(ANSWER_COLUMNS))
    if not frames:
        raise UserError(f"there are no predictions in {folder}: run `dvc repro`, or `dvc checkout` for stored ones.")
    return with_budget_labels(pd.concat([_scored(frame) for frame in frames], ignore_index=True))


def read_if_run(folder: Path, runs: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`load_scores` and `load_answers` of ``runs``; frames without lines where none of them is finished, or where the
    predictions, which are not in git, are not there."""
    return load_scores(folder, runs, missing_ok=True), load_answers(folder, runs, missing_ok=True)


def _scored(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers to tasks of which some are scored."""
    scored = answers["correct"].notna().groupby(answers["task"]).transform("any")
    return answers if scored.all() else answers[scored]


def with_budget_labels(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` of a run's parquet file, where the column ``budget`` holds fields as JSON, with labels instead."""
    labels = {text: str(Budget.of(json.loads(text))) for text in table["budget"].unique()}
    return table.assign(budget=table["budget"].map(labels))


def _end_to_end(cell: Mapping[str, Any]) -> float:
    """FLOPs of a prefill from pixels on; no number where only the decoder's are known."""
    beside = [cell.get("vision_flops", nan), cell.get("choice_flops", nan)]
    return cell["prefill_flops"]["profiler_last_row"] + sum(beside)


def _score_lines(file: Path) -> list[dict[str, Any]]:
    metrics, card = read_json(file), read_json(file.with_name("protocol.json"))
    protocols = {task: run_protocol(card, task) for task in metrics["scores"]}
    return [
        {
            "run": file.parent.name, "group": group_of(file.parent), "model": metrics["model"],
            "method": metrics["method"], "task": task, "budget": budget, "accuracy": cell["accuracy"],
            "low": cell["interval"][0], "high": cell["interval"][1], "n": cell["n"], "layer": cell["layer"],
            "visual": cell["visual_tokens_mean"], "kept": cell["visual_tokens_kept"],
            "picture": cell["picture_tokens"], "kv_bytes": cell["kv_bytes"],
            "printed": cell.get("summary", {}).get("printed"), "protocol": protocols[task],
            "end_to_end": _end_to_end(cell), **cell["prefill_flops"],
        }
        for task, budgets in metrics["scores"].items()
        for budget, cell in budgets.items()
        if cell["accuracy"] is not None
    ]  # fmt: skip


def score_cells(table: pd.DataFrame, run: str, budget: str | None = None) -> pd.DataFrame:
    """The lines of one run, and of one budget of it; a run or budget that is not there is a `UserError`."""
    part = table[table["run"] == run]
    if part.empty:
        raise nearest("run", run, table["run"].unique())
    if budget is None:
        return part
    if budget not in set(part["budget"]):
        raise nearest(f"budget of run {run}", budget, part["budget"].unique())
    return part[part["budget"] == budget]


@cache
def without_seed(label: str) -> str:
    """A budget's label without what only tells draws of it apart: a seed, the phase of a grid."""
    return str(Budget.parse(label).without_draws)


def nearest_budgets(results: pd.DataFrame, run: str, other: tuple[str, str]) -> list[str]:
    """The budgets of ``run`` that let as many visual tokens into a layer, on average, as the (run, budget) ``other``
    does, as nearly as it has them: several if they are draws of one."""
    wanted = score_cells(results, *other)["visual"].mean()
    part = score_cells(results, run)
    part = part.assign(draw=part["budget"].map(without_seed))
    best = (part.groupby("draw")["visual"].mean() - wanted).abs().idxmin()
    return list(part.loc[part["draw"] == best, "budget"].unique())


def budgets_at(results: pd.DataFrame, run: str, keep: float) -> list[str]:
    """The budgets of ``run`` that stand for ``keep``: several are seeds, none means that it has no such budget.

    Of a run that sweeps layers and not ``keep``: the layer whose average share of the tokens is nearest.
    """
    part = score_cells(results, run)
    budgets = {label: Budget.parse(label) for label in part["budget"].unique()}
    if any("keep" in budget.fields for budget in budgets.values()):
        return [label for label, budget in budgets.items() if budget.keep == keep]
    layers = [label for label, budget in budgets.items() if set(budget.fields) == {"layer"}]
    if not layers:
        return []
    share = part[part["budget"].isin(layers)].assign(share=part["visual"] / part["picture"])
    return [(share.groupby("budget")["share"].mean() - keep).abs().idxmin()]


def shared_budgets(results: pd.DataFrame) -> list[float]:
    """The values of ``keep`` that every run with that field has, largest first."""
    values = []
    for _, part in results.groupby("run"):
        keeps = {Budget.parse(label).keep for label in part["budget"].unique()}
        if numbers := {keep for keep in keeps if isinstance(keep, int | float)}:
            values.append(numbers)
    if not values or not (shared := set.intersection(*values)):
        raise UserError("the runs have no budget keep=... in common: give them the sweep 'budgets' of one preset")
    return sorted(shared, reverse=True)


_, PICTURE_TOKENS = printed_models()["LLaVA-1.5-7B"]  # visual tokens of the picture in most papers


def label_runs(table: pd.DataFrame, results: pd.DataFrame, entries: Mapping[str, MethodEntry]) -> pd.DataFrame:
    """``table``, a frame with a column ``run``, with what a reader calls each run.

    title    the method's, without what stands in brackets; a control that is run in the decoder also the layer
    place    where it acts, one of `thinsight.config.catalogue.FAMILIES`
    control  whether it is no published method
    """
    methods = results.drop_duplicates("run").set_index("run")["method"]
    layers = results.groupby("run")["layer"].max()
    names = {}
    for run in table["run"].unique():
        entry = entries.get(methods[run])
        title, place = (entry.short, entry.family) if entry else (run, FAMILIES[3])
        control = place == CONTROL
        if control:
            place = FAMILIES[2 if layers[run] > 0 else 1]
            title += f", layer {layers[run]:.0f}" if layers[run] > 0 else ""
        names[run] = {"title": title, "place": place, "control": control}
    return table.join(pd.DataFrame(names).T, on="run").astype({"control": bool})


def not_run(results: pd.DataFrame, entries: Mapping[str, MethodEntry]) -> list[str]:
    """Titles of the methods with a budget that no finished run has."""
    methods = set(results["method"])
    return [entry.title for name, entry in entries.items() if "keep" in entry.knobs and name not in methods]
