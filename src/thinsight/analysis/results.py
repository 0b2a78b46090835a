"""Scores and answers of finished runs as data frames."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path

import pandas as pd

from thinsight.config.catalogue import CONTROL, FAMILIES, MethodEntry
from thinsight.costs.conventions import CONVENTIONS
from thinsight.errors import UserError, nearest
from thinsight.evaluation.protocol import comparable

FLOPS = ("fastv", "profiler")  # the two conventions that VTW's own numbers mix: its formula's and its profiler's


def load_scores(folder: Path, runs: Sequence[str] | None = None) -> pd.DataFrame:
    """One line per run, task and budget: method, accuracy, low, high, n, layer, kv_bytes, a column per convention, and
    visual tokens: entering a layer on average (visual), alive at the end (kept), in the prompt (picture). ``printed``:
    the number that a benchmark's tables hold, where that is not the accuracy.

    ``runs``: names or patterns as of a shell; None reads the main ones, whose names have no hyphen. Runs whose protocol
    cards differ in more than the method are refused.
    """
    files = finished(folder, runs)
    if not files:
        raise UserError(f"there are no finished runs in {folder}: `dvc repro` makes them.")
    cards = {file.parent.name: json.loads(file.with_name("protocol.json").read_text()) for file in files}
    for first, second in combinations(cards, 2):
        comparable(cards[first], cards[second])
    return pd.DataFrame([line for file in files for line in _lines(file)])


def finished(folder: Path, runs: Sequence[str] | None = None, name: str = "metrics.json") -> list[Path]:
    """The file ``name`` of every finished run in ``folder`` that ``runs`` asks for (as in `load_scores`), by run."""
    there = sorted(file.parent.name for file in folder.glob("*/metrics.json"))
    wanted = [run for run in there if "-" not in run] if runs is None else _matching(there, runs)
    return [folder / run / name for run in wanted]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Those of ``names`` that a pattern means; a star does not reach over a hyphen."""
    return [n for n in names if any(fnmatchcase(n, p) and n.count("-") == p.count("-") for p in patterns)]


def _lines(file: Path) -> list[dict]:
    found = json.loads(file.read_text(encoding="utf-8"))
    return [
        {
            "run": file.parent.name,
            "model": found["model"],
            "method": found["method"],
            "task": task,
            "budget": budget,
            "accuracy": cell["accuracy"],
            "low": cell["interval"][0],
            "high": cell["interval"][1],
            "n": cell["n"],
            "layer": cell["layer"],
            "visual": cell["visual_tokens_mean"],
            "kept": cell["visual_tokens_kept"],
            "picture": cell["picture_tokens"],
            "kv_bytes": cell["kv_bytes"],
            "printed": cell.get("summary", {}).get("printed"),
            **cell["prefill_flops"],
        }
        for task, budgets in found["scores"].items()
        for budget, cell in budgets.items()
    ]


def load_answers(folder: Path, runs: Sequence[str] | None = None) -> pd.DataFrame:
    """One line per run, task, budget and row: id, kind, prediction, answer, correct; otherwise as `load_scores`."""
    frames = [pd.read_parquet(file) for file in finished(folder, runs, "predictions.parquet") if file.is_file()]
    if not frames:
        raise UserError(
            f"there are no predictions in {folder}: `dvc repro` makes them, `dvc checkout` brings them back."
        )
    table = pd.concat(frames, ignore_index=True)
    names = {text: _name(json.loads(text)) for text in table["budget"].unique()}
    return table.assign(budget=table["budget"].map(names))


def _name(fields: Mapping[str, object]) -> str:
    return ",".join(f"{key}={value}" for key, value in fields.items()) or "fixed"


def score_cells(table: pd.DataFrame, run: str, budget: str | None = None) -> pd.DataFrame:
    """The lines of one run, and of one budget of it; a run or budget that is not there is a `UserError`."""
    known = table["run"].unique()
    if run not in known:
        raise nearest("run", run, known)
    part = table[table["run"] == run]
    if budget is None:
        return part
    if budget not in set(part["budget"]):
        raise nearest(f"budget of run {run}", budget, part["budget"].unique())
    return part[part["budget"] == budget]


