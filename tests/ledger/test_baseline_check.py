"""The gate: a whole model that scores as known passes in silence, another is told in a sentence."""

import csv
import json

import pytest

from thinsight.ledger.baseline_check import check_baseline
from thinsight.paths import ROOT

STORED = json.loads((ROOT / "data" / "pocket" / "scores.json").read_text(encoding="utf-8"))


def write(folder, cells, model="pocket", weights=STORED["weights_sha256"], protocol="llava"):
    """A run ``plain`` with these cells: task -> (right answers, questions, and what else stands in it)."""
    run = folder / "plain"
    run.mkdir(parents=True)
    scores = {
        task: {"fixed": {"correct": correct, "n": n, "accuracy": correct / n, **more}}
        for task, (correct, n, more) in cells.items()
    }
    (run / "metrics.json").write_text(json.dumps({"model": model, "method": "identity", "scores": scores}))
    tasks = {task: {"protocol": protocol} if protocol else {} for task in cells}
    card = {"model": {"name": model, "weights_sha256": weights}, "tasks": tasks}
    (run / "protocol.json").write_text(json.dumps(card))
    return folder


def printed(model, column):
    """All numbers of the whole model that papers print, read without our reader."""
    out = []
    for file in sorted((ROOT / "data" / "published").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as text:
            for line in csv.DictReader(text):
                papers = line["source"] in ("own paper", "own readme", "other paper")
                wanted = (line["model"], line["column"], line["method"]) == (model, column, "vanilla")
                if papers and wanted and line["unit"] in ("%", "points") and "," not in line["row"]:
                    out.append(float(line["value"]))
    return out


def test_no_baseline(tmp_path):
    (told,) = check_baseline(tmp_path)
    assert "not run" in told
    assert "plain" in told
    assert len(check_baseline(tmp_path / "nowhere")) == 1


def test_pocket_as_stored(tmp_path):
    tasks = STORED["tasks"]
    cells = {task: (round(60 * found["whole"]["accuracy"]), 60, {}) for task, found in tasks.items()}
    assert check_baseline(write(tmp_path, cells)) == []


def test_pocket_that_is_off_and_small_samples_that_may_be(tmp_path):
    told = check_baseline(write(tmp_path / "far", {"exist": (400, 1000, {}), "count": (900, 1000, {})}))
    known = f"{STORED['tasks']['exist']['whole']['accuracy']:.1%}"
    assert any("exist" in line and "40.0%" in line and known in line for line in told)
    assert all("weights" not in line for line in told)
    assert check_baseline(write(tmp_path / "few", {"exist": (21, 24, {})})) == []  # too few to contradict


def test_other_weights_are_told(tmp_path):
    (told,) = check_baseline(write(tmp_path, {"exist": (985, 1000, {})}, weights="another"))
    assert "weights" in told


@pytest.mark.parametrize(("off", "told"), [(0.9, 0), (1.2, 1)])
def test_another_model_beside_what_papers_print(tmp_path, off, told):
    highest = max(printed("LLaVA-1.5-7B", "GQA"))
    cells = {"gqa": (round(100 * (highest + off)), 10000, {})}
    lines = check_baseline(write(tmp_path, cells, model="llava_1_5_7b"))
    assert len(lines) == told
    assert all("GQA" in line for line in lines)


def test_a_benchmarks_own_number_counts(tmp_path):
    """POPE is printed as F1 and MME in points; accuracy is neither."""
    lowest = min(printed("LLaVA-1.5-7B", "POPE"))
    fine = {"pope": (5000, 9000, {"summary": {"printed": {"POPE": lowest}}})}
    assert check_baseline(write(tmp_path / "fine", fine, model="llava_1_5_7b")) == []
    points = max(printed("LLaVA-1.5-7B", "MME"))
    for more, told in ((27.0, 0), (29.0, 1)):  # a point of a hundred is 28 of 2800
        cells = {"mme": (5, 10, {"summary": {"printed": {"MME": points + more}}})}
        assert len(check_baseline(write(tmp_path / str(more), cells, model="llava_1_5_7b"))) == told


def test_what_nobody_prints_passes(tmp_path):
    cells = {"textvqa_plain": (10, 5000, {}), "exist": (10, 60, {})}
    assert check_baseline(write(tmp_path, cells, model="llava_1_5_7b")) == []
