"""The benchmark of a machine: it always ends with a file, says what it left out, and runs every line without a GPU."""

import json
import os
import subprocess

import pytest
import torch

from thinsight.analysis.clocks import COLUMNS, read_benchmarks, timing_frame
from thinsight.config.schema import names
from thinsight.costs import benchmark
from thinsight.costs.benchmark import LABELS, SMOKE, Benchmark, Timings, cpu_parts, gpu_parts, slug
from thinsight.costs.parity import device_parity
from thinsight.errors import UserError
from thinsight.paths import ROOT


def started(out, seconds=1000.0) -> Benchmark:
    empty = {"timings": [], "not_run": [], "parity": [], "golden": None, "select_layer": None}
    return Benchmark(torch.device("cpu"), out, seconds, empty, text=8)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """What ``benchmarks/cpu.sh --smoke`` writes."""
    out = tmp_path_factory.mktemp("smoke") / "cpu.json"
    line = [ROOT / "benchmarks" / "cpu.sh", "--smoke", "--note", "a note", "--out", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    return json.loads(out.read_text())


def test_every_method_has_a_record_or_a_reason(smoke):
    (part,) = smoke["timings"]
    shown = {record["method"] for record in part["records"] if "method" in record}
    refused = {record["method"] for record in part["refused"]}
    assert shown | refused == set(names("method")) - {"identity"}
    assert not shown & refused
    assert refused == {"mustdrop", "vscan", "vtw_random_layer"}  # the picture or a draw decides, or looks first
    assert "method" not in part["records"][0]
    assert not any("why" in record for record in part["records"])


def test_a_file_says_what_it_is(smoke):
    assert (smoke["kind"], smoke["smoke"], smoke["note"]) == ("cpu", True, "a note")
    assert "honest about time and memory" in smoke["weights"]
    assert smoke["not_run"] == [{"part": "CUDA", "why": "no GPU was at hand"}]
    assert smoke["hardware"]["threads"] == 1
    assert smoke["versions"]["transformers"]


def test_the_frame_holds_what_the_file_holds(smoke):
    table = timing_frame([smoke])
    assert list(table.columns) == list(COLUMNS)
    records = {r["method"]: r for r in smoke["timings"][0]["records"] if "method" in r}
    assert set(table["method"]) == set(records)
    line = table[(table["method"] == "fastv") & (table["phase"] == "decoder")].iloc[0]
    fastv, plain = records["fastv"], smoke["timings"][0]["records"][0]
    assert line["realised"] == fastv["speedup"]["decoder"]["median"]
    assert line["share"] == line["realised"] / fastv["bound"]["decoder"]
    assert (line["own_share"], line["plain_peak"]) == (fastv["own_share"], plain["peak_bytes"])


def test_runs_that_only_prove_the_lines_are_not_read(smoke, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(smoke))
    (tmp_path / "b.json").write_text(json.dumps(smoke | {"smoke": False}))
    assert [found["smoke"] for found in read_benchmarks(tmp_path)] == [False]
    assert read_benchmarks(tmp_path / "none") == []
    for broken in ("{", "[]", "{}"):
        (tmp_path / "c.json").write_text(broken)
        with pytest.raises(UserError, match=r"c\.json is no benchmark"):
            read_benchmarks(tmp_path)


def test_a_part_that_fails_is_named_and_the_next_one_runs(tmp_path):
    found = started(tmp_path / "x.json")
    found.run("first", lambda: 1 / 0)
    found.run("second", lambda: found.result.update(golden={}))
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["not_run"] == [{"part": "first", "why": "ZeroDivisionError: division by zero"}]
    assert saved["golden"] == {}


def test_no_part_begins_when_the_time_is_over(tmp_path):
    found = started(tmp_path / "x.json", seconds=0)
    found.run("late", lambda: pytest.fail("it began"))
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["not_run"] == [{"part": "late", "why": "the time of the benchmark was over"}]


def test_groups_that_the_time_does_not_reach_are_named(tmp_path, monkeypatch):
    found, done = started(tmp_path / "x.json"), []

    def compare(_, group, *__):
        done.extend(method.name for method in group)
        found.seconds = 0
        return []

    monkeypatch.setattr(found, "compare", compare)
    found.time(Timings("llava_1_5_7b", "float32", 1, 64, SMOKE, methods=("vtw", "fastv", "random"), group=2))
    assert done == ["vtw", "fastv"]
    (left,) = found.result["not_run"]
    assert left["why"].endswith("without random")


def test_each_group_stands_behind_its_own_plain_model(tmp_path):
    found = started(tmp_path / "x.json")
    part = Timings("llava_1_5_7b", "float32", 1, 64, SMOKE, methods=("vtw", "random"), rounds=1, group=1)
    found.time(part)
    records = found.result["timings"][0]["records"]
    assert [record.get("method") for record in records] == [None, "vtw", None, "random"]
    saved = {"device": "x", "kind": "cpu", "timings": found.result["timings"]}
    table = timing_frame([saved])
    peaks = {record["method"]: plain["peak_bytes"] for plain, record in zip(records[::2], records[1::2], strict=True)}
    assert table.set_index("method")["plain_peak"].to_dict() == peaks


def test_select_layer_is_timed_in_plain_passes(tmp_path):
    found = started(tmp_path / "x.json")
    found.select_layer(Timings("llava_1_5_7b", "float32", 1, 64, SMOKE))
    search = found.result["select_layer"]
    assert search["candidates"] == 5
    assert search["passes"] == pytest.approx(search["seconds"] / search["plain"])


def test_golden_files_are_counted(tmp_path, monkeypatch):
    found = started(tmp_path / "x.json")
    monkeypatch.setattr(benchmark, "WHOLE_MODELS", "test_plain_model")
    found.golden()
    assert found.result["golden"] == {"status": 0, "passed": 2, "failed_tests": []}


def test_a_device_is_held_against_the_cpu():
    """Here against itself: all tokens and logits are the same, and whole budgets are the plain model."""
    records = list(device_parity(torch.device("cpu"), ["fastv", "ficoco_v", "par", "blind"]))
    assert [(r["method"], r["dtype"]) for r in records] == [
        (method, dtype) for dtype in ("float32", "bfloat16") for method in ("fastv", "ficoco_v", "par", "blind")
    ]
    assert all((r["kept"], r["logits"]) == (1.0, 0.0) for r in records)
    assert {r["method"] for r in records if r["whole"] is None} == {"blind"}
    assert all(r["whole"] for r in records if r["method"] != "blind")


def test_the_most_important_parts_come_first():
    first, second = gpu_parts(rounds=5)
    assert (first[0].model, first[0].batch, first[0].label, first[0].dtype) == ("llava_1_5_7b", 8, 64, "bfloat16")
    parts = [*first, *second]
    assert all(part.shape is None for part in parts)
    whole = {(part.model, part.batch, part.label) for part in parts if not part.methods}
    assert whole == {(m, b, n) for m in ("llava_1_5_7b", "llava_next_vicuna_7b") for b in (1, 8) for n in LABELS}
    assert max(n for part in parts for n in part.answers) == 256
    assert {part.shape for parts in gpu_parts(1, smoke=True) for part in parts} == {SMOKE}
    assert [part.label for part in cpu_parts("8x512", LABELS, 3)] == list(LABELS)


def test_a_file_is_named_by_its_device():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


@pytest.mark.parametrize("script", ["cpu.sh", "gpu.sh"])
def test_the_scripts_are_sound(script):
    path = ROOT / "benchmarks" / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


def test_carried_wheels_are_those_of_the_lock():
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    wheels = [
        line for line in (ROOT / "benchmarks" / "wheels.txt").read_text().splitlines() if not line.startswith("#")
    ]
    assert wheels
    assert set(wheels) <= set(lock)
    antlr = next(line for line in lock if line.startswith("antlr4"))
    assert antlr in (ROOT / "benchmarks" / "gpu.sh").read_text()
