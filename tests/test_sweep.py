"""Free sweeps: Hydra hands out jobs, and each is the run that ``thinsight evaluate`` makes of the same words."""

import importlib.util
import json
import sys

import pandas as pd
import pytest
from helpers import tiny_checkpoint as tiny
from hydra.core.config_store import ConfigStore

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation.run import evaluate
from thinsight.sweep import combinations, main

FILES = ("metrics.json", "predictions.parquet", "trace.parquet", "curve.csv", "protocol.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    tiny.save_task(folder / "flat.parquet", rows=6)
    return folder


def words(world, *more):
    return [f"model.checkpoint={world / 'model'}", "task=exist", f"task.path={world}/flat.parquet", *more]


def test_every_combination_is_the_run_of_its_words(world, tmp_path, capsys):
    store, line = dict(ConfigStore.instance().repo), list(sys.argv)
    swept = ["method=vtw", "method.layer=1,2", "sweep.layer=[1,3],[2]", "task.suffix=' Say it.'"]
    main(["-m", *words(world, *swept), f"hydra.sweep.dir={tmp_path / 'jobs'}"])
    assert (ConfigStore.instance().repo, sys.argv) == (store, line)
    table = pd.read_csv(tmp_path / "jobs" / "scores.csv")
    assert list(table["budget"]) == ["layer=1", "layer=3", "layer=2"] * 2
    assert list(table["job"]) == [0, 0, 1, 2, 2, 3]
    assert table["words"].iloc[-1] == "method.layer=2 ++sweep.layer=[2]"
    assert str(table["score"].iloc[0]) in capsys.readouterr().out
    own = ["method=vtw", "method.layer=2", "sweep.layer=[1,3]", "task.suffix=' Say it.'"]
    evaluate(load_config(words(world, *own)), tmp_path / "alone")
    for file in FILES:
        assert (tmp_path / "jobs" / "2" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def test_one_job_and_a_job_that_fails(world, tmp_path):
    main([*words(world, "method=random"), f"hydra.run.dir={tmp_path / 'one'}"])
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["method"] == "random"
    with pytest.raises(UserError, match=r"jobs without a result in .*two: method\.layer=9: layer 9 is out of range"):
        main(["-m", *words(world, "method=vtw", "method.layer=9,1"), f"hydra.sweep.dir={tmp_path / 'two'}"])
    assert (tmp_path / "two" / "1" / "metrics.json").is_file()  # the other goes on


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["-m", "method=vtw,fastw"], "unknown method 'fastw': did you mean fastv"),
        (["-m", "method=vtw", "method.layer=1,2", "lmit=3"], "unknown config key 'lmit': did you mean limit"),
        (["-m", "method=vtw", "method.lyer=1,2"], "did you mean method.layer"),
        (["method=vtw,fastv"], "names several values"),
        (["-m", "task.suffix=a=b"], 'stands in quotes, task.suffix="a=b"'),
        (["-m", "shard=0/2,1/2"], "a job is a whole run: leave shard= out"),
        (["-m", "hydra/launcher=jobib"], "Could not find 'hydra/launcher/jobib'"),
        (["-m", "hydra.lancher.n_jobs=2"], "hydra.lancher"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_any_job_begins(tmp_path, monkeypatch, line, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        main(line)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_values_that_a_sweeper_draws_are_left_to_the_jobs():
    assert combinations(["method=vtw", "method.layer=range(1,3)"]) == [
        ["method=vtw", "method.layer=1"],
        ["method=vtw", "method.layer=2"],
    ]
    assert combinations(["method=random", "method.keep=interval(0.1,0.9)"]) == []


@pytest.mark.skipif(
    importlib.util.find_spec("joblib") is None
    or importlib.util.find_spec("hydra_plugins") is None
    or importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="hydra-joblib-launcher is not installed",
)
def test_jobs_side_by_side_by_joblib(world, tmp_path):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'jobs'}"]
    main(["-m", *words(world, "method=vtw", "method.layer=1,2"), *launcher])
    evaluate(load_config(words(world, "method=vtw", "method.layer=2")), tmp_path / "alone")
    for file in FILES:
        assert (tmp_path / "jobs" / "1" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
