"""By whose rules a benchmark is asked and scored: names, wording, the card, and rows on which a protocol fails."""

import json
import re
import shutil

import datasets
import pandas as pd
import pytest
from helpers import benchmark_replicas as replicas
from helpers.benchmark_configs import config, task
from helpers.refused import refused

from thinsight.config.compose import load_config, load_task, to_yaml
from thinsight.errors import UserError
from thinsight.evaluation.protocol import comparable
from thinsight.evaluation.run import evaluate
from thinsight.paths import ROOT
from thinsight.tasks import benchmarks, metrics
from thinsight.tasks.functions import function_name, task_function
from thinsight.tasks.rows import load_rows, run_tasks

NAMES = [*replicas.ALL, "textvqa_plain"]

pytestmark = pytest.mark.usefixtures("alone")


# Names


@pytest.mark.parametrize("name", NAMES)
def test_a_task_knows_its_protocols_and_their_files(name):
    table = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    chosen = load_task(name)
    preferred = {"mmmu": "official"}.get(name, "llava" if "llava" in chosen.protocols else "lmms_eval")
    assert chosen.protocol == preferred
    for protocol, source in chosen.protocols.items():
        metric = task_function(load_config([f"task={name}", f"task.protocol={protocol}"]).task, "metric", metrics)
        assert (metric.func.__module__, metric.func.__name__) == (
            f"thinsight.tasks.scorers.{name.removesuffix('_plain').removesuffix('_cn')}",
            protocol,
        )
        file = source.split()[1].removeprefix("lmms_eval/")
        assert file.strip(",") in table
    assert {*chosen.protocols, *chosen.unavailable} == {"llava", "lmms_eval", "official"}


@pytest.mark.parametrize("name", NAMES)
def test_known_differences_are_sentences_and_stand_in_the_docs(name):
    told = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    differences = load_task(name).differences
    assert differences
    for topic, sentence in differences.items():
        assert sentence.endswith(".")
        assert f"- `{name}`, {topic}: {sentence}\n" in told


@pytest.mark.parametrize("name", NAMES)
def test_a_task_knows_where_its_data_set_was(name):
    """They moved from lmms-lab to lmms-lab-encoder under their names; a commit is written whole or not at all."""
    chosen = load_task(name)
    owner, _, title = chosen.hub.partition("/")
    assert chosen.formerly == (f"lmms-lab/{title}" if owner == "lmms-lab-encoder" else None)
    assert chosen.revision is None or re.fullmatch("[0-9a-f]{40}", chosen.revision)


def test_a_suffix_follows_the_protocol_also_of_a_resolved_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_config(["task=mmbench_cn"])), encoding="utf-8")
    for overrides, source in ((["task=mmbench_cn"], None), ([], path), (["tasks=[mmbench_cn,pope]"], None)):
        for protocol, suffix in (
            ("llava", "\n请直接回答选项字母。"),
            ("lmms_eval", "\n请直接使用所提供的选项字母作为答案回答。"),
        ):
            chosen = run_tasks(load_config([*overrides, f"task.protocol={protocol}"], source))[0]
            assert chosen.suffix == suffix
    with pytest.raises(UserError, match="unknown protocol of task mmbench_cn 'lava': did you mean llava"):
        load_config(["task=mmbench_cn", "task.protocol=lava"])
    chosen = run_tasks(load_config(["task=mmbench_cn", "task.suffix=' Say A.'"]))[0]
    assert chosen.suffix == " Say A."


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task=pope", "task.protocol=lava"], "unknown protocol of task pope 'lava': did you mean llava?"),
        (["task=mme", "task.protocol=lmms-eval"], "unknown protocol of task mme 'lmms-eval': did you mean lmms_eval?"),
        (["task=gqa", "task.protocol=''"], "unknown protocol of task gqa '': known: llava, lmms_eval, official."),
        (["task=scienceqa", "task.protocol=official"], "at random where it reads none; it has llava and lmms_eval."),
        (
            ["task=exist", "task.protocol=llava"],
            "task exist has no protocol llava, only the metric that its file names",
        ),
        (["tasks=[pope,exist]", "task.protocol=llava"], "task exist has no protocol llava"),
        (["tasks=[pope,scienceqa]", "task.protocol=official"], "task scienceqa has no protocol official"),
        (
            ["tasks=[pope,gqa]", "task.protocol=oficial"],
            "unknown protocol of task pope 'oficial': did you mean official?",
        ),
        (["task=pope", "task.protcol=llava"], "did you mean task.protocol"),
    ],
)
def test_a_wrong_protocol_is_one_sentence(overrides, sentence):
    refused(overrides, sentence)


