"""A full disk stops a run in one sentence; what was computed stays readable, and the next run goes on from it."""

import errno
import json
import os
import resource
from collections import deque
from contextlib import contextmanager

import pytest
import torch
from helpers import tiny_checkpoint as tiny

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation import batches
from thinsight.evaluation.journal import Journal
from thinsight.evaluation.run import evaluate
from thinsight.paths import save_whole

KEYS = [("exist", budget) for budget in range(4)]
RECORDS = [{"id": f"row-{i}", "text": "x" * 200} for i in range(3)]


@contextmanager
def disk_of(size):
    """No file can grow beyond ``size`` bytes: a write is cut there, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [1000, 1500, 2000])
def test_a_batch_that_does_not_fit_is_not_there_and_the_others_are(tmp_path, size):
    journal = Journal(tmp_path / "j", "head")
    with disk_of(size), pytest.raises(UserError, match=r"the journal .*/j cannot be written \(File too large\)"):
        deque((journal.add(key, RECORDS) for key in KEYS), maxlen=0)
    before = dict(journal.records)
    assert 0 < len(before) < len(KEYS)
    journal.close()
    text = (tmp_path / "j").read_text()
    assert text.endswith("\n")
    assert len([json.loads(line) for line in text.splitlines()]) == 1 + len(before)
    again = Journal(tmp_path / "j", "head")
    assert again.records == before
    for key in KEYS[len(before) :]:
        again.add(key, RECORDS)
    again.close()
    assert list(Journal(tmp_path / "j", "head").records) == KEYS


@pytest.mark.parametrize("size", [0, 5])
def test_a_disk_that_is_full_from_the_start(tmp_path, size):
    with disk_of(size), pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path / "j", "head")
    Journal(tmp_path / "j", "head").add(KEYS[0], RECORDS)  # the lock is gone too


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_batch_is_only_there_when_it_is_on_disk(tmp_path, monkeypatch, number):
    journal = Journal(tmp_path / "j", "head")
    journal.add(KEYS[0], RECORDS)

    def fail(handle):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=os.strerror(number)):
            journal.add(KEYS[1], RECORDS)
    journal.add(KEYS[2], RECORDS)
    journal.close()
    assert list(Journal(tmp_path / "j", "head").records) == [KEYS[0], KEYS[2]]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    save_whole(path, "old")
    for content in ("new" * 500, lambda part: part.write_text("new" * 500)):
        with disk_of(1000), pytest.raises(UserError, match=r"file.txt cannot be written \(File too large\)"):
            save_whole(path, content)
        assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("file.txt", "old")]
    save_whole(path, "new")
    assert path.read_text() == "new"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    tiny.save_task(folder / "flat.parquet", rows=24)
    return [
        f"model.checkpoint={folder / 'model'}",
        "task=exist",
        f"task.path={folder / 'flat.parquet'}",
        "batch_size=5",
    ]


def test_a_run_goes_on_when_there_is_space_again(world, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    config = load_config(world)
    whole = evaluate(config, tmp_path / "whole", tmp_path / "w")
    with disk_of(4000), pytest.raises(UserError, match=r"the journal .* cannot be written"):
        evaluate(config, tmp_path / "out", tmp_path / "j")
    with disk_of(len((tmp_path / "j").read_bytes())), pytest.raises(UserError, match="cannot be written"):
        evaluate(config, tmp_path / "out", tmp_path / "j")
    assert not (tmp_path / "out" / "metrics.json").exists()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    answered = []
    real = batches.answer
    monkeypatch.setattr(batches, "answer", lambda *arguments: answered.append(1) or real(*arguments))
    with monkeypatch.context() as patch:
        patch.setattr("pandas.DataFrame.to_parquet", full)
        with pytest.raises(UserError, match=r"predictions.parquet cannot be written \(No space left on device\)"):
            evaluate(config, tmp_path / "out", tmp_path / "j")
    assert 0 < len(answered) < 5  # some of the five batches were there
    assert not list((tmp_path / "out").iterdir())
    answered.clear()
    assert evaluate(config, tmp_path / "out", tmp_path / "j") == whole
    assert not answered
    assert (tmp_path / "out" / "metrics.json").read_bytes() == (tmp_path / "whole" / "metrics.json").read_bytes()
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("content", [b"notes of mine\n", b"{}\n", b'{"ran": 1}\n', b"\x00\xff"])
def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no journal"):
        Journal(path, "head")
    assert path.read_bytes() == content
    for torn in (b"", b'{"ru', b'{"run": "other"}\n'):
        path.write_bytes(torn)
        Journal(path, "head").close()
        assert json.loads(path.read_text()) == {"run": "head"}


def test_a_file_system_without_locks_is_said_so(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\).*--journal FILE"):
        Journal(tmp_path / "j", "head")


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6), (5, 24)])
def test_a_run_goes_on_with_batches_of_another_size(world, tmp_path, monkeypatch, sizes):
    """Only what no batch of the first size has answered is computed, whole batches of the second."""
    torch.set_num_threads(1)
    before, after = (load_config([*world, f"batch_size={size}"]) for size in sizes)
    real, asked = batches.answer, []

    def stop(*arguments):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(arguments[4]))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "answer", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(before, tmp_path / "out", tmp_path / "j")
    later = []
    monkeypatch.setattr(batches, "answer", lambda *arguments: later.append(len(arguments[4])) or real(*arguments))
    result = evaluate(after, tmp_path / "out", tmp_path / "j")
    done = sizes[0] * 2
    assert sum(later) == 24 - done // sizes[1] * sizes[1]
    assert result["protocol"]["hardware"]["batch_size"] == sizes[1]
    assert result["scores"] == evaluate(before, journal=tmp_path / "w")["scores"]
