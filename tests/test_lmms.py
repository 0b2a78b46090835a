"""lmms-eval: what our side of it does is tested always, whole evaluations where lmms-eval is installed."""

import io
import json
import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from helpers import tiny_checkpoint as tiny
from PIL import Image

from thinsight.analysis.results import load_scores
from thinsight.config.compose import load_config, load_task
from thinsight.config.methods import load_method
from thinsight.costs.flops import decoder_shape
from thinsight.errors import UserError, command
from thinsight.evaluation.protocol import LMMS_EVAL, comparable
from thinsight.lmms import INSTALL, answers
from thinsight.lmms.__main__ import main, split_tasks
from thinsight.lmms.answers import Answerer
from thinsight.lmms.requests import MAX_NEW_TOKENS, Request, batches, by_pictures, cut, read_request
from thinsight.lmms.results import cell, commit, metric_names, scored
from thinsight.models.loading import load_model
from thinsight.paths import ROOT
from thinsight.tasks.rows import chat_inputs, collate, load_rows, prompt_text

RED, BLUE = Image.new("RGB", (28, 28), "red"), Image.new("RGB", (28, 28), "blue")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model and 12 questions."""
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    tiny.save_task(folder / "flat.parquet", rows=12)
    return folder


@pytest.fixture(scope="module")
def loaded(world):
    return load_model(load_config([f"model.checkpoint={world / 'model'}"]))


@pytest.fixture
def task(world):
    task = load_task("exist")
    task.path, task.suffix = str(world / "flat.parquet"), " yes"
    return task


def requests_of(rows, task):
    """The questions of our own task, as lmms-eval would ask them."""
    settings = {"max_new_tokens": task.max_new_tokens, "temperature": 0, "do_sample": False, "until": ["\n\n"]}
    documents = {"exist": {"test": rows}}
    return [
        read_request(
            (row.question + task.suffix, settings, lambda row: [row.image], number, "exist", "test"), documents
        )
        for number, row in enumerate(rows)
    ]


def answerer(loaded, method="vtw", **more):
    return Answerer(*loaded, load_method(method, **({"layer": 2} if method == "vtw" else {})), batch_size=4, **more)


def test_prompts_pixels_and_ids_are_those_of_our_own_tasks(loaded, task):
    _, processor = loaded
    rows = load_rows(task)
    asked, mine = requests_of(rows, task), answerer(loaded)
    assert mine._prompt(asked[0], asked[0].pictures()) == prompt_text(processor, rows[0], task)
    inputs = chat_inputs(processor, [mine._turn(request, request.pictures()) for request in asked])
    expected = collate(processor, rows, task)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_prompts_of_pocket_are_those_of_its_tasks():
    model = load_config(["model=pocket"])
    task, processor = load_task("exist"), load_model(model)[1]
    row = load_rows(task, 1)[0]
    (request,) = requests_of([row], task)
    turn = [{"role": "user", "content": request.content(request.pictures(), processor.image_token)}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    assert text == prompt_text(processor, row, task)


@pytest.mark.parametrize("method", ["identity", "vtw"])
def test_answers_are_those_of_our_own_evaluation(loaded, task, method):
    model, processor = loaded
    rows = load_rows(task)
    mine = answerer(loaded, method)
    told = mine.answer(requests_of(rows, task))
    for number, row in enumerate(rows):
        inputs = collate(processor, [row], task)
        (record,) = answers.answer(model, processor, mine.method, inputs, [row], task)
        found = mine.records["exist"][str(number)]
        assert told[number] == found["prediction"] == record["prediction"]
        assert all(found[name] == record[name] for name in ("generated", "picture", "visual", "lengths", "kept"))


def test_a_batch_is_of_one_task_and_limit_and_of_like_lengths():
    texts = ["a b c", "a", "a b", "a b c d", "a"]
    some = [Request("one", str(n), text, list) for n, text in enumerate(texts)]
    some += [Request("two", "0", "a", list), Request("one", "9", "a", list, max_new_tokens=7)]
    found = list(batches(some, 2, lambda text: len(text.split())))
    assert [[(r.task, r.id) for r in batch] for batch in found] == [
        [("one", "1"), ("one", "4")],
        [("one", "2"), ("one", "0")],
        [("one", "3")],
        [("two", "0")],
        [("one", "9")],
    ]


def test_settings_of_a_task():
    read = partial(read_request, documents={"t": {"test": ["row"]}})
    plain = read(("q", {"until": ["\n\n"], "temperature": 0, "top_p": 1.0, "num_beams": None}, list, 0, "t", "test"))
    assert (plain.max_new_tokens, plain.stops, plain.sampling) == (MAX_NEW_TOKENS, (), {})
    settings = {"until": "ASSISTANT:", "max_new_tokens": 16, "temperature": 0.2, "do_sample": True}
    other = read(("q", settings, list, 0, "t", "test"))
    assert (other.max_new_tokens, other.stops) == (16, ("ASSISTANT:",))
    assert other.sampling == {"temperature": 0.2, "do_sample": True}
    assert read(("q", {"until": ["", "\n", "\n\n"]}, list, 0, "t", "test")).stops == ("\n",)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("yes\nno", ("\n",), "yes"),
        ("yes. It is", ("It", "."), "yes"),
        ("yes", ("\n", "."), "yes"),
        ("yes", (), "yes"),
        (". yes", (".",), ""),
    ],
)
def test_an_answer_ends_at_its_first_stop_string(text, stops, expected):
    assert cut(text, stops) == expected


def test_stop_strings_end_the_models_answers(loaded, task):
    asked = requests_of(load_rows(task), task)
    whole = answerer(loaded).answer(asked)
    word = next(text.split()[1] for text in whole if len(text.split()) > 1)
    assert answerer(loaded).answer([replace(r, stops=(word,)) for r in asked]) == [cut(text, (word,)) for text in whole]
    assert any(word in text for text in whole)


def kinds(content):
    return [part["text"] if part["type"] == "text" else part["image"] for part in content]


@pytest.mark.parametrize(
    ("text", "pictures", "expected"),
    [
        ("is it?", [RED], [RED, "is it?"]),
        ("is it?", [RED, BLUE], [RED, BLUE, "is it?"]),
        ("is it?", [], ["is it?"]),
        ("is <image> like <image>?", [RED, BLUE], ["is ", RED, " like ", BLUE, "?"]),
        ("<image>\nis it?", [RED], [RED, "\nis it?"]),
    ],
)
def test_pictures_stand_where_the_text_says_or_in_front(text, pictures, expected):
    assert kinds(Request("t", "0", text, list).content(pictures, "<image>")) == expected


def test_places_without_pictures_are_refused():
    with pytest.raises(UserError, match="row 3 of lmms-eval's task t has 2 places for 1 pictures"):
        Request("t", "3", "<image> or <image>", list).content([RED], "<image>")
    with pytest.raises(UserError, match="holds the placeholder <image> itself"):
        Request("t", "3", "what is <image>?", list).content([], "<image>")
    with pytest.raises(UserError, match="shows a str: Thinsight reduces pictures, no videos"):
        Request("t", "3", "what?", lambda: ["film.mp4"]).pictures()


def test_none_one_and_two_pictures_a_question(loaded):
    pictures = {"0": [], "1": [RED], "2": [RED, BLUE], "3": [BLUE], "4": []}
    asked = [Request("t", key, "is there a red circle", lambda p=p: p, 4) for key, p in pictures.items()]
    mine = answerer(loaded)
    mine.answer(asked)
    found = mine.records["t"]
    assert {key: record["picture"] for key, record in found.items()} == {"0": 0, "1": 4, "2": 8, "3": 4, "4": 0}
    assert found["2"]["visual"] == [8, 8, 0, 0]
    parts = list(by_pictures([(request, request.pictures()) for request in asked]))
    assert [[request.id for request, _ in part] for part in parts] == [["0", "4"], ["1", "3"], ["2"]]


def test_a_question_asked_again_is_answered_once(loaded, task, monkeypatch):
    asked = requests_of(load_rows(task, 2), task)
    sizes = count_rows(monkeypatch)
    told = answerer(loaded).answer([*asked, *asked])
    assert told[:2] == told[2:]
    assert sum(sizes) == 2


def count_rows(monkeypatch, fails=lambda rows: False):
    """The sizes of the batches that the model answers; those that fail are out of memory."""
    sizes, real = [], answers.answer

    def counting(model, processor, method, inputs, rows, task):
        if fails(rows):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(rows))
        return real(model, processor, method, inputs, rows, task)

    monkeypatch.setattr(answers, "answer", counting)
    return sizes


def test_a_batch_that_does_not_fit_is_halved(loaded, task, monkeypatch):
    asked = requests_of(load_rows(task, 8), task)
    whole = answerer(loaded).answer(asked)
    sizes = count_rows(monkeypatch, fails=lambda rows: len(rows) > 2)
    assert answerer(loaded).answer(asked) == whole
    assert sizes == [2, 2, 2, 2]
    count_rows(monkeypatch, fails=lambda rows: True)
    with pytest.raises(UserError, match=r"out of memory with row \d+ of lmms-eval's task exist alone"):
        answerer(loaded).answer(asked)


def test_a_killed_evaluation_goes_on_from_its_journal(loaded, task, monkeypatch, tmp_path):
    asked = requests_of(load_rows(task), task)
    whole = answerer(loaded).answer(asked)
    calls = []

    def dies(rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        count_rows(patch, fails=dies)
        first = answerer(loaded, identity="x", folder=tmp_path)
        with pytest.raises(KeyboardInterrupt):
            first.answer(asked)
        first.close()
    with monkeypatch.context() as patch:
        sizes = count_rows(patch)
        again = answerer(loaded, identity="x", folder=tmp_path)
        assert again.answer(asked) == whole
        assert sizes == [4]
        again.close()
    painted = [replace(r, visuals=lambda: [BLUE]) if r.id == "0" else r for r in asked]
    with monkeypatch.context() as patch:  # another picture: the batch that it is in is answered anew
        sizes = count_rows(patch)
        other = answerer(loaded, identity="x", folder=tmp_path)
        other.answer(painted)
        assert sizes == [4]
        other.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_removes_nothing_is_found_out(loaded, task):
    asked = requests_of(load_rows(task, 2), task)
    mine = replace(answerer(loaded), method=load_method("random", keep=1.0))
    with pytest.raises(UserError, match="removed no visual token"):
        mine.answer(asked)


def samples(marks):
    return [{"doc_id": n, "target": ["yes", "y"], "exact_match": mark} for n, mark in enumerate(marks)]


def test_scores_of_rows_are_lmms_evals(loaded, task):
    mine = answerer(loaded)
    mine.answer(requests_of(load_rows(task, 4), task))
    shape, size, records = decoder_shape(loaded[0]), 4, mine.records["exist"]
    scores = {"alias": "exist", "exact_match,none": 0.75, "exact_match_stderr,none": "N/A"}
    assert metric_names(scores, samples([1, 0])) == ["exact_match"]
    rows = scored(records, samples([1.0, 0.0, 1.0, 1.0]), ["exact_match"])
    assert [row["correct"] for row in rows] == [True, False, True, True]
    assert (rows[1]["answer"], rows[1]["prediction"]) == ('["yes", "y"]', records["1"]["prediction"])
    made = cell(rows, shape, size, scores)
    assert (made["accuracy"], made["n"], made["visual_tokens"]) == (0.75, 4, [4, 4, 0, 0])
    assert made["summary"] == {"lmms_eval": {"exact_match,none": 0.75}}
    filtered = [*samples([1.0, 0.0, 1.0, 1.0]), *samples([0.0, 0.0, 0.0, 0.0])]  # by a second filter
    assert scored(records, filtered, ["exact_match"]) == rows
    shares = scored(records, samples([0.3, 0.0, 1.0, 1.0]), ["exact_match"])
    assert cell(shares, shape, size, scores)["accuracy"] == pytest.approx(0.575)
    mappings = scored(records, samples([{"score": 1}, {"score": 0}, {"score": 0}, {"score": 0}]), ["exact_match"])
    assert cell(mappings, shape, size, scores)["accuracy"] == 0.25


@pytest.mark.parametrize("marks", [[7.0, 1.0], [{"answer": "yes"}, {"answer": "no"}], [float("nan"), 1.0]])
def test_a_task_that_scores_no_single_rows_has_no_accuracy(loaded, task, marks):
    mine = answerer(loaded)
    mine.answer(requests_of(load_rows(task, 2), task))
    rows = scored(mine.records["exist"], samples(marks), ["exact_match"])
    made = cell(rows, decoder_shape(loaded[0]), 4, {"CIDEr,none": 0.9})
    assert (made["accuracy"], made["correct"], made["interval"]) == (None, None, [None, None])
    assert (made["n"], made["summary"]) == (2, {"lmms_eval": {"CIDEr,none": 0.9}})


def test_runs_of_two_protocols_are_not_compared():
    ours = {"model": {"name": "x"}, "tasks": {}}
    theirs = {**ours, "protocol": LMMS_EVAL}
    for pair in [(ours, theirs), (theirs, ours)]:
        with pytest.raises(UserError, match="cannot be compared: one has the lmms-eval protocol"):
            comparable(*pair)
    comparable(theirs, theirs)


def test_the_card_names_the_commit_of_a_data_set():
    """`datasets` keeps what it made of a repository below its commit, and of files below a hash of 64 signs."""
    made = [("lmms-lab-encoder___pope/default", "ab" * 20), ("parquet/default-ce5047d5d66c6d3c", "ab" * 32)]
    files = [[{"filename": f"/cache/datasets/{name}/0.0.0/{key}/pope-test.arrow"}] for name, key in made]
    assert [commit(SimpleNamespace(cache_files=found)) for found in files] == ["ab" * 20, None]
    assert commit(None) is None


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["thinsight.lmms", *arguments])
    with pytest.raises(SystemExit) as stop:
        command(main)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_where_it_is_missing_one_sentence_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    text = refused(monkeypatch, capsys, "tasks=pope")
    assert text.startswith("error: lmms-eval cannot be imported (")
    assert text.endswith(f": install it by `{INSTALL}`\n")
    assert (ROOT / INSTALL.split()[-1]).is_file()
    assert text.count("\n") == 1


def test_names_of_tasks_are_lmms_evals_and_the_rest_is_ours(monkeypatch, capsys):
    assert split_tasks(["tasks=[pope,mme]", "method=vtw"]) == (["pope", "mme"], ["method=vtw"])
    assert split_tasks(["limit=3", "tasks=mmbench_en_dev"]) == (["mmbench_en_dev"], ["limit=3"])
    assert "name tasks of lmms-eval" in refused(monkeypatch, capsys, "method=vtw")
    assert "task=pope is about Thinsight's own tasks" in refused(monkeypatch, capsys, "tasks=mme", "task=pope")
    assert "did you mean vtw?" in refused(monkeypatch, capsys, "tasks=mme", "method=vtww")


# What follows needs lmms-eval itself.

UTILS = """
import io
from PIL import Image

