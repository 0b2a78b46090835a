"""Files for the servers of benchmarks whose answers are not public."""

import json

import datasets
import pandas as pd
import pytest
from helpers import benchmark_replicas as replicas
from helpers.benchmark_configs import config

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation.run import evaluate
from thinsight.tasks.rows import load_rows
from thinsight.tasks.submission import main, submission_files

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def hidden(world, tmp_path):
    """Copies of VQAv2 and VizWiz with a split without answers."""
    for name in ("vqav2", "vizwiz"):
        (source,) = (world / name).rglob("*.parquet")
        features = datasets.Dataset.from_parquet(str(source)).features
        secret = {"answers": None, "multiple_choice_answer": None, "answer_type": None, "category": None}
        rows = [row | {key: None for key in secret if key in row} for row in pd.read_parquet(source).to_dict("records")]
        (tmp_path / name).mkdir()
        replicas.save(tmp_path / name, rows, features)
    return tmp_path


@pytest.mark.parametrize("name", ["vqav2", "vizwiz"])
def test_answers_of_a_run_become_the_servers_file(world, hidden, tmp_path, capsys, name):
    where = [f"task={name}", f"task.path={hidden / name}", "task.split=test", "task.metric=unscored", "limit=6"]
    result = evaluate(config(world, *where, "method=random", "sweep.keep=[1,2]"), tmp_path / "run")
    card = result["protocol"]["tasks"][name]
    assert (card["metric"], "protocol" in card) == ("unscored", False)
    main([str(tmp_path / "run"), name, str(tmp_path / "sent")])
    assert capsys.readouterr().out.count(": 6 answers") == 2
    rows = load_rows(load_config(where[:-1]).task, 6)
    assert {(row.answer, row.answers, row.kind) for row in rows} == {("not public", (), "all")}
    for keep in (1, 2):
        lines = json.loads((tmp_path / "sent" / f"{name}-keep={keep}.json").read_text())
        if name == "vqav2":
            assert [line["question_id"] for line in lines] == [int(row.id) for row in rows]
        else:
            assert [line["image"] for line in lines] == [f"{row.id}.jpg" for row in rows]
        assert all(set(line) == {"answer", "question_id" if name == "vqav2" else "image"} for line in lines)


def test_answers_are_sent_in_the_form_of_the_scorer(tmp_path):
    table = {"task": ["vqav2"] * 2, "budget": ["{}"] * 2, "id": ["7", "9"], "prediction": ["The two dogs.", "No"]}
    pd.DataFrame(table).to_parquet(tmp_path / "predictions.parquet")
    expected = [{"question_id": 7, "answer": "2 dogs"}, {"question_id": 9, "answer": "no"}]
    assert submission_files(tmp_path, "vqav2") == {"vqav2-fixed.json": expected}


@pytest.mark.parametrize("name", ["vqav2", "vizwiz"])
def test_what_only_a_server_can_score_is_not_scored_here(hidden, name):
    chosen = load_config([f"task={name}", f"task.path={hidden / name}", "task.split=test"]).task
    with pytest.raises(
        UserError, match=rf"of task {name} has no answers, .*: task.metric=unscored asks it all the same"
    ):
        load_rows(chosen)


def test_what_cannot_be_sent_is_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="task gqa has no server whose file is known here"):
        submission_files(tmp_path, "gqa")
    with pytest.raises(UserError, match="task exist has no server"):
        submission_files(tmp_path, "exist")
    with pytest.raises(UserError, match="unknown task 'vqa2': did you mean vqav2"):
        submission_files(tmp_path, "vqa2")
    with pytest.raises(UserError, match=r"holds no finished run: it has no predictions.parquet\.$"):
        submission_files(tmp_path, "vqav2")
    pd.DataFrame({"task": ["pope"], "budget": ["{}"], "id": ["a"], "prediction": ["b"]}).to_parquet(
        tmp_path / "predictions.parquet"
    )
    with pytest.raises(UserError, match=r"unknown task of the run .* 'vizwiz': known: pope"):
        submission_files(tmp_path, "vizwiz")
    main([])
    assert capsys.readouterr().out.startswith("usage: python -m thinsight.tasks.submission RUN TASK FOLDER: write the")
