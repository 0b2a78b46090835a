"""Batches that do not fit in memory are halved, rows that cannot be asked are counted, and the run goes on."""

import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation import batches
from thinsight.evaluation.run import evaluate
from thinsight.evaluation.sharing import SharedLayers
from thinsight.models.memory import is_out_of_memory

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    tiny.save_task(folder / "flat.parquet", rows=24)
    return folder


def run(world, tmp_path, *more, task="flat", out="out"):
    where = [
        f"model.checkpoint={world / 'model'}",
        "task=exist",
        f"task.path={world / task}.parquet",
        "batch_size=10",
        "limit=null",
    ]
    return evaluate(load_config([*where, *more]), tmp_path / out, tmp_path / f"{out}.jsonl")


@pytest.mark.parametrize("where", ["answer", "inputs"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(world, tmp_path, monkeypatch, where):
    """Memory for three rows: batches of ten go on as fives, then as threes; the answers are those of whole batches."""
    whole = run(world, tmp_path, "method=vtw", "sweep.layer=[1,3]")
    sizes, real, begin = [], batches.answer, SharedLayers.begin

    def small(size):
        sizes.append(size)
        if size > 3:
            raise torch.OutOfMemoryError(CUDA)

    if where == "answer":
        monkeypatch.setattr(batches, "answer", lambda *given: small(len(given[4])) or real(*given))
    else:
        monkeypatch.setattr(SharedLayers, "begin", lambda self, x: small(len(x["input_ids"])) or begin(self, x))
    halved = run(world, tmp_path, "method=vtw", "sweep.layer=[1,3]", out="halved")
    assert sizes[:4] == [10, 5, 3, 2] if where == "answer" else sizes[:3] == [10, 10, 5]
    assert max(sizes[4:] if where == "answer" else [3]) <= 3
    assert halved["scores"] == whole["scores"]
    assert halved["protocol"]["hardware"]["smallest_batch"] == 1
    assert "smallest_batch" not in whole["protocol"]["hardware"]
    assert {key: value for key, value in halved["protocol"].items() if key != "hardware"} == {
        key: value for key, value in whole["protocol"].items() if key != "hardware"
    }


def test_no_memory_for_one_row_is_one_sentence_and_nothing_is_lost(world, tmp_path, monkeypatch):
    def refuse(*given):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes")

    real, done = batches.answer, []
    monkeypatch.setattr(batches, "answer", lambda *given: done.append(1) or (real if len(done) < 3 else refuse)(*given))
    with pytest.raises(UserError, match="out of memory with a single question of task exist"):
        run(world, tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 1 + 2
    monkeypatch.setattr(batches, "answer", real)
    assert run(world, tmp_path)["scores"]["exist"]["fixed"]["n"] == 24


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (MemoryError(), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("this text says out of memory"), False),
    ],
)
def test_what_says_that_memory_is_short(error, short):
    assert is_out_of_memory(error) is short


def spoiled(world, name, **cells):
    """A copy of 150 rows, one of which has other cells."""
    table = pd.read_parquet(tiny.save_task(world / f"{name}.parquet", rows=150)).astype(object)
    for column, cell in cells.items():
        table.at[7, column] = cell
    table.to_parquet(world / f"{name}.parquet", index=False)


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("answer", " ", "row row-007 of task exist has no answer"),
        ("question", None, "row row-007 of task exist has no question"),
        ("image", b"torn", "the image of row row-007 of task exist cannot be read"),
        ("image", None, "row row-007 of task exist has no image"),
    ],
)
def test_a_row_that_cannot_be_asked_is_counted_and_the_others_are_scored(world, tmp_path, column, cell, reason):
    spoiled(world, f"one-{column}", **{column: cell})
    result = run(world, tmp_path, "method=vtw", "sweep.layer=[1,3]", task=f"one-{column}")
    for scores in result["scores"]["exist"].values():
        assert (scores["n"], scores["failed"]) == (149, 1)
    assert result["protocol"]["tasks"]["exist"]["rows"] == 149
    assert reason in result["protocol"]["tasks"]["exist"]["failed"]["row-007"]
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    failed = table[table.failed.notna()]
    assert list(failed.id) == ["row-007", "row-007"]
    assert failed.prediction.isna().all()
    assert failed.correct.isna().all()
    assert table[table.failed.isna()].correct.astype(float).mean() == pytest.approx(
        sum(scores["correct"] for scores in result["scores"]["exist"].values()) / 298
    )
    assert "row-007" not in set(pd.read_parquet(tmp_path / "out" / "trace.parquet").id)


def test_more_than_one_in_a_hundred_is_an_error(world, tmp_path):
    table = pd.read_parquet(tiny.save_task(world / "many.parquet", rows=150))
    table.loc[:1, "answer"] = ""
    table.to_parquet(world / "many.parquet", index=False)
    with pytest.raises(
        UserError, match=r"row row-00\d of task exist has no answer \(2 of 150 rows of task exist fail\)"
    ):
        run(world, tmp_path, task="many")