def pictures(doc):
    return [Image.open(io.BytesIO(doc["image"])).convert("RGB")]
"""

YAML = """
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_visual: !function utils.pictures
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
generation_kwargs: {{max_new_tokens: 4, temperature: 0, do_sample: false}}
metadata: {{version: 1.0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true}}
"""

ROWS = 12


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory):
    """A folder with tasks of lmms-eval's kind over the first questions of pocket's own task ``exist``."""
    pytest.importorskip("lmms_eval.evaluator", reason=f"lmms-eval is not installed: {INSTALL}")
    folder = tmp_path_factory.mktemp("tasks")
    rows = load_rows(load_task("exist"), ROWS)
    table = pd.DataFrame([{"id": row.id, "question": row.question, "answer": row.answer} for row in rows])
    table.assign(image=[png(row.image) for row in rows]).to_parquet(folder / "exist.parquet")
    (folder / "utils.py").write_text(UTILS)
    choices = 'doc_to_choice: ["yes", "no"]'
    for name, kind, more in [
        ("pocket_exist", "generate_until", ""),
        ("pocket_likelihood", "multiple_choice", choices),
    ]:
        text = YAML.format(name=name, kind=kind, data=folder / "exist.parquet", more=more)
        (folder / f"{name}.yaml").write_text(text)
    return SimpleNamespace(folder=folder, rows=rows)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """lmms-eval and `datasets` write there."""
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("LMMS_EVAL_HOME", str(tmp_path / "lmms"))


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_lmms_eval_scores_a_reduced_model(own_tasks):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from thinsight.lmms.model import Thinsight

    model = Thinsight("pocket", "fastv", batch_size=4, keep=0.25)
    manager = TaskManager("ERROR", include_path=str(own_tasks.folder))
    for _ in range(2):  # the same object again
        found = simple_evaluate(model=model, tasks=["pocket_exist"], task_manager=manager, bootstrap_iters=0)
    records = model.answerer.records["pocket_exist"]
    right = [records[str(n)]["prediction"].lower() == row.answer for n, row in enumerate(own_tasks.rows)]
    assert found["results"]["pocket_exist"]["exact_match,none"] == sum(right) / ROWS > 0.5
    assert all(record["visual"][-1] < record["picture"] for record in records.values())
    with pytest.raises(UserError, match="asks for the likelihood of given answers"):
        simple_evaluate(model=model, tasks=["pocket_likelihood"], task_manager=manager, bootstrap_iters=0)


def test_the_command_lands_a_run_that_our_own_code_lists(own_tasks, tmp_path, capsys):
    out = tmp_path / "runs" / "vtw"
    line = ["tasks=pocket_exist", "method=vtw", "sweep.layer=[2,6]", "batch_size=5"]
    main([*line, f"--include={own_tasks.folder}", f"--out={out}"])
    result = json.loads(capsys.readouterr().out)
    assert list(result["scores"]["pocket_exist"]) == ["layer=2", "layer=6"]
    table = load_scores(out.parent)
    assert list(table["budget"]) == ["layer=2", "layer=6"]
    assert table["visual"].is_monotonic_increasing
    told = pd.read_parquet(out / "predictions.parquet")
    assert list(told["id"]) == [str(n) for n in range(ROWS)] * 2
    assert list(told["answer"]) == [row.answer for row in own_tasks.rows] * 2
    assert (told["prediction"].str.lower() == told["answer"]).tolist() == told["correct"].tolist()
    card = json.loads((out / "protocol.json").read_text())
    assert card["protocol"] == card["tasks"]["pocket_exist"]["protocol"] == LMMS_EVAL
    assert card["tasks"]["pocket_exist"]["prompt"].endswith(f"{own_tasks.rows[0].question} ASSISTANT:")
    assert card["versions"]["lmms_eval"]
    assert card["tasks"]["pocket_exist"]["version"] == "1.0"
    ours = json.loads((ROOT / "data/runs/vtw/protocol.json").read_text())
    with pytest.raises(UserError, match="one has the lmms-eval protocol"):
        comparable(card, ours)


def test_its_answers_are_those_of_our_own_evaluation(own_tasks, tmp_path, capsys):
    main(["tasks=pocket_exist", "batch_size=1", f"--include={own_tasks.folder}", f"--out={tmp_path}"])
    capsys.readouterr()
    told = pd.read_parquet(tmp_path / "predictions.parquet")
    model, processor = load_model(load_config([]))
    task, plain = load_task("exist"), load_method("identity")
    for row, prediction in zip(own_tasks.rows, told["prediction"], strict=True):
        (record,) = answers.answer(model, processor, plain, collate(processor, [row], task), [row], task)
        assert prediction == record["prediction"]


def test_an_unknown_task_of_it_is_one_sentence(own_tasks, monkeypatch, capsys):
    text = refused(monkeypatch, capsys, "tasks=pocket_exits", f"--include={own_tasks.folder}")
    assert text.endswith("error: unknown task of lmms-eval 'pocket_exits': did you mean pocket_exist?\n")


def test_the_command_runs_in_one_process(own_tasks, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    text = refused(monkeypatch, capsys, "tasks=pocket_exist", f"--include={own_tasks.folder}")
    assert text.endswith(
        "error: this command runs in one process: start lmms-eval itself for several (docs/lmms-eval.md)\n"
    )


def test_a_task_that_cannot_be_loaded_is_one_sentence(own_tasks, monkeypatch, capsys):
    for name, sentence in [
        ("broken", "needs more packages (No module named 'no_such_package')"),
        ("gone", "gave up on"),
    ]:
        (own_tasks.folder / f"{name}.py").write_text("import no_such_package\n")
        text = YAML.format(name=name, kind="generate_until", data=own_tasks.folder / "gone.parquet", more="")
        text = text.replace("utils.pictures", "broken.pictures") if name == "broken" else text
        (own_tasks.folder / f"{name}.yaml").write_text(text)
        told = refused(monkeypatch, capsys, f"tasks={name}", f"--include={own_tasks.folder}")
        assert sentence in told.splitlines()[-1]


def test_lmms_eval_finds_us_by_our_entry_point(own_tasks):
    if not any(found.name == "thinsight" for found in entry_points(group="lmms_eval.models")):
        pytest.skip("this installation of thinsight is older than its entry point: install it again")
    from lmms_eval.models import get_model

    from thinsight.lmms.model import Thinsight

    kind = get_model("thinsight")
    assert kind is Thinsight
    made = kind.create_from_arg_string("model=pocket,method=vtw,layer=3", {"batch_size": 2})
    assert (made.batch_size, made.answerer.method.fields["layer"]) == (2, 3)
    with pytest.raises(UserError, match="batch_size is a whole number from 1, not auto"):
        kind(batch_size="auto")
