"""Shards of a run: several processes, one of them killed, give what one gives, to the byte."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import tiny_checkpoint as tiny

from thinsight.config.compose import load_config, to_yaml
from thinsight.errors import UserError
from thinsight.evaluate import main
from thinsight.evaluation import batches as module
from thinsight.evaluation.journal import Journal
from thinsight.evaluation.run import compute, evaluate
from thinsight.evaluation.shards import Shard, ShardedJournal

FILES = ("metrics.json", "predictions.parquet", "trace.parquet", "curve.csv", "protocol.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    tiny.save_task(folder / "flat.parquet", rows=60)
    return folder


def overrides(world, *more):
    where = [f"model.checkpoint={world / 'model'}", "task=exist", f"task.path={world}/flat.parquet", "batch_size=2"]
    return [*where, "method=vtw", "sweep.layer=[1,2]", *more]


def lines(journal):
    """Batches in a journal's file."""
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "thinsight.evaluate", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_two_workers_one_of_them_killed_give_what_one_process_gives(world, tmp_path, monkeypatch, capsys):
    """60 batches: 60 rows, two a batch, two budgets; half of them each. One worker is a process of its own, as it is
    killed by the system; the other, and the one that goes on, run here."""
    commands = [[*overrides(world, f"shard={i}/2"), "--journal", str(tmp_path / "run.jsonl")] for i in (0, 1)]
    journals = [tmp_path / f"run.{i}-of-2.jsonl" for i in (0, 1)]
    worker = start(commands[1])
    deadline = time.monotonic() + 120
    while worker.poll() is None and lines(journals[1]) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    worker.send_signal(signal.SIGKILL)
    _, errors = worker.communicate()
    assert worker.returncode == -signal.SIGKILL, errors
    done = lines(journals[1])
    assert 5 <= done < 30
    main(commands[0])
    assert json.loads(capsys.readouterr().out)["of"] == 120
    assert lines(journals[0]) == 30

    main(commands[1])
    assert json.loads(capsys.readouterr().out) == {"shard": "1/2", "answers": 120, "of": 120}
    assert lines(journals[1]) == 30  # it went on
    assert not (tmp_path / "run.jsonl").exists()

    evaluate(load_config(overrides(world)), tmp_path / "alone", tmp_path / "other.jsonl")
    monkeypatch.setattr(module, "answer", lambda *_: pytest.fail("computed again"))
    evaluate(load_config(overrides(world)), tmp_path / "merged", tmp_path / "run.jsonl")
    for file in FILES:
        assert (tmp_path / "merged" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    assert json.loads((tmp_path / "merged" / "timing.json").read_text())["resumed"] == 120
    assert not list(tmp_path.glob("*.jsonl"))  # the shards' journals are gone as well


def test_shards_divide_the_batches_of_every_task(world, tmp_path):
    """Thirty batches of two rows at two budgets; of four shards two have eight, and two seven."""
    found = []
    for i in range(4):
        done, total = compute(load_config(overrides(world, f"shard={i}/4")), tmp_path / "run.jsonl")
        own = Journal(tmp_path / f"run.{i}-of-4.jsonl", head(tmp_path, i))
        own.close()
        assert len(own) == 4 * len([batch for batch in range(30) if batch % 4 == i])
        assert own.records["exist", 0].keys() == own.records["exist", 1].keys()
        found.append(set(own.records["exist", 0]))
        assert (done, total) == (2 * sum(map(len, found)), 120)
    assert len(set.union(*found)) == sum(map(len, found)) == 60


def head(folder, number):
    with (folder / f"run.{number}-of-4.jsonl").open() as file:
        return json.loads(file.readline())["run"]


def test_another_division_goes_on_from_what_is_there(world, tmp_path, monkeypatch):
    """One half is done; of a third only what lies in the other half is left; the whole computes the rest."""
    computed = []
    real = module.answer
    monkeypatch.setattr(module, "answer", lambda *a: computed.append(a) or real(*a))
    for shard, expected in (("0/2", 30), ("0/3", 10)):
        computed.clear()
        compute(load_config(overrides(world, f"shard={shard}")), tmp_path / "run.jsonl")
        assert len(computed) == expected
    computed.clear()
    merged = evaluate(load_config(overrides(world)), journal=tmp_path / "run.jsonl")
    assert len(computed) == 60 - 40
    assert merged == evaluate(load_config(overrides(world)), journal=tmp_path / "other.jsonl")


def test_a_journal_of_another_run_is_not_read(tmp_path):
    for number, name in enumerate(["mine", "foreign"]):
        shard = ShardedJournal(tmp_path / "run.jsonl", name, Shard(number, 2))
        shard.add(("exist", 0), [{"id": name}])
        shard.close()
    (tmp_path / "run.0-of-2.jsonl.part").write_text("no journal")
    whole = ShardedJournal(tmp_path / "run.jsonl", "mine")
    assert whole.records == {("exist", 0): {"mine": {"id": "mine"}}}
    whole.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["run.0-of-2.jsonl.part"]


def test_a_shard_that_is_still_running_is_read_as_far_as_it_is(tmp_path):
    shard = ShardedJournal(tmp_path / "run.jsonl", "run", Shard(0, 2))
    shard.add(("exist", 0), [{"id": "a"}])
    with shard.path.open("ab") as file:
        file.write(b'{"key": ["exist", 0], "rec')  # a line that is being written
    whole = ShardedJournal(tmp_path / "run.jsonl", "run")
    assert whole.records == {("exist", 0): {"a": {"id": "a"}}}
    with pytest.raises(UserError, match="running in another process"):
        ShardedJournal(tmp_path / "run.jsonl", "run", Shard(0, 2))
    whole.close()
    shard.close()


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "0/0", "1/2/3", "0 / 2"])
def test_what_is_no_shard_is_one_sentence(text):
    with pytest.raises(UserError, match=r"counted from 0: shard=0/4 to shard=3/4"):
        Shard.parse(text)


def test_a_shard_has_no_result_and_no_place_in_a_plan(world, tmp_path, capsys):
    with pytest.raises(UserError, match="shard 0/2 of a run has no result"):
        evaluate(load_config(overrides(world, "shard=0/2")), tmp_path / "out")
    assert "shard" not in to_yaml(load_config(overrides(world)))
    assert not (tmp_path / "out").exists()
    main([*overrides(world, "shard=1/2", "limit=4"), "--journal", str(tmp_path / "run.jsonl")])
    assert json.loads(capsys.readouterr().out) == {"shard": "1/2", "answers": 4, "of": 8}
