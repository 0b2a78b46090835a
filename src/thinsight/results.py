"""The runs' results as tidy frames: every number of a page is read here, from the runs' files."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from thinsight.errors import UserError, nearest
from thinsight.protocol import comparable
from thinsight.stats import paired

FLOPS = ("fastv", "profiler")  # the two conventions that VTW's own numbers mix: its formula's and its profiler's


def scores(folder: Path, runs: Sequence[str] | None = None) -> pd.DataFrame:
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
    """The file ``name`` of every finished run in ``folder`` that ``runs`` asks for (as in `scores`), by run."""
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


def answers(folder: Path, runs: Sequence[str] | None = None) -> pd.DataFrame:
    """One line per run, task, budget and row: id, kind, prediction, answer, correct; otherwise as `scores`."""
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


def cells(table: pd.DataFrame, run: str, budget: str | None = None) -> pd.DataFrame:
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
    wanted = cells(results, *other)["visual"].mean()
    own = cells(results, run)
    own = own.assign(draw=own["budget"].map(drawn))
    best = (own.groupby("draw")["visual"].mean() - wanted).abs().idxmin()
    return list(own.loc[own["draw"] == best, "budget"].unique())


def compare(
    results: pd.DataFrame, rows: pd.DataFrame, lines: Mapping[str, tuple[str, Sequence[str]]], base: str
) -> pd.DataFrame:
    """The table of a page. ``lines``: label -> (run, its budgets); several budgets are seeds and are averaged.

    One row per label and task: accuracy, its spread over seeds, its difference to the line ``base`` on the same
    questions with a paired interval (means over seeds) and McNemar's p (the median seed's), and the costs.
    """
    out = []
    for label, (run, budgets) in lines.items():
        for task in results["task"].unique():
            found = [_one(results, run, budget, task) for budget in budgets]
            ours = [_correct(rows, run, budget, task) for budget in budgets]
            whole = _correct(rows, lines[base][0], lines[base][1][0], task)
            against = [paired(own, whole) for own in ours]
            out.append(
                {
                    "line": label,
                    "task": task,
                    "accuracy": np.mean([f["accuracy"] for f in found]),
                    "spread": np.ptp([f["accuracy"] for f in found]),
                    "difference": np.mean([a.difference for a in against]),
                    "low": np.mean([a.low for a in against]),
                    "high": np.mean([a.high for a in against]),
                    "p": np.median([a.p for a in against]),
                    **{name: np.mean([f[name] for f in found]) for name in (*FLOPS, "kv_bytes", "visual")},
                }
            )
    return pd.DataFrame(out)


def frontier(results: pd.DataFrame, rows: pd.DataFrame, base: str, resamples: int = 1000) -> pd.DataFrame:
    """Score and FLOPs of every run and budget relative to the run ``base``, the mean over tasks of the ratios, seeds
    averaged; intervals by a paired bootstrap over the questions of each task."""
    rng = np.random.default_rng(0)
    right = {key: part.set_index("id")["correct"] for key, part in rows.groupby(["run", "budget", "task"])}
    tasks = list(results["task"].unique())
    ids = {task: sorted(right[base, "fixed", task].index) for task in tasks}
    draws = {task: rng.integers(len(ids[task]), size=(resamples, len(ids[task]))) for task in tasks}
    whole = {task: right[base, "fixed", task].loc[ids[task]].to_numpy(float) for task in tasks}
    out = []
    for (run, label), group in results.assign(label=results["budget"].map(drawn)).groupby(["run", "label"]):
        ratios, boots, costs = [], [], []
        for (budget, task), line in group.groupby(["budget", "task"]):
            own = right[run, budget, task].loc[ids[task]].to_numpy(float)
            ratios.append(own.mean() / whole[task].mean())
            boots.append(own[draws[task]].mean(1) / whole[task][draws[task]].mean(1))
            all_of = results[(results["run"] == base) & (results["task"] == task)]
            costs.append(line["profiler"].iloc[0] / all_of["profiler"].iloc[0])
        low, high = np.quantile(np.mean(boots, axis=0), [0.025, 0.975])
        line = {
            "run": run,
            "budget": label,
            "flops": np.mean(costs),
            "score": np.mean(ratios),
            "low": low,
            "high": high,
        }
        out.append(line)
    return pd.DataFrame(out)


def drawn(budget: str) -> str:
    """A budget's name without what only tells draws of it apart: a seed, the phase of a grid."""
    return ",".join(part for part in budget.split(",") if not part.startswith(("seed=", "phase=")))


def _one(results: pd.DataFrame, run: str, budget: str, task: str) -> pd.Series:
    part = cells(results, run, budget)
    return part[part["task"] == task].iloc[0]


def _correct(rows: pd.DataFrame, run: str, budget: str, task: str) -> dict[str, bool]:
    part = cells(rows, run, budget)
    part = part[part["task"] == task]
    return dict(zip(part["id"], part["correct"], strict=True))
