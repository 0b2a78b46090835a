"""Runs: scores and lengths from what really happened, resumption after a kill, the protocol card, bad input."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny

from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.costs.conventions import PROFILER
from thinsight.costs.flops import decoder_shape, flops
from thinsight.errors import UserError, command
from thinsight.evaluate import main
from thinsight.evaluation import batches
from thinsight.evaluation import run as module
from thinsight.evaluation.answer import _generated, answer
from thinsight.evaluation.dry_run import dry_run, shareable
from thinsight.evaluation.journal import Journal
from thinsight.evaluation.protocol import comparable, hardware_differences
from thinsight.evaluation.run import evaluate
from thinsight.evaluation.score_table import plain_result, score_table
from thinsight.evaluation.sharing import shared_layers
from thinsight.models.loading import load_model
from thinsight.tasks import rows as rows_module
from thinsight.tasks.rows import collate, load_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model and 24 questions; overrides that point a run there."""
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    tiny.save_task(folder / "flat.parquet", rows=24)
    return folder


def overrides(world, *more, task="flat"):
    where = [f"model.checkpoint={world / 'model'}", "task=exist", f"task.path={world / task}.parquet", "batch_size=5"]
    return [*where, *more]


def run(world, tmp_path, *more, out="out"):
    return evaluate(load_config(overrides(world, *more)), tmp_path / out, tmp_path / f"{out}.jsonl")


def test_identity_is_the_plain_model_answering(world, tmp_path):
    config = load_config(overrides(world, "method=identity"))
    run(world, tmp_path, "method=identity")
    answers = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("id")
    model, processor = load_model(config)
    rows = load_rows(config.task)
    for row in rows[:6]:
        inputs = collate(processor, [row], config.task)
        ids = model.generate(**inputs, max_new_tokens=config.task.max_new_tokens, do_sample=False)
        text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answers.prediction[row.id] == text.strip()
    assert list(answers.index) == [row.id for row in rows]
    assert answers.correct.tolist() == [p.lower() == a for p, a in zip(answers.prediction, answers.answer, strict=True)]


def test_scores_come_from_the_lengths_of_the_run(world, tmp_path):
    result = run(world, tmp_path, "method=vtw", "sweep.layer=[1,3]")
    trace = pd.read_parquet(tmp_path / "out" / "trace.parquet")
    shape = decoder_shape(load_model(load_config(overrides(world)))[0])
    for layer in (1, 3):
        cell = result["scores"]["exist"][f"layer={layer}"]
        rows = trace[trace.budget == json.dumps({"layer": layer})]
        assert cell["n"] == len(rows) == 24
        assert cell["layer"] == layer
        assert cell["visual_tokens"] == [4.0] * layer + [0.0] * (4 - layer)
        texts = [lengths[-1] for lengths in rows.lengths]
        assert len(set(texts)) > 1  # questions of different lengths: the mean is over rows, not over a mean length
        exact = [flops(shape, [n + 4] * layer + [n] * (4 - layer), PROFILER) for n in texts]
        assert cell["prefill_flops"]["profiler"] == pytest.approx(sum(exact) / len(exact))
        cached = [2 * shape.keys * 4 * (layer * (n + 4) + (4 - layer) * n) for n in texts]
        assert cell["kv_bytes"] == pytest.approx(sum(cached) / len(cached))
        assert cell["flops"]["profiler"] > cell["prefill_flops"]["profiler"]
    curve = pd.read_csv(tmp_path / "out" / "curve.csv")
    assert curve.columns.tolist() == ["task", "budget", "accuracy", "tflops", "layer", "visual_tokens_mean"]
    assert curve.layer.tolist() == [1, 3]
    assert curve.visual_tokens_mean.tolist() == [1.0, 3.0]


def test_several_tasks_and_a_product_of_budgets(world, tmp_path, monkeypatch):
    config = load_config(overrides(world, "method=random", "sweep.keep=[1,2]", "sweep.seed=[0,1,2]", "limit=6"))
    second = load_config(overrides(world, "task.name=other")).task
    monkeypatch.setattr(rows_module, "load_task", {"exist": config.task, "count": second}.get)
    config.tasks = ["exist", "count"]
    scores = evaluate(config, journal=tmp_path / "j")["scores"]
    names = [f"keep={k},seed={s}" for k, s in itertools.product((1, 2), (0, 1, 2))]
    assert {task: list(found) for task, found in scores.items()} == {"exist": names, "other": names}
    assert scores["exist"]["keep=2,seed=1"]["visual_tokens"] == [2.0] * 4


