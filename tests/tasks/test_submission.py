"""Files for the servers of benchmarks whose answers are not public, and for judges; what is not scored is no 0."""

import json

import datasets
import pandas as pd
import pytest
from helpers import benchmark_replicas as replicas
from helpers.benchmark_configs import config, task

from thinsight.analysis.results import load_answers, load_scores
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluate import summary
from thinsight.evaluation.run import evaluate
from thinsight.evaluation.score_table import score_table
from thinsight.ledger.ledger import ledger
from thinsight.tasks import rows
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
    sent = [str(tmp_path / "sent" / f"{name}-keep={keep}.json") for keep in (1, 2)]
    assert capsys.readouterr().out.split() == sent
    (cell,) = {json.dumps([c["accuracy"], c["interval"], c["kinds"]]) for c in result["scores"][name].values()}
    assert cell == "[null, [null, null], {}]"  # and not 0
    asked = load_rows(load_config(where[:-1]).task, 6)
    assert {(row.answer, row.answers, row.kind) for row in asked} == {("not public", (), "all")}
    for keep in (1, 2):
        lines = json.loads((tmp_path / "sent" / f"{name}-keep={keep}.json").read_text())
        if name == "vqav2":
            assert [line["question_id"] for line in lines] == [int(row.id) for row in asked]
        else:
            assert [line["image"] for line in lines] == [f"{row.id}.jpg" for row in asked]
        assert all(set(line) == {"answer", "question_id" if name == "vqav2" else "image"} for line in lines)


def test_answers_are_sent_in_the_form_of_the_scorer(tmp_path):
    table = {"task": ["vqav2"] * 2, "budget": ["{}"] * 2, "id": ["7", "9"], "prediction": ["The two dogs.", "No"]}
    pd.DataFrame(table).to_parquet(tmp_path / "predictions.parquet")
    expected = [{"question_id": 7, "answer": "2 dogs"}, {"question_id": 9, "answer": "no"}]
    (text,) = submission_files(tmp_path, "vqav2").values()
    assert json.loads(text) == expected
    assert list(submission_files(tmp_path, "vqav2")) == ["vqav2-fixed.json"]


@pytest.mark.parametrize("name", ["vqav2", "vizwiz"])
def test_what_only_a_server_can_score_is_not_scored_here(hidden, name):
    chosen = load_config([f"task={name}", f"task.path={hidden / name}", "task.split=test"]).task
    with pytest.raises(
        UserError, match=rf"of task {name} has no answers, .*: task.metric=unscored asks it all the same"
    ):
        load_rows(chosen)


def test_what_cannot_be_sent_is_one_sentence(tmp_path, capsys):
    with pytest.raises(UserError, match="task gqa has no server or judge whose file is known here"):
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
    assert capsys.readouterr().out.startswith(
        "usage: python -m thinsight.tasks.submission RUN TASK FOLDER [override...]:"
    )


# Judges


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    """A run on the two benchmarks that judges score, and on one that a rule scores."""
    folder = tmp_path_factory.mktemp("judged")
    names = [*replicas.JUDGED, "pope"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "datasets"))
        patch.setattr(rows, "load_task", lambda name: task(world, name))
        overrides = [
            "run=run",
            f"tasks=[{','.join(names)}]",
            "task.max_new_tokens=4",
            "method=random",
            "sweep.keep=[1,2]",
        ]
        result = evaluate(config(world, *overrides, "limit=null"), folder / "run", folder / "journal")
    return folder / "run", result


