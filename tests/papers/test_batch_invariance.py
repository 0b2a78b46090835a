"""Questions asked alone against what a run has answered in batches."""

import pandas as pd
import pytest

from thinsight import load_model
from thinsight.config.compose import load_config
from thinsight.evaluation.run import evaluate
from thinsight.papers.batch_invariance import flipped_answers

FIELDS = {"random": {"keep": 0.1111}, "vtw": {"layer": 4}, "vtw_random_tokens": {"layer": 4}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "runs"
    sweeps = {"random": "sweep.keep=[0.1111,0.2222] sweep.seed=[0,1]", "vtw": "sweep.layer=[4,8]"}
    sweeps["vtw_random_tokens"] = "sweep.seed=[0]"  # at another budget than the one that is asked for
    for name, sweep in sweeps.items():
        config = load_config(f"run={name} method={name} tasks=[exist,read] limit=6 {sweep}")
        evaluate(config, folder / name, folder / f"{name}.jsonl")
    return folder


def test_answers_alone_and_in_a_batch(runs):
    model, processor = load_model("pocket")
    found = flipped_answers(model, processor, FIELDS, runs, each=2).set_index("method")
    assert found.index.tolist() == ["random", "vtw"]
    assert found.answers.tolist() == [4, 4]
    assert found.flipped.tolist() == [0, 0]


def test_another_answer_is_counted(runs):
    file = runs / "vtw" / "predictions.parquet"
    table = pd.read_parquet(file)
    first = (table.task == "read") & (table.budget == '{"layer": 4}')
    assert first.sum() == 6
    table.loc[first, "prediction"] = "another"
    table.to_parquet(file)
    found = flipped_answers(*load_model("pocket"), {"vtw": {"layer": 4}}, runs, each=3)
    assert found.flipped.tolist() == [3]
    assert found.answers.tolist() == [6]
