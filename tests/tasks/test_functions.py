"""A task's yaml names its functions; a new one needs a yaml and a function anywhere, a wrong name is one sentence."""

import pytest
from helpers import tiny_checkpoint as tiny
from omegaconf import OmegaConf

from thinsight.config.compose import load_config
from thinsight.config.schema import TaskConfig
from thinsight.errors import UserError
from thinsight.evaluation.run import evaluate
from thinsight.tasks import metrics
from thinsight.tasks.functions import function_name, task_function
from thinsight.tasks.rows import run_tasks

MODULE = """
import pandas as pd

def first_letter(prediction, answer, answers=(), case=True):
    a, b = prediction[:1], answer[:1]
    return a == b if case else a.lower() == b.lower()

def lengths(records):
    return {"mean": sum(len(r["prediction"]) for r in records) / len(records)}

def upper(task):
    return pd.read_parquet(task.path).assign(kind="mine")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user, importable as ``my_tasks``."""
    (tmp_path / "my_tasks.py").write_text(MODULE)
    (tmp_path / "broken_tasks.py").write_text("import nothing_like_that\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def task(**fields):
    return OmegaConf.structured(TaskConfig(name="flat", **fields))


def test_a_function_is_named_by_its_dotted_name_or_that_of_the_package(mine):
    for node in ("exact", "thinsight.tasks.metrics.exact", {"_target_": "thinsight.tasks.metrics.exact"}):
        chosen = task(metric=node)
        assert task_function(chosen, "metric", metrics)("Yes", "yes") is True
        assert function_name(chosen.metric) == "exact"
    strict, lax = (task(metric={"_target_": "my_tasks.first_letter", "case": case}) for case in (True, False))
    assert task_function(strict, "metric", metrics)("Yes", "yes") is False
    assert task_function(lax, "metric", metrics)("Yes", "yes") is True


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("task.metric=exakt", "unknown metric of task exist 'exakt': did you mean exact"),
        ("task.metric=thinsight.tasks.metrics.exakt", "did you mean thinsight.tasks.metrics.exact"),
        (
            "task.metric=my_task.exact",
            "the metric my_task.exact of task exist cannot be imported: No module named 'my_t",
        ),
        ("task.metric=broken_tasks.exact", "cannot be imported: No module named 'nothing_like_that'"),
        ("task.metric=null", "task exist names no metric"),
        (
            "task.summary=points",
            "did you mean thinsight.tasks.scorers.mme.points?",
        ),
        ("task.metric=thinsight.tasks.scorers.mme.lava", "did you mean thinsight.tasks.scorers.mme.llava or"),
        ("task.reader=poep", "unknown reader of task exist 'poep': did you mean pope"),
        ("task.kind=hob", "unknown kind of task exist 'hob': did you mean hub"),
    ],
)
def test_a_wrong_name_is_one_sentence_before_anything_runs(mine, override, sentence):
    with pytest.raises(UserError) as error:
        run_tasks(load_config(["task=exist", override]))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_with_functions_of_a_user(mine):
    tiny.save_model(mine / "model")
    tiny.save_task(mine / "flat.parquet", rows=6)
    names = {"kind": "my_tasks.upper", "metric": "my_tasks.first_letter", "summary": "{_target_:my_tasks.lengths}"}
    where = [f"model.checkpoint={mine / 'model'}", "task=exist", f"task.path={mine / 'flat.parquet'}"]
    result = evaluate(load_config([*where, *(f"task.{key}={name}" for key, name in names.items())]), mine / "out")
    cell = result["scores"]["exist"]["fixed"]
    assert list(cell["kinds"]) == ["mine"]
    assert list(cell["summary"]) == ["mean"]
    assert result["protocol"]["tasks"]["exist"]["metric"] == "first_letter"