def test_layers_shared_by_budgets_give_what_each_would_compute(world, tmp_path, monkeypatch):
    """One look at the pictures, and one pass below the first cut, give the same answers, to the bit; the model is
    itself again after it. Columns in front of the picture are a pass of their own, once a batch."""
    looks, passes = [], []
    config = load_config(overrides(world, "method=vtw", "sweep.layer=[1,3]", "limit=9"))
    model, _ = loaded = load_model(config)
    monkeypatch.setattr(module, "load_model", lambda _: loaded)
    block, first = model.model.vision_tower.encoder.layers[0], model.model.language_model.layers[0].mlp
    handles = [
        m.register_forward_hook(lambda *a, n=n: n.append(a[1][0].shape[1] > 1))
        for m, n in ((block, looks), (first, passes))
    ]
    shared = evaluate(config, tmp_path / "a", tmp_path / "j")
    assert (len(looks), sum(passes)) == (2 + 2, 2 + 2 + 2)  # batches of 5 and 4 rows, two budgets; FLOPs of each
    assert "forward" not in vars(model.model.vision_tower) | vars(model.model.language_model.layers[0])
    monkeypatch.setattr(module, "shared_layers", partial(shared_layers, limit=0))
    assert evaluate(config, tmp_path / "b", tmp_path / "j") == shared
    assert (len(looks), sum(passes)) == (4 + 4 + 2, 6 + 2 + 4 + 2)
    for handle in handles:
        handle.remove()
    for name in ("predictions.parquet", "trace.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_site_inside_the_tower_is_not_shared():
    inside = SimpleNamespace(reductions=[SimpleNamespace(site=object())])
    assert not shareable([load_method("vtw"), inside])
    assert shareable([load_method(name) for name in ("identity", "vtw", "random", "grid", "blind", "vtw_random_layer")])


def test_a_random_choice_belongs_to_the_row_not_to_its_batch(world, tmp_path):
    questions = pd.read_parquet(world / "flat.parquet").set_index("id").question
    run(world, tmp_path, "method=random", "method.keep=2", "batch_size=7", out="a")
    run(world, tmp_path, "method=random", "method.keep=2", "batch_size=3", out="b")
    a, b = (pd.read_parquet(tmp_path / out / "trace.parquet").set_index("id").kept for out in "ab")
    assert {k: list(v) for k, v in a.items()} == {k: list(v) for k, v in b.items()}
    pictures_alike = [set(map(tuple, same)) for _, same in a.groupby(questions)]
    assert all(len(kept) > 1 for kept in pictures_alike)  # the question alone does not decide


def test_the_same_run_gives_the_same_bytes(world, tmp_path):
    for out in ("a", "b"):
        run(world, tmp_path, "method=vtw", "sweep.layer=[1,2]", out=out)
    for name in ("metrics.json", "predictions.parquet", "trace.parquet", "curve.csv", "protocol.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not list(tmp_path.glob("*.jsonl"))
    assert not list(tmp_path.glob("a/*.part"))


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_run_goes_on_where_it_stopped(world, tmp_path, monkeypatch):
    """A real process, killed by the system in the middle; the same command then computes the rest, and only that."""
    tiny.save_task(world / "long.parquet", rows=60)
    arguments = overrides(world, "method=vtw", "sweep.layer=[1,2]", "batch_size=2", task="long")
    total = 60  # batches: 60 rows, two a batch, two budgets
    journal, out = tmp_path / "journal.jsonl", tmp_path / "out"
    line = [*arguments, "--out", str(out), "--journal", str(journal)]
    process = subprocess.Popen(
        [sys.executable, "-m", "thinsight.evaluate", *line],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") > 6:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    done = journal.read_bytes().count(b"\n") - 1  # without the head
    assert 6 <= done < total
    assert not (out / "metrics.json").exists()

    computed = []
    real = answer
    monkeypatch.setattr(batches, "answer", lambda *a: computed.append(a) or real(*a))
    main(line)
    assert len(computed) == total - done  # of the killed process' batches only the one in flight is computed again
    assert json.loads((out / "timing.json").read_text())["resumed"] == 2 * done
    assert not journal.exists()

    whole = tmp_path / "whole"
    main([*arguments, "--out", str(whole), "--journal", str(tmp_path / "other.jsonl")])
    for name in ("metrics.json", "predictions.parquet", "trace.parquet", "curve.csv", "protocol.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_the_journal_drops_a_torn_line_and_a_foreign_run(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path, "run-1")
    journal.add(("exist", 0), [{"id": "a"}])
    journal.add(("exist", 1), [{"id": "b"}])
    journal.close()
    path.write_bytes(path.read_bytes()[:-9])
    again = Journal(path, "run-1")
    assert again.records == {("exist", 0): {"a": {"id": "a"}}}
    again.add(("exist", 1), [{"id": "c"}])
    again.close()
    again = Journal(path, "run-1")
    assert again.records["exist", 1] == {"c": {"id": "c"}}
    again.close()
    other = Journal(path, "run-2")  # the config, the code, the data or the weights changed
    assert not len(other)
    with pytest.raises(UserError, match="running in another process"):
        Journal(path, "run-2")
    other.remove()
    assert not path.exists()


@pytest.mark.parametrize("change", ["weights", "data", "config"])
def test_nothing_is_resumed_after_a_change(tmp_path, monkeypatch, change):
    world = tmp_path
    tiny.save_model(world / "model")
    tiny.save_task(world / "flat.parquet")
    real, calls = answer, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(batches, "answer", stop)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path, "method=vtw")
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 3
    if change == "weights":
        tiny.save_model(world / "model", seed=1)
    if change == "data":
        table = pd.read_parquet(world / "flat.parquet")
        table.assign(answer="other").to_parquet(world / "flat.parquet", index=False)
    run(world, tmp_path, "method=vtw", *(["task.max_new_tokens=5"] if change == "config" else []))
    assert len(calls) == 3 + 5  # all five batches of 24 rows


def test_a_method_that_reduced_nothing_fails(world, tmp_path):
    with pytest.raises(UserError, match=r"method vtw with .*'layer': 4.* removed no visual token"):
        run(world, tmp_path, "method=vtw", "method.layer=4")
    assert not (tmp_path / "out" / "metrics.json").exists()
    with pytest.raises(UserError, match="removed no visual token"):
        run(world, tmp_path, "method=vtw", "sweep.layer=[1,4]")
    assert run(world, tmp_path, "method=identity")["scores"]["exist"]["fixed"]["layer"] is None


def test_the_card_compares_runs_that_differ_in_the_method_only(world, tmp_path):
    plain = run(world, tmp_path, "method=identity")["protocol"]
    vtw = run(world, tmp_path, "method=vtw", "sweep.layer=[1,2]")["protocol"]
    assert plain["method"] != vtw["method"]
    comparable(plain, vtw)
    assert vtw["tasks"]["exist"]["prompt"].startswith("<s>USER: <image> ")
    assert (vtw["model"]["attention"], vtw["processor"]["padding_side"]) == (
        {"decoder": "sdpa", "vision": "sdpa"},
        "left",
    )
    other = run(world, tmp_path, "method=vtw", "batch_size=4", "limit=20", "model.dtype=bfloat16")["protocol"]
    with pytest.raises(UserError) as error:
        comparable(vtw, other)
    assert "model.dtype (float32 against bfloat16); tasks.exist.ids_sha256" in str(error.value)
    assert str(error.value).endswith("and 1 more.")
    assert hardware_differences(vtw, other) == ["batch_size (5 against 4)"]


def test_the_card_names_the_hardware_which_may_differ(world, tmp_path, monkeypatch):
    card = run(world, tmp_path, "method=identity")["protocol"]
    hardware = card["hardware"]
    assert hardware["cpu"]
    assert (hardware["instructions"], hardware["threads"]) == (torch.backends.cpu.get_cpu_capability(), 1)
    assert hardware["kernels"].keys() == {"blas", "mkl", "onednn"}
    other = card | {"hardware": hardware | {"threads": 2}}
    comparable(card, other)
    assert hardware_differences(card, other) == ["threads (1 against 2)"]
    assert hardware_differences(card, {key: card[key] for key in card if key != "hardware"}) == []


def test_the_command_prints_one_json_object_or_one_sentence(world, tmp_path, capsys, monkeypatch):
    main([*overrides(world, "method=vtw", "limit=7"), "--journal", str(tmp_path / "j")])
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    cell = found["scores"]["exist"]["fixed"]
    assert (found["score"], found["interval"], found["tokens"]) == (
        cell["accuracy"], cell["interval"], [4.0, 4.0, 0.0, 0.0],
    )  # fmt: skip
    assert found["flops"].keys() == cell["prefill_flops"].keys()
    assert found["protocol"]["tasks"]["exist"]["rows"] == 7
    assert found["protocol"]["pictures"]["orientation"] == "turned as EXIF says"
    assert "exist" in printed.err  # the progress bar
    monkeypatch.setattr(sys, "argv", ["evaluate", "method=identiy"])
    with pytest.raises(SystemExit) as stop:
        command(main)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: unknown method 'identiy': did you mean identity?\n")


def test_where_results_cannot_be_written_is_known_before_the_work(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output folder .* cannot be made"):
        evaluate(load_config(overrides(world)), tmp_path / "file" / "out", tmp_path / "j")
    if Path("/proc").is_dir():  # a folder that takes no files, from root either
        with pytest.raises(UserError, match=r"output folder /proc cannot be written"):
            evaluate(load_config(overrides(world)), "/proc", tmp_path / "j")
    with pytest.raises(UserError, match=r"journal .* cannot be written"):
        evaluate(load_config(overrides(world)), tmp_path / "out", tmp_path / "file" / "j")


def test_a_plan_names_data_that_cannot_be_read(world, tmp_path):
    torn = tmp_path / "torn.parquet"
    torn.write_bytes((world / "flat.parquet").read_bytes()[:-100])
    plan = dry_run(load_config([*overrides(world), f"task.path={torn}"]))
    assert plan["missing"] == [f"the data of task exist at {torn} cannot be read."]
    (missing,) = dry_run(load_config([*overrides(world), f"task.path={tmp_path}"]))["missing"]
    assert missing == f"task exist reads one parquet file, and {tmp_path} is a folder."


def test_a_plan_says_what_model_cannot_be_built(world):
    with pytest.raises(UserError, match="model pocket cannot be built: Specified `attn_implementation="):
        dry_run(load_config([*overrides(world), "model.attn_implementation=none"]))


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf"), 1e-320])
def test_a_speed_that_is_none_is_refused(speed):
    with pytest.raises(UserError, match="--tflops is the speed of a device, a number from"):
        dry_run(load_config(), speed)


def test_an_impossible_sweep_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="names a value twice"):
        run(world, tmp_path, "method=vtw", "sweep.layer=[1,1]")
    with pytest.raises(UserError, match="out of range"):
        run(world, tmp_path, "method=vtw", "sweep.layer=[9]")


def test_generated_tokens_are_counted_to_the_end_token():
    assert _generated(torch.tensor([7, 8, 2, 0]), [2]) == 3
    assert _generated(torch.tensor([7, 8, 9, 9]), [2]) == 4
    assert _generated(torch.tensor([2, 0, 0, 0]), [2]) == 1


def test_the_config_of_a_budget_is_a_method(world):
    assert load_method(load_config(overrides(world, "method=vtw")), layer=2).fields["layer"] == 2


def test_a_terminal_gets_a_table_beside_the_plain_model(world, tmp_path, capsys, monkeypatch):
    run(world, tmp_path, "method=identity", out="runs/plain")
    run(world, tmp_path, "method=identity", "limit=3", out="runs/few")
    result = run(world, tmp_path, "method=vtw", "sweep.layer=[1,2]")
    assert plain_result(result, tmp_path) is None
    plain = plain_result(result, tmp_path / "runs")
    assert plain["scores"]["exist"]["fixed"]["n"] == 24  # on the same questions, not on three
    lines = score_table(result, plain).splitlines()
    assert [line.split()[:3:2] for line in lines[1:]] == [
        ["exist", "layer=1"],
        ["exist", "layer=2"],
        ["exist", "model"],
    ]
    assert "1.0 of 4 a layer" in lines[1]
    assert "4.0 of 4 a layer" in lines[3]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for arguments, begins in ((["method=vtw"], " task method"), (["method=vtw", "--json"], "{\n")):
        main([*overrides(world, *arguments), "--journal", str(tmp_path / "j")])
        assert capsys.readouterr().out.startswith(begins)