def nearest_budgets(results: pd.DataFrame, run: str, other: tuple[str, str]) -> list[str]:
    """The budgets of ``run`` that let as many visual tokens into a layer, on average, as the (run, budget) ``other``
    does, as nearly as it has them: several if they are draws of one."""
    wanted = score_cells(results, *other)["visual"].mean()
    own = score_cells(results, run)
    own = own.assign(draw=own["budget"].map(without_seed))
    best = (own.groupby("draw")["visual"].mean() - wanted).abs().idxmin()
    return list(own.loc[own["draw"] == best, "budget"].unique())


def without_seed(budget: str) -> str:
    """A budget's name without what only tells draws of it apart: a seed, the phase of a grid."""
    return ",".join(part for part in budget.split(",") if not part.startswith(("seed=", "phase=")))


RESULT_COLUMNS = (
    "run",
    "method",
    "task",
    "budget",
    "accuracy",
    "low",
    "high",
    "n",
    "layer",
    "visual",
    "kept",
    "picture",
    "kv_bytes",
)


ANSWER_COLUMNS = ("run", "task", "budget", "id", "kind", "prediction", "answer", "correct", "generated", "visual_mean")


def read_if_run(folder: Path, runs: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`results.load_scores` and `results.load_answers` of ``runs``; frames without lines where none of them is finished."""
    if not finished(folder, runs):
        return pd.DataFrame(columns=[*RESULT_COLUMNS, *(c.name for c in CONVENTIONS)]), pd.DataFrame(
            columns=ANSWER_COLUMNS
        )
    return load_scores(folder, runs), load_answers(folder, runs)


def budgets_at(results: pd.DataFrame, run: str, keep: float) -> list[str]:
    """The budgets of ``run`` that stand for ``keep``: several are seeds, none means that it has no such budget."""
    own = score_cells(results, run)
    fields = {
        budget: dict(part.split("=") for part in budget.split(","))
        for budget in own["budget"].unique()
        if "=" in budget
    }
    if any("keep" in of for of in fields.values()):
        return [budget for budget, of in fields.items() if _number(of.get("keep")) == keep]
    layered = [budget for budget, of in fields.items() if set(of) == {"layer"}]
    if not layered:
        return []
    share = own[own["budget"].isin(layered)].assign(share=own["visual"] / own["picture"])
    return [(share.groupby("budget")["share"].mean() - keep).abs().idxmin()]


def shared_budgets(results: pd.DataFrame) -> list[float]:
    """The values of ``keep`` that every run with that field has, largest first."""
    found = []
    for _, own in results.groupby("run"):
        fields = [
            dict(part.split("=") for part in budget.split(",") if "=" in part) for budget in own["budget"].unique()
        ]
        if values := {_number(of["keep"]) for of in fields if "keep" in of} - {None}:
            found.append(values)
    shared = set.intersection(*found) if found else set()
    if not shared:
        raise UserError("the runs have no budget keep=... in common: give them the sweep 'budgets' of one preset")
    return sorted(shared, reverse=True)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


PICTURE_TOKENS = 576  # visual tokens of the picture in most papers


def budget_labels(table: pd.DataFrame, results: pd.DataFrame, entries: Mapping[str, MethodEntry]) -> pd.DataFrame:
    """`thinsight.analysis.comparisons.against_random` with what a reader calls each run.

    title    the method's, without what stands in brackets; a control that is run in the decoder also the layer
    place    where it acts, one of `thinsight.config.catalogue.FAMILIES`
    control  whether it is no published method
    """
    runs, methods = list(dict.fromkeys(table["run"])), results.drop_duplicates("run").set_index("run")["method"]
    layers = results.groupby("run")["layer"].max()
    names = {}
    for run in runs:
        entry = entries.get(methods[run])
        title = entry.title.partition(" (")[0] if entry else run
        control, place = entry is not None and entry.is_control, entry.family if entry else FAMILIES[3]
        if place == CONTROL:
            place = FAMILIES[2 if layers[run] > 0 else 1]
            title += f", layer {layers[run]:.0f}" if layers[run] > 0 else ""
        names[run] = {"title": title, "place": place, "control": control}
    return table.join(pd.DataFrame(names).T, on="run").astype({"control": bool})


def not_run(results: pd.DataFrame, entries: Mapping[str, MethodEntry]) -> list[str]:
    """Titles of the methods with a budget that no finished run has."""
    there = set(results["method"])
    return [entry.title for name, entry in entries.items() if "keep" in entry.knobs and name not in there]