def test_a_protocol_holds_for_all_tasks_of_a_run():
    for protocol in ("lmms_eval", "llava"):
        tasks = run_tasks(load_config(["tasks=[pope,mme,textvqa_plain]", f"task.protocol={protocol}"]))
        assert [function_name(task.metric) for task in tasks] == [protocol] * 3
    tasks = run_tasks(load_config(["tasks=[pope,exist]"]))
    assert [(task.protocol, function_name(task.metric)) for task in tasks] == [("llava", "llava"), ("", "exact")]


def test_the_protocol_of_a_resolved_file_can_still_be_chosen(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_config(["task=pope"])))
    for protocol in ("llava", "official", "lmms_eval"):
        (chosen,) = run_tasks(load_config([f"task.protocol={protocol}"], path))
        assert function_name(chosen.metric) == protocol
        assert function_name(chosen.summary) == f"{protocol}_summary"
    with pytest.raises(UserError, match="unknown protocol of task pope 'lava'"):
        load_config(["task.protocol=lava"], path)


def test_the_card_says_by_whose_rules_a_run_was_scored(world, tmp_path):
    where = ["task=mme", f"task.path={world / 'mme'}", "limit=4"]
    cards = {}
    for name, override in (("llava", "task.protocol=llava"), ("lmms_eval", "task.protocol=lmms_eval")):
        cards[name] = evaluate(config(world, *where, override), tmp_path / name)["protocol"]
        assert cards[name] == json.loads((tmp_path / name / "protocol.json").read_text())
    found = {name: [card["tasks"]["mme"][key] for key in ("protocol", "scorer")] for name, card in cards.items()}
    assert found == {
        "llava": ["llava", "haotian-liu/LLaVA scripts/v1_5/eval/mme.sh (which calls official)"],
        "lmms_eval": ["lmms_eval", "EvolvingLMMs-Lab/lmms-eval lmms_eval/tasks/mme/utils.py"],
    }
    with pytest.raises(UserError, match=r"differ in more than the method: .*mme\.protocol \(llava against lmms_eval\)"):
        comparable(cards["llava"], cards["lmms_eval"])
    other = evaluate(config(world, *where, "task.metric=exact"), tmp_path / "exact")["protocol"]["tasks"]["mme"]
    assert (other["metric"], "protocol" in other) == ("exact", False)  # another metric is nobody's protocol


def test_pockets_own_tasks_have_no_protocol():
    for name in ("exist", "choice", "count", "read", "relation", "attribute", "easyvqa"):
        chosen = load_task(name)
        assert (chosen.protocol, chosen.protocols, function_name(chosen.metric)) == ("", {}, "exact")


# Wording


def test_lmms_eval_words_some_questions_in_its_own_way(world):
    """Against its doc_to_text and post_prompt; what is not named here is asked as LLaVA does."""
    for name in NAMES:
        if "llava" not in load_task(name).protocols:
            continue
        own, llavas = (load_rows(task(world, name, f"task.protocol={p}")) for p in ("lmms_eval", "llava"))
        same = [a.question == b.question for a, b in zip(own, llavas, strict=True)]
        assert not any(same) if name in ("mmbench", "mmbench_cn", "vizwiz", "mmvet") else all(same), name
    rows = {row.id: row for row in load_rows(task(world, "mmbench", "task.protocol=lmms_eval"))}
    options = "There are several options:\nA. green thing\nB. blue thing\nC. red thing\n"
    assert rows["1000241"].question == f"It is not yellow. What is in picture 0? {options}"
    assert rows["1000241"].answers == ("green thing", "blue thing", "red thing", "nan")
    assert rows["242"].question.startswith("What is in picture 1? There are several options:\nA. ")
    rows = {row.id: row for row in load_rows(task(world, "mmbench_cn", "task.protocol=lmms_eval"))}
    assert rows["242"].question.startswith("What is in picture 1? 有如下几个选项：\nA. ")  # noqa: RUF001
    rows = {row.id: row for row in load_rows(task(world, "vizwiz", "task.protocol=lmms_eval"))}
    assert rows["VizWiz_val_00000003"].question == "What is this, number 3?"
    rows = {row.id: row for row in load_rows(task(world, "mmvet", "task.protocol=lmms_eval"))}
    reason = "First please perform reasoning, and think step by step to provide best answer to the following question: "
    assert rows["v1_3"].question == f"{reason}\n\nWhat can be said of thing 3?"


