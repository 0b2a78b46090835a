"""A model's rows of the papers' tables: what does not fit and a baseline that is off stop it; it goes on where it was.

The model is a tiny LLaVA under the settings of LLaVA-1.5-7B; the benchmarks are copies of twenty rows in a hub's cache.
"""

import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub.constants
import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny
from helpers.hub_checkpoints import put_benchmark

from thinsight import replicate as door
from thinsight.config.compose import load_config
from thinsight.errors import UserError, command
from thinsight.evaluation import run as run_module
from thinsight.evaluation.run import Run, compute
from thinsight.paths import ROOT, save_whole
from thinsight.pipeline import replication
from thinsight.pipeline.params import read_params
from thinsight.pipeline.replication import (
    EARLIEST,
    Pages,
    by_worth,
    check_fit,
    estimate,
    plan_runs,
    replicate,
    replication_params,
    stopping_layers,
)

MODEL = "llava_1_5_7b"
TASKS = ("pope", "gqa", "textvqa")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny LLaVA, and a hub's cache that holds the three benchmarks of the gate, as the hub lays them out."""
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    patch = pytest.MonkeyPatch()
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    for name in TASKS:
        put_benchmark(name, folder)
    patch.undo()
    return folder


@pytest.fixture(autouse=True)
def alone(world, tmp_path, monkeypatch):
    """No hub but that cache, journals of our own, one thread."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(world / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(run_module, "JOURNALS", tmp_path / "journals")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def words(world, *more):
    small = [f"model.checkpoint={world / 'model'}", "model.dtype=float32", "model.device=cpu", "batch_size=8"]
    return [*small, "layers=[1,3]", f"tasks={','.join(TASKS)}", *more]


def go(world, home, *more, gate=True, pages=""):
    params = replication_params(MODEL, words(world, f"pages={pages}", *more))
    replicate(plan_runs(params, home), params.pages, home, home / "reports", gate=gate, jobs=1)


def test_there_is_to_run_what_params_has_but_for_questions_about_pockets_tasks():
    params = replication_params(MODEL, ["batch_size=8"])
    runs = read_params(ROOT / "params.yaml").runs
    assert params.runs.keys() == {name for name, more in runs.items() if "task" not in " ".join(more)}
    assert {"plain", "vtw", "ficoco_v", "trsm-20"} <= params.runs.keys()
    assert "random-exist" not in params.runs
    assert params.preset == "full"
    assert params.overrides == (f"model={MODEL}", "layers=[8, 12, 15, 16, 20, 24, 28]", "batch_size=8")
    assert params.tasks[:3] == TASKS
    assert "overview" in params.pages
    assert "quickstart" not in params.pages
    chosen = replication_params(MODEL, ["runs=vtw,fastv", "tasks=pope", "preset=smoke", "pages=vtw", "limit=5"])
    assert list(chosen.runs) == ["plain", "vtw", "fastv"]
    assert (chosen.tasks, chosen.preset, chosen.pages) == (("pope",), "smoke", ("vtw",))
    assert chosen.overrides[-1] == "limit=5"
    with pytest.raises(UserError, match=r"unknown run 'vtv': did you mean .*vtw"):
        replication_params(MODEL, ["runs=vtv"])


@pytest.mark.parametrize(("depth", "layers"), [(32, [8, 12, 15, 16, 20, 24, 28]), (12, [3, 4, 5, 6, 7, 9, 10])])
def test_layers_to_stop_at_go_by_the_depth(depth, layers):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=depth))
    assert stopping_layers(config) == layers


def test_the_order_is_that_of_printed_numbers():
    """Counted here without our reader, for methods whose title is what papers call them."""
    printed = {}
    for file in (ROOT / "data" / "published").glob("*.csv"):
        with file.open(encoding="utf-8", newline="") as text:
            for line in csv.DictReader(text):
                if line["model"] == "LLaVA-1.5-7B" and line["column"] in ("POPE", "GQA", "TextVQA"):
                    printed[line["method"]] = printed.get(line["method"], 0) + 1
    names = {"blind": None, "tome": "ToMe", "vtw": "VTW", "ficoco_v": "FiCoCo-V", "plain": None, "cdpruner": "CDPruner"}
    configs = {
        name: load_config([f"method={'identity' if name == 'plain' else name}", "tasks=[pope,gqa,textvqa]"])
        for name in names
    }
    found = by_worth(configs, MODEL)
    assert found[0] == "plain"
    assert found[-1] == "blind"
    assert found[1] == max((name for name in names if names[name]), key=lambda name: printed[names[name]])


NEED = {"weights_gb": 14.0, "memory_gb": 30.0, "disk_gb": 20.0}


@pytest.mark.parametrize(
    ("memory", "disk", "sentence"),
    [
        (40, 50, None),
        (14.3, 50, "needs 14.5 GB of memory for a single row, and 14.3 GB are free here"),
        (20, 50, r"batch_size=32 needs 30.0 GB of memory, and 20.0 GB are free here: batch_size=12 would fit"),
        (40, 19, r"20.0 GB are to be fetched, and 19.0 GB are free for the hub's cache: set HF_HOME"),
    ],
)
def test_what_cannot_fit_is_refused(monkeypatch, memory, disk, sentence):
    monkeypatch.setattr(replication, "free_memory", lambda device: memory * 1e9)
    monkeypatch.setattr(replication, "free_disk", lambda: disk * 1e9)
    config = load_config(["batch_size=32"])
    if sentence is None:
        assert check_fit(NEED, config) == (memory, disk)
    else:
        with pytest.raises(UserError, match=sentence):
            check_fit(NEED, config)


def test_the_estimate_is_of_all_runs_and_names_what_is_missing(world, tmp_path, monkeypatch):
    monkeypatch.setattr(replication, "free_memory", lambda device: 40e9)  # the model is called a 7B
    params = replication_params(MODEL, words(world, "runs=vtw", "pages="))
    configs = plan_runs(params, tmp_path)
    text = "\n".join(estimate(configs, 50.0))
    assert "GB of weights, local" in text
    assert "disk     0 GB to fetch" in text
    assert f"work     2 runs, {3 * 20 * (1 + 2)} answers" in text
    configs["plain"].model.checkpoint = "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        estimate(configs, 50.0)


def test_a_baseline_that_is_off_stops_there_and_says_what_to_look_at(world, tmp_path, monkeypatch):
    monkeypatch.setattr(replication, "FEW", 12)
    for _ in range(2):  # the second time it is known already
        with pytest.raises(UserError) as stop:
            go(world, tmp_path, "runs=vtw")
        assert "The baseline is off on GQA: " in str(stop.value)
        assert "look at the prompt" in str(stop.value)
        assert "TextVQA: words that OCR found" in str(stop.value)
        assert str(tmp_path / "gate" / "plain" / "protocol.json") in str(stop.value)
        scores = json.loads((tmp_path / "gate" / "plain" / "metrics.json").read_text())["scores"]
        assert {task: cells["fixed"]["n"] for task, cells in scores.items()} == dict.fromkeys(TASKS, 12)
        assert not (tmp_path / "runs").exists()
        monkeypatch.setattr(Run, "answer", lambda *_: pytest.fail("computed again"))


def test_the_rows_of_the_table_are_computed_once(world, tmp_path, monkeypatch, capsys):
    """One run is full already, by jobs; another is finished; a third fails; the last is added later."""
    monkeypatch.setattr(replication, "check_baseline", lambda folder, base: [])  # a baseline that is as printed
    params = replication_params(MODEL, words(world, "runs=vtw", "pages=", "limit=8"))
    compute(plan_runs(params, tmp_path)["vtw"])
    (journal,) = (tmp_path / "journals").iterdir()
    go(world, tmp_path, "runs=vtw", "limit=8")
    assert not journal.exists()
    metrics = json.loads((tmp_path / "runs/vtw/metrics.json").read_text())
    assert {task: list(cells) for task, cells in metrics["scores"].items()} == {
        task: ["layer=1", "layer=3"] for task in TASKS
    }
    assert json.loads((tmp_path / "runs/vtw/timing.json").read_text())["resumed"] == 3 * 8 * 2
    assert len(pd.read_parquet(tmp_path / "runs/plain/predictions.parquet")) == 3 * 8

    real = Run.answer
    monkeypatch.setattr(Run, "answer", lambda *_: pytest.fail("computed again"))
    go(world, tmp_path, "runs=vtw", "limit=8")
    computed = []
    monkeypatch.setattr(Run, "answer", lambda run, *a: computed.append(run.config.run) or real(run, *a))
    with pytest.raises(UserError, match="not all was made: trim failed"):  # there is no text tower
        go(world, tmp_path, "runs=vtw,fastv,trim", "limit=8")
    assert set(computed) - {"trim"} == {"fastv"}
    assert (tmp_path / "runs/fastv/metrics.json").is_file()
    assert not list((tmp_path / "journals").glob("*"))  # trim was not even begun
    assert capsys.readouterr().err.count("trim failed: ") == 1


def test_pages_fill_as_rows_arrive(world, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(replication, "EARLIEST", 0.0)
    monkeypatch.setattr(replication, "PAUSE", 0)
    monkeypatch.setattr(replication, "needed_runs", lambda page: ["plain"])
    monkeypatch.setattr(replication, "warm_python", lambda modules: nullcontext({}))

    def made(command, **_):
        calls.append([str(word) for word in command])
        if command[2] == "thinsight.pipeline.notebook":
            save_whole(Path(command[4]), "{}")
        return SimpleNamespace(returncode=int("trsm.ipynb" in command[3]), stderr="error: no\n")

    monkeypatch.setattr(replication.subprocess, "run", made)
    with pytest.raises(UserError, match="not all was made: trsm failed"):
        go(world, tmp_path, "runs=vtw", "tasks=pope", "limit=8", gate=False, pages="vtw,trsm")
    steps = [(call[2], call[-1] if "report" in call[2] else call[4]) for call in calls]
    vtw = [
        ("thinsight.pipeline.notebook", str(tmp_path / "notebooks/vtw.ipynb")),
        ("thinsight.report", str(tmp_path / "reports/pages/vtw.html")),
        ("thinsight.report", str(tmp_path / "reports")),
    ]
    trsm = ("thinsight.pipeline.notebook", str(tmp_path / "notebooks/trsm.ipynb"))
    assert steps == [*vtw, trsm, *vtw]  # the second time with the run vtw, which the other page does not read
    for about in (f"model={tmp_path / 'configs/plain.yaml'}", "task=pope", "--about"):
        assert all(about in call for call in calls if call[2] == "thinsight.pipeline.notebook")


def test_a_page_is_made_again_at_the_end_or_when_it_has_waited(tmp_path, monkeypatch):
    clock, made = [0.0], []
    monkeypatch.setattr(replication.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Pages, "_failure", lambda pages, page: made.append(page))
    pages = Pages(
        tmp_path,
        tmp_path,
        {"vtw": ["vtw*"], "par": ["par"]},
        {"vtw": [], "par": ["par", "grid"]},
        {},
        {},
        ThreadPoolExecutor(1),
    )
    told = [(0.1, "vtw"), (1, "vtw"), (1.1, "vtw"), (2, "plain"), (2.5, "vtw")]
    for at, run in [(minutes * EARLIEST, run) for minutes, run in told]:
        clock[0] = at
        pages.show(run)
        for call in pages.calls:
            call.result()
    assert made == ["vtw", "vtw"]  # in the second minute, and when as long has passed again
    pages.show("vtw")
    pages.show("par")
    pages.finish()
    assert made == ["vtw"] * 3
    assert pages.failed == {"par": "it needs runs that are not there: grid"}
    pages.runs.add("grid")
    pages.show("par")
    pages.finish()
    assert made[3:] == ["par"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["limit=5"], "name one model, a file in conf/model: thinsight replicate model=llava_1_5_7b"),
        (["model=llava_1_5_7"], "unknown model 'llava_1_5_7': did you mean llava_1_5_7b?"),
        (["model=pocket", "runs=vtv"], "unknown run 'vtv'"),
        (["model=pocket", "--no-gate", "tasks=pop"], "run plain in params.yaml: unknown task 'pop': did you mean pope"),
    ],
)
def test_a_wrong_word_is_one_sentence(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["replicate", *arguments])
    with pytest.raises(SystemExit) as stop:
        command(door.main)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {sentence}")
    assert printed.count("\n") == 1
