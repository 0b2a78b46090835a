"""Many runs at once: the same results as one by one, to the byte; what fails does not stop the others."""

import os

import pytest
from helpers import tiny_checkpoint as tiny

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation import campaign as module
from thinsight.evaluation import run as run_module
from thinsight.evaluation.campaign import Campaign
from thinsight.evaluation.run import Run, evaluate

RUNS = {
    "plain": ["method=identity"],
    "vtw": ["method=vtw", "sweep.layer=[1,3]"],
    "random": ["method=random", "sweep.keep=[1,2]", "sweep.seed=[0,1]"],
    "few": ["method=vtw", "method.layer=2", "limit=7"],
    "fastv": ["method=fastv", "method.keep=2"],
}
FILES = ("metrics.json", "predictions.parquet", "trace.parquet", "curve.csv", "protocol.json")


@pytest.fixture(autouse=True)
def journals(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "JOURNALS", tmp_path / "journals")


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    world = tmp_path_factory.mktemp("world")
    tiny.save_model(world / "model")
    tiny.save_task(world / "flat.parquet", rows=24)
    where = [f"model.checkpoint={world / 'model'}", "task=exist", f"task.path={world}/flat.parquet", "batch_size=5"]
    return {name: load_config([*where, f"run={name}", *more]) for name, more in RUNS.items()}


@pytest.fixture(scope="module")
def alone(configs, tmp_path_factory):
    """A folder with the result of each run, one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    for name, config in configs.items():
        evaluate(config, folder / name, folder / f"{name}.jsonl")
    return folder


@pytest.mark.parametrize("jobs", [1, 2])
def test_runs_together_give_what_each_gives_alone(configs, alone, tmp_path, monkeypatch, jobs):
    campaign = Campaign.open(configs)
    assert campaign.done == 0
    told = list(campaign.compute(jobs, [["vtw", "plain"]]))
    assert not campaign.failures
    assert campaign.done == campaign.total == 24 * (1 + 2 + 4 + 1) + 7
    runs = [message.run for message in told if message.records is not None]
    assert set(runs[:9]) == {"vtw", "plain"}  # of three budgets of five batches; two processes overlap in the end
    assert "random" in runs[-9:]
    campaign.close()
    monkeypatch.setattr(Run, "answer", lambda *_: pytest.fail("computed again"))
    for name, config in configs.items():
        evaluate(config, tmp_path / "together" / name)
        for file in FILES:
            assert (tmp_path / "together" / name / file).read_bytes() == (alone / name / file).read_bytes()


def test_a_killed_campaign_goes_on_where_it_stopped(configs):
    campaign = Campaign.open(configs)
    messages = campaign.compute()
    while campaign.done < 60:
        next(messages)
    campaign.close()
    done, again = campaign.done, Campaign.open(configs)
    assert again.done == done
    answered = sum(len(message.records) for message in again.compute() if message.records is not None)
    assert answered == again.total - done
    again.close()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_is_named_and_the_others_go_on(configs, jobs):
    broken = configs["vtw"].copy()
    broken.sweep = {"layer": [1, 4]}  # the model has four layers: at 4 nothing would leave
    absent = configs["vtw"].copy()
    absent.model.checkpoint = "nowhere"
    campaign = Campaign.open({**configs, "broken": broken, "absent": absent})
    assert "nowhere" in campaign.failures["absent"]
    list(campaign.compute(jobs))
    assert set(campaign.failures) == {"absent", "broken"}
    assert "removed no visual token" in campaign.failures["broken"]
    assert all(campaign.is_full(name) for name in RUNS)
    campaign.close()


def test_a_process_that_dies_is_one_sentence(configs, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setattr(Run, "answer", lambda *_: os._exit(9))
    campaign = Campaign.open({"plain": configs["plain"]})
    with pytest.raises(UserError, match=r"died \(exit status 9\), perhaps for want of memory"):
        list(campaign.compute(2))
    campaign.close()