@pytest.mark.parametrize(
    ("name", "question", "llava", "lmms_eval"),
    [
        ("textvqa", "what does ACME say?", "What does ACME say?", "What does acme say?"),
        ("mme", "Is it?  Please answer yes or no.", "Is it?", "Is it? "),
        ("mme", "Is it? Please answer yes or no.", "Is it?", "Is it?"),
        ("pope", "Is it? ", "Is it? ", "Is it?"),
    ],
)
def test_questions_that_protocols_word_differently(name, question, llava, lmms_eval):
    record = {"question": question, "question_id": "OCR/1.png", "category": "OCR", "answer": "yes"}
    record |= {"answers": ["x"] * 10, "ocr_tokens": ["A", "B"]}
    for protocol, worded in (("llava", llava), ("official", llava), ("lmms_eval", lmms_eval)):
        chosen = load_config([f"task={name}", f"task.protocol={protocol}"]).task
        found = task_function(chosen, "reader", benchmarks)(0, record, chosen)["question"]
        assert found == worded + ("\nReference OCR token: A, B" if name == "textvqa" else "")


# Rows that are lost, twice there, or not to be scored


def rewritten(world, name, folder, change):
    """A copy of the benchmark whose rows went through ``change``; the task that reads it."""
    (source,) = [path for path in (world / name).rglob("*.parquet") if "images" not in str(path)]
    shutil.copytree(world / name, folder)
    rows = pd.read_parquet(source).to_dict("records")
    file = folder / source.relative_to(world / name)
    datasets.Dataset.from_list(change(rows), features=datasets.Dataset.from_parquet(str(source)).features).to_parquet(
        file
    )
    return [f"task={name}", f"task.path={folder}"]


