"""Whether the whole model scores what is stored or printed for it; sentences where it does not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from thinsight.analysis.runs import read_json
from thinsight.evaluation.budget import FIXED
from thinsight.evaluation.protocol import run_protocol
from thinsight.ledger.protocols import RunProtocol, difference
from thinsight.ledger.published import PAPERS, POCKET, load_all
from thinsight.paths import ROOT

SURE = 0.999  # confidence of the interval in which a stored score must lie
SLACK = 1.0  # points around the range that papers print
UNITS = ("%", "points")  # in which benchmarks print what a run's summary has
STORED = ROOT / "data" / "pocket" / "scores.json"


def check_baseline(folder: Path, base: str = "plain") -> list[str]:
    """Sentences about the scores of the run ``base`` in ``folder`` that miss what is known; empty if all is well.

    Pocket: the stored score on all questions must lie in the run's exact 99.9 % interval (Wilson's is too narrow for a
    score near 1 on few questions). Another model: its score must lie in the range that papers print for it on the same
    benchmark, or within a point and half its own interval of it; what nobody prints passes. Numbers that are known to
    be printed under another protocol than the run's do not count, and where no others are left, that is told.
    """
    file = folder / base / "metrics.json"
    if not file.is_file():
        return [
            f"The baseline is not run: there is no run '{base}', so no score here has been held against what is known."
        ]
    metrics = read_json(file)
    scores = {task: cell[FIXED] for task, cell in metrics["scores"].items() if FIXED in cell}
    scores = {task: cell for task, cell in scores.items() if cell["accuracy"] is not None}  # a judge scores the others
    card = read_json(file.with_name("protocol.json"))
    if metrics["model"] == POCKET:
        return _against_stored(scores, read_json(STORED), card)
    return _against_printed(scores, metrics["model"], card)


def _against_stored(scores: Mapping[str, Any], stored: Mapping[str, Any], card: Mapping[str, Any]) -> list[str]:
    """Pocket's scores beside those on all questions."""
    out = []
    if card["model"].get("weights_sha256") != stored["weights_sha256"]:
        out.append("The baseline ran with other weights than those whose scores are stored in data/pocket/scores.json.")
    for task, cell in scores.items():
        if task not in stored["tasks"]:
            continue
        known = stored["tasks"][task]["whole"]["accuracy"]
        low, high = binomtest(cell["correct"], cell["n"]).proportion_ci(SURE, method="exact")
        if not low <= known <= high:
            out.append(
                f"The baseline is off on {task}: {cell['accuracy']:.1%} of {cell['n']} questions ({SURE:.1%} interval "
                f"{low:.1%} to {high:.1%}), where {known:.1%} of all {stored['tasks'][task]['n']} is stored."
            )
    return out


def _against_printed(scores: Mapping[str, Any], model: str, card: Mapping[str, Any]) -> list[str]:
    """Another model's scores, in %, beside the range that papers print for the whole model under the same protocol, or
    under one that they do not name."""
    from thinsight.ledger.lines import FULL_POINTS, VANILLA, PrintedTable, slug, task_benchmarks  # torch: seconds

    names = {task: benchmark for benchmark, task in task_benchmarks().items()}
    printed = load_all()
    lines = [
        line for line in PrintedTable(printed, printed).lines if line.method == VANILLA and slug(line.model) == model
    ]
    lines = [line for line in lines if line.unit in UNITS and line.source in PAPERS]
    out = []
    for task, cell in scores.items():
        run = RunProtocol(task, run_protocol(card, task), cell["n"])
        numbers = cell.get("summary", {}).get("printed", {names.get(task): 100 * cell["accuracy"]})
        for benchmark, value in numbers.items():
            cells = [line for line in lines if line.column == benchmark and line.is_number and not line.label]
            differing = {line: difference(line.made_under, benchmark, run) for line in cells}
            known = [line.number for line, differs in differing.items() if not differs]
            low, high = cell.get("interval", (0.0, 0.0))  # of few questions
            slack = (SLACK + 50 * (high - low)) * FULL_POINTS.get(benchmark, 100.0) / 100
            if cells and not known:
                whys = "; ".join(dict.fromkeys(differing.values()))
                out.append(f"The baseline on {benchmark} is held against nothing: {whys}.")
            if known and not min(known) - slack <= value <= max(known) + slack:
                out.append(
                    f"The baseline is off on {benchmark}: {value:.1f}, where papers print {min(known):g} to "
                    f"{max(known):g} for {model}."
                )
    return out