def test_answers_for_a_judge_are_not_scored(judged):
    run, result = judged
    for name in replicas.JUDGED:
        card = result["protocol"]["tasks"][name]
        assert (card["metric"], card["protocol"]) == ("llava", "llava")
        for cell in result["scores"][name].values():
            assert (cell["n"], cell["correct"], cell["accuracy"], cell["interval"]) == (20, None, None, [None, None])
            assert cell["prefill_flops"]["profiler"] > 0
    assert all(0 <= cell["accuracy"] <= 1 for cell in result["scores"]["pope"].values())
    stored = json.loads((run / "metrics.json").read_text())
    assert stored["scores"]["mmvet"]["keep=1"]["accuracy"] is None
    table = pd.read_parquet(run / "predictions.parquet")
    assert set(table[table["correct"].isna()]["task"]) == set(replicas.JUDGED)
    assert table["correct"].dtype == "boolean"
    assert len(pd.read_parquet(run / "trace.parquet")) == len(table) == 2 * 3 * 20
    curve = pd.read_csv(run / "curve.csv")
    assert set(curve[curve["accuracy"].isna()]["task"]) == set(replicas.JUDGED)
    shown = score_table(result, None).splitlines()
    assert sum("not scored" in line for line in shown) == 4
    assert not [line for line in shown if "mmvet" in line and "%" in line.split("not scored")[0]]
    alone = {**result, "scores": {"mmvet": {"fixed": result["scores"]["mmvet"]["keep=1"]}}}
    assert (summary(alone)["score"], summary(alone)["interval"]) == (None, [None, None])


def test_what_is_not_scored_is_in_no_table_of_scores(judged):
    run, _ = judged
    assert set(load_scores(run.parent)["task"]) == set(load_answers(run.parent)["task"]) == {"pope"}
    assert not load_answers(run.parent)["correct"].isna().any()
    line = {"paper": "P", "table": "T", "model": "LLaVA-1.5-7B", "method": "vanilla", "column": "MM-Vet", "unit": "%"}
    table = pd.DataFrame([{**line, "value": "31", "number": 31.0, "source": "own paper"}])
    frame = ledger(table, load_scores(run.parent), load_answers(run.parent), every=table)
    assert (frame["score"][0], frame["measured"][0]) == ("needs the model", None)
    assert frame["why"][0] == "MM-Vet is scored by a judge, GPT-4: only answers are written for it here"


def test_the_judges_files(world, judged, tmp_path):
    run, _ = judged
    said = pd.read_parquet(run / "predictions.parquet")
    for name in replicas.JUDGED:
        main([str(run), name, str(tmp_path), f"task.path={world / name}"])
        own = said[(said["task"] == name) & (said["budget"] == json.dumps({"keep": 2}))].set_index("id")["prediction"]
        if name == "mmvet":
            assert json.loads((tmp_path / "mmvet-keep=2.json").read_text()) == own.to_dict()
            assert set(own.index) == {f"v1_{i}" for i in range(20)}
            continue
        lines = [json.loads(line) for line in (tmp_path / "llava_w-keep=2.jsonl").read_text().splitlines()]
        assert [line["question_id"] for line in lines] == list(range(20))  # its script goes line by line
        assert [line["prompt"] for line in lines] == [f"Describe thing {i}." for i in range(20)]
        assert {str(line["question_id"]): line["text"] for line in lines} == own.to_dict()
        assert {line["model_id"] for line in lines} == {"llava_1_5_7b-random"}
        assert {len(line["answer_id"]) for line in lines} == {22}
        assert len({line["answer_id"] for line in lines}) == 20


def test_numbers_without_letters_get_them_and_lost_answers_are_empty(tmp_path):
    table = {"task": ["mmvet"] * 2, "budget": ["{}"] * 2, "id": ["0", "v1_1"], "prediction": ["A cat.", None]}
    pd.DataFrame(table).to_parquet(tmp_path / "predictions.parquet")
    (text,) = submission_files(tmp_path, "mmvet").values()
    assert json.loads(text) == {"v1_0": "A cat.", "v1_1": ""}


def test_a_file_that_the_judge_would_misread_is_refused(world, tmp_path):
    table = {"task": ["llava_w"], "budget": ["{}"], "id": ["7"], "prediction": ["A cat."]}
    pd.DataFrame(table).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(
        UserError, match=r"^the run lacks 19 of 20 questions of llava_w, .*: ask all of them, limit=null"
    ):
        submission_files(tmp_path, "llava_w", [f"task.path={world / 'llava_w'}"])