def test_a_run_on_mme_with_a_lost_question_leaves_its_picture_out(world, tmp_path):
    where = rewritten(world, "mme", tmp_path / "mme", lambda rows: rows[:-1])
    cell = evaluate(config(world, *where, "limit=null"), tmp_path / "out")["scores"]["mme"]["fixed"]
    assert (cell["n"], cell["summary"]["pairs"], cell["summary"]["left_out"]) == (19, 9, 1)
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())["scores"]["mme"]["fixed"]["summary"]
    assert stored["left_out"] == 1
    kind = "count"
    assert cell["kinds"][kind]["n"] == 2 * (9 // 4) + 1
    rights = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("id")["correct"]
    found = cell["summary"]["kinds"][kind]["accuracy"]
    whole = [rights[key] for key in rights.index if key.split("#")[0] != f"{kind}/0009.png" and key.startswith(kind)]
    assert found == pytest.approx(sum(whole) / len(whole))


@pytest.mark.parametrize("lost", ["241", "1000242", "3000242"])  # the first rotation, one between, the last
def test_a_run_on_mmbench_with_a_lost_rotation_leaves_its_question_out(world, tmp_path, lost):
    where = rewritten(world, "mmbench", tmp_path / "copy", lambda rows: [r for r in rows if r["index"] != lost])
    cell = evaluate(config(world, *where, "limit=null"), tmp_path / "out")["scores"]["mmbench"]["fixed"]
    assert (cell["n"], cell["summary"]["questions"], cell["summary"]["left_out"]) == (19, 5, 1)


def test_a_lost_kind_of_pope_is_named(world, tmp_path):
    where = rewritten(world, "pope", tmp_path / "pope", lambda rows: [r for r in rows if r["category"] != "popular"])
    for protocol in ("llava", "lmms_eval"):
        chosen = config(world, *where, "limit=null", f"task.protocol={protocol}")
        summary = evaluate(chosen, tmp_path / protocol)["scores"]["pope"]["fixed"]["summary"]
        assert summary["missing"] == ["popular"]


@pytest.mark.parametrize("name", replicas.ALL)
def test_a_question_that_is_twice_there_is_refused(world, tmp_path, name):
    """Its picture's two questions would pass for a whole pair in MME, and it would count twice elsewhere."""
    change = (lambda rows: [*rows[:-1], rows[-2]]) if name == "mme" else (lambda rows: [*rows, rows[-1]])
    where = rewritten(world, name, tmp_path / name, change)
    if name in replicas.WITHOUT_IDS:  # the same question may be asked of another picture
        assert len(load_rows(load_config(where).task)) == (22 if name == "refcoco" else 21)
        return
    with pytest.raises(UserError, match=rf"the data of task {name} asks .* twice, word for word\.$"):
        load_rows(load_config(where).task)


def changed(fields):
    return lambda rows: [{**rows[0], **fields}, *rows[1:]]


@pytest.mark.parametrize(
    ("name", "fields", "protocols", "sentence"),
    [
        ("textvqa", {"answers": ["a"] * 9}, ["llava", "official"], "row 34602 of task textvqa has 9 answers where 10"),
        (
            "textvqa_plain",
            {"answers": ["a"] * 11},
            ["llava"],
            "row 34602 of task textvqa_plain has 11 answers where 10",
        ),
        (
            "scienceqa",
            {"choices": list("abcdefghi"), "answer": 8},
            ["llava"],
            "row test-00000 of task scienceqa has the answer I, behind the letters A to E",
        ),
        ("scienceqa", {"choices": ["x"] * 27}, ["llava", "lmms_eval"], "has 27 choices, more than there are letters"),
        ("mme", {"answer": "Maybe"}, ["llava", "lmms_eval", "official"], "'Maybe', which is neither yes nor no"),
        ("pope", {"answer": "1"}, ["llava", "lmms_eval", "official"], "row random-1 of task pope has the answer '1'"),
        (
            "ai2d",
            {"answer": "4"},
            ["lmms_eval"],
            "row test-00000 of task ai2d has the answer '4', which is not the number",
        ),
    ],
)
def test_a_row_on_which_the_source_fails_is_refused_by_name(world, tmp_path, name, fields, protocols, sentence):
    plain = name.removesuffix("_plain")
    where = [*rewritten(world, plain, tmp_path / name, changed(fields)), f"task={name}"][1:]
    for protocol in load_task(name).protocols:
        chosen = load_config([*where, f"task.protocol={protocol}"]).task
        if protocol in protocols:
            with pytest.raises(UserError) as error:
                load_rows(chosen)
            assert sentence in str(error.value)
            assert f"under the protocol {protocol}" in str(error.value)
            assert "\n" not in str(error.value)
        elif "answers" not in fields or protocol == "lmms_eval":
            assert len(load_rows(chosen)) == 20


def test_nine_choices_are_asked_and_scored(world, tmp_path):
    choices = list("stuvwxyza")
    for right, protocols in ((1, ("llava", "lmms_eval")), (8, ("lmms_eval",))):
        folder = tmp_path / str(right)
        where = rewritten(world, "scienceqa", folder, changed({"choices": choices, "answer": right}))
        for protocol in protocols:
            chosen = load_config([*where, f"task.protocol={protocol}"]).task
            row = next(row for row in load_rows(chosen) if row.id == "test-00000")
            assert row.answer == "ABCDEFGHI"[right]
            assert row.question.endswith("H. z\nI. a")
            assert task_function(chosen, "metric", metrics)(row.answer, row.answer) is True


def test_a_blank_answer_of_most_people_does_not_stop_the_task(world, tmp_path):
    where = rewritten(world, "textvqa", tmp_path / "t", changed({"answers": [""] * 8 + ["a", "b"]}))
    row = next(row for row in load_rows(load_config(where).task) if row.id == "34602")
    assert row.answer == "a"
    assert row.answers == ("",) * 8 + ("a", "b")
