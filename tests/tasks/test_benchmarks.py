"""The benchmarks that papers report, on local copies of twenty rows and a tiny model saved as on the hub: data,
prompts, scores, the plan of a run, and what is said of a benchmark or a model that is not there."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub.constants
import huggingface_hub.errors
import pandas as pd
import pytest
from helpers import benchmark_replicas as replicas
from helpers.benchmark_configs import config, task
from omegaconf import OmegaConf

import thinsight.evaluation.dry_run
from thinsight.analysis.results import load_answers, load_scores
from thinsight.config.compose import load_config, load_task, to_yaml
from thinsight.errors import UserError
from thinsight.evaluate import main
from thinsight.evaluation import run as module
from thinsight.evaluation.dry_run import task_presence
from thinsight.evaluation.run import evaluate
from thinsight.models.loading import load_processor, meta_model
from thinsight.tasks import mini
from thinsight.tasks import rows as rows_module
from thinsight.tasks.hub import provenance
from thinsight.tasks.rows import collate, load_rows, prompt_text, rows_digest, training_task

NAMES = [*replicas.ALL, "textvqa_plain"]
FIRST = ["pope", "gqa", "textvqa", "scienceqa", "mmbench", "mme"]
COMPARED = [*FIRST, "mmmu", "textvqa_plain"]  # what is scored together, soft scores, several pictures
OTHERS = [name for name in NAMES if name not in (*COMPARED, *replicas.JUDGED)]
PROMPTS = Path(__file__).parent / "benchmark_prompts.txt"
COGNITION = {"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"}


pytestmark = pytest.mark.usefixtures("alone")


# Data and prompts


def test_every_copy_is_read_whole_and_in_an_order_of_its_own(world):
    for name in NAMES:
        rows = load_rows(task(world, name))
        assert len({row.id for row in rows}) == len(rows) == 20, name
        assert [row.id for row in rows] != sorted(row.id for row in rows)
        assert all(row.image.mode == "RGB" and row.image.size == (48, 32) for row in rows)
        again = load_rows(task(world, name), 20)
        assert [row.id for row in again] == [row.id for row in rows]
        assert rows_digest(again) == rows_digest(rows)


def test_a_limit_never_parts_what_is_scored_together(world):
    for name, size in (("mme", {2}), ("mmbench", {2, 3, 4}), ("mmbench_cn", {2, 3, 4})):
        rows = load_rows(task(world, name), 5)
        assert 5 <= len(rows) <= 8
        whole = [row.group for row in load_rows(task(world, name))]
        assert {whole.count(row.group) for row in rows} <= size
        assert all(whole.count(group) == [row.group for row in rows].count(group) for group in {r.group for r in rows})
    assert len(load_rows(task(world, "pope"), 5)) == 5


def test_columns_mean_what_the_benchmark_means(world):
    rows = {name: {row.id: row for row in load_rows(task(world, name))} for name in NAMES}
    assert rows["pope"]["popular-3"].kind == "popular"
    assert (rows["pope"]["random-1"].answer, rows["pope"]["random-2"].answer) == ("yes", "no")
    assert (rows["gqa"]["200000003"].answer, rows["gqa"]["200000003"].kind) == ("orange", "compare")
    assert rows["textvqa"]["34602"].answers == ("no 0",) * 8 + ("0 0", "1 0")
    assert rows["textvqa"]["34602"].answer == "no 0"
    assert (rows["scienceqa"]["test-00003"].answer, rows["scienceqa"]["test-00003"].kind) == ("B", "social science")
    assert rows["scienceqa"]["test-00003"].question.startswith(
        "Context: The picture shows 3 things.\nLook at it.\nWhich"
    )
    assert rows["scienceqa"]["test-00002"].question.startswith("Which thing")
    first, turned = rows["mmbench"]["242"], rows["mmbench"]["1000242"]
    assert (first.group, turned.group, first.answer, turned.answer) == ("242", "242", "A", "D")
    assert first.question.count("\n") == 4  # no hint, four choices
    assert rows["mmbench"]["241"].question.count("\n") == 4  # a hint, three choices
    pair = [row for row in rows["mme"].values() if row.group == "count/0001.png"]
    assert sorted(row.answer for row in pair) == ["No", "Yes"]
    assert {row.id for row in pair} == {"count/0001.png", "count/0001.png#2"}
    assert (rows["vqav2"]["1001"].answer, rows["vqav2"]["1001"].kind) == ("green", "number")
    assert rows["vqav2"]["1001"].answers == ("green",) * 8 + ("blue",) * 2
    assert rows["vizwiz"]["VizWiz_val_00000000"].answer == rows["vizwiz"]["VizWiz_val_00000000"].kind == "unanswerable"
    assert rows["mmbench_cn"].keys() == rows["mmbench"].keys()
    assert (rows["seed"]["102"].answer, rows["seed"]["102"].kind) == ("C", "dimension 3")
    assert not {"100", "106", "112", "118"} & rows["seed"].keys()  # videos
    assert (rows["mmstar"]["4"].answer, rows["mmstar"]["4"].kind) == ("A", "math: statistical reasoning")
    assert (rows["ai2d"]["test-00006"].answer, rows["ai2d"]["test-00006"].question.count("\n")) == ("C", 4)
    assert rows["ocrbench"]["test-00004"].answers == ("HME100k", "x ^ 4")
    assert rows["ocrbench"]["test-00003"].answer == "Word 3"
    assert json.loads(rows["refcoco"]["val-00002-1"].answer) == [12 / 48, 4 / 32, 36 / 48, 14 / 32]
    assert rows["refcoco"]["val-00002-0"].question.endswith("the region this sentence describes: thing 2")
    assert (rows["mmmu"]["validation_Art_5"].answer, rows["mmmu"]["validation_Art_5"].answers) == ("2.5", ())
    assert rows["mmmu"]["validation_Computer_Science_2"].kind == "Computer_Science"
    assert rows["mmmu"]["validation_Computer_Science_2"].answers[1] == "a box's lid"


def test_gqa_shows_the_picture_that_its_question_names(world):
    row = next(row for row in load_rows(task(world, "gqa")) if row.id == "200000007")
    assert row.picture.encoded() == replicas.picture(2)["bytes"]


def test_several_pictures_stand_in_front_of_their_question(world):
    """As its text or its choices name them; a picture that they do not name is not shown."""
    chosen = task(world, "mmmu")
    rows = {row.id: row for row in load_rows(chosen)}
    row = rows["validation_Computer_Science_4"]
    shown = [row.picture, *row.further]
    assert [picture.encoded() for picture in shown] == [replicas.picture(3 + n)["bytes"] for n in (1, 2)]
    assert [image.size for image in row.images] == [(48, 32), (48, 32)]
    assert not rows["validation_Art_1"].further
    processor = load_processor(config(world).model)
    assert prompt_text(processor, row, chosen).count("<image>") == 2
    batch = collate(processor, [row, rows["validation_Art_1"]], chosen)
    assert (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum(1).tolist() == [8, 4]
    assert len(batch["pixel_values"]) == 3
    assert rows_digest([row]) != rows_digest([replace(row, further=())])


def test_prompts_are_those_of_each_protocol(world):
    """A snapshot of the whole prompt of each benchmark's first row, and that of the row without hint or OCR words; of a
    protocol that words them differently, that of the first row."""
    processor, parts = load_processor(config(world).model), []
    for name in NAMES:
        seen = set()
        for protocol in dict.fromkeys([load_task(name).protocol, *load_task(name).protocols]):
            chosen = task(world, name, f"task.protocol={protocol}")
            rows = sorted(load_rows(chosen), key=lambda row: row.id)[: 1 if seen else 2]
            texts = {row.id: prompt_text(processor, row, chosen) for row in rows}
            parts += [f"== {name} {protocol} {key}\n{text}\n" for key, text in texts.items() if text not in seen]
            seen |= set(texts.values())
    assert "".join(parts) == PROMPTS.read_text(encoding="utf-8")


def test_ocr_is_a_switch(world):
    shown, hidden = (load_rows(task(world, "textvqa", f"task.reader.ocr={on}")) for on in ("true", "false"))
    for with_words, without in zip(shown, hidden, strict=True):
        question, words = with_words.question.split("\nReference OCR token: ")
        assert question == without.question
        assert words in ("", f"NO, {int(without.id) - 34602}")
    plain = load_rows(task(world, "textvqa_plain"))
    assert [row.question for row in plain] == [row.question for row in hidden]


# Runs


def run_all(world, folder, tasks, **methods):
    """Runs of all of ``tasks``, one for each method; where they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(world / "datasets"))
        patch.setattr(rows_module, "load_task", lambda name: task(world, name))
        for run, method in methods.items():
            chosen = config(world, *method, f"run={run}", f"tasks=[{','.join(tasks)}]")
            for one in chosen.tasks:
                assert load_task(one).max_new_tokens == 128  # LLaVA's; here eight, see helpers.benchmark_configs
            evaluate(chosen, folder / run, folder / "journal")
    return folder


@pytest.fixture(scope="module")
def ran(world, tmp_path_factory):
    """Two runs: the plain model and half of the tokens at random."""
    methods = {"plain": ["method=identity"], "random": ["method=random", "sweep.keep=[2]"]}
    return run_all(world, tmp_path_factory.mktemp("runs"), COMPARED, **methods)


@pytest.fixture(scope="module")
def others(world, tmp_path_factory):
    """A run of the plain model on the other benchmarks."""
    return run_all(world, tmp_path_factory.mktemp("others"), OTHERS, plain=["method=identity"])


def cells(ran, run="plain", budget="fixed"):
    found = json.loads((ran / run / "metrics.json").read_text())["scores"]
    return {name: cell[budget] for name, cell in found.items()}


def lines(ran, name, run="plain"):
    table = pd.read_parquet(ran / run / "predictions.parquet")
    return json.loads(table[table["task"] == name].to_json(orient="records"))


def test_all_benchmarks_run_from_end_to_end(ran, others):
    for folder, run, tasks, budget in (
        (ran, "plain", COMPARED, "fixed"),
        (ran, "random", COMPARED, "keep=2"),
        (others, "plain", OTHERS, "fixed"),
    ):
        found = cells(folder, run, budget)
        assert list(found) == tasks
        assert all(cell["n"] == 20 for cell in found.values())
        assert all(0 <= cell["interval"][0] <= cell["accuracy"] <= cell["interval"][1] <= 1 for cell in found.values())
    assert cells(ran)["pope"]["picture_tokens"] == 4
    assert cells(ran, "random", "keep=2")["pope"]["visual_tokens"] == [2.0] * 4
    with (ran / "random" / "curve.csv").open() as file:
        assert [line["task"] for line in csv.DictReader(file)] == COMPARED


def test_a_question_with_two_pictures_has_the_tokens_of_both(ran):
    for run in ("plain", "random"):
        table = pd.read_parquet(ran / run / "trace.parquet")
        table = table[table["task"] == "mmmu"].set_index("id")
        assert set(table["picture"]) == {4, 8}
        assert set(table.loc[table["picture"] == 8].index) == {
            f"validation_Computer_Science_{i}" for i in range(4, 21, 4)
        }


def test_the_runs_are_read_and_compared_like_any_others(ran):
    table = load_scores(ran)
    assert set(table["task"]) == set(COMPARED)
    assert len(load_answers(ran)) == 2 * 20 * len(COMPARED)
    card = json.loads((ran / "plain" / "protocol.json").read_text())
    assert card["processor"]["image"]["do_pad"] is True
    assert card["tasks"]["textvqa"]["source"] == {
        "hub": "lmms-lab-encoder/textvqa", "revision": None, "files": ["data/validation-*.parquet"], "ocr": True,
    }  # fmt: skip
    assert {name: card["tasks"][name]["protocol"] for name in COMPARED} == {
        name: load_task(name).protocol for name in COMPARED
    }
    assert card["tasks"]["pope"]["scorer"] == "haotian-liu/LLaVA llava/eval/eval_pope.py"
    assert card["tasks"]["textvqa"]["prompt"].startswith("A chat between a curious user and an artificial")


def test_pope_is_f1_over_its_three_kinds(ran):
    cell, f1s = cells(ran)["pope"], []
    for kind in ("adversarial", "popular", "random"):
        counts = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
        for line in (line for line in lines(ran, "pope") if line["kind"] == kind):
            words = line["prediction"].split(".")[0].replace(",", "").split(" ")
            yes = not ("No" in words or "no" in words or "not" in words)
            counts[("t" if yes == (line["answer"] == "yes") else "f") + ("p" if yes else "n")] += 1
        f1s.append(2 * counts["tp"] / (2 * counts["tp"] + counts["fp"] + counts["fn"]))
        assert cell["summary"]["kinds"][kind]["f1"] == pytest.approx(f1s[-1])
        right = (counts["tp"] + counts["tn"]) / sum(counts.values())
        assert cell["summary"]["kinds"][kind]["accuracy"] == cell["kinds"][kind]["accuracy"] == pytest.approx(right)
    assert cell["summary"]["f1"] == pytest.approx(sum(f1s) / 3)
    assert cell["summary"]["printed"] == {"POPE": 100 * cell["summary"]["f1"]}


def test_mme_is_points_for_questions_and_for_pictures(ran):
    cell = cells(ran)["mme"]
    found = {"perception": 0.0, "cognition": 0.0}
    table = pd.DataFrame(lines(ran, "mme"))
    table["picture"] = table["id"].str.split("#").str[0]
    for kind, group in table.groupby("kind"):
        pairs = group.groupby("picture")["correct"].agg(["mean", "min", "size"])
        assert set(pairs["size"]) == {2}
        part = "cognition" if kind in COGNITION else "perception"
        found[part] += 100 * (pairs["mean"].mean() + pairs["min"].mean())
    assert {key: cell["summary"][key] for key in found} == pytest.approx(found)
    assert cell["summary"]["printed"]["MME"] == pytest.approx(sum(found.values()))
    assert cell["summary"]["printed"]["MME-P"] == pytest.approx(found["perception"])


def test_mmbench_counts_questions_right_in_every_rotation(ran):
    cell = cells(ran)["mmbench"]
    groups: dict[int, list[bool]] = {}
    for line in lines(ran, "mmbench"):
        groups.setdefault(int(line["id"]) % 10**6, []).append(bool(line["correct"]))
    assert cell["summary"]["questions"] == len(groups) == 6
    assert cell["summary"]["circular"] == sum(map(all, groups.values())) / 6


def test_summaries_say_what_papers_print(ran, others):
    found = cells(ran) | cells(others)
    printed = {name: list(cell["summary"]["printed"]) for name, cell in found.items() if "summary" in cell}
    assert printed == {
        "pope": ["POPE"], "mmbench": ["MMBench"], "mme": ["MME", "MME-P", "MME-C"], "mmbench_cn": ["MMBench-CN"],
        "mmstar": ["MMStar"], "ocrbench": ["OCRBench"], "refcoco": ["RefCOCO"],
    }  # fmt: skip
    assert found["refcoco"]["summary"]["without_box"] == 20  # the tiny model draws none


def test_soft_scores_are_means_and_yes_and_no_stay_so(ran, others):
    where = dict.fromkeys(("textvqa", "gqa", "scienceqa", "mmmu"), ran)
    for name, folder in {**where, **dict.fromkeys(("vqav2", "vizwiz", "seed", "ai2d"), others)}.items():
        cell, own = cells(folder)[name], lines(folder, name)
        assert "summary" not in cell
        assert cell["accuracy"] == pytest.approx(sum(line["correct"] for line in own) / 20)
        assert cell["correct"] == pytest.approx(sum(line["correct"] for line in own))
    assert pd.read_parquet(ran / "plain" / "predictions.parquet")["correct"].dtype == float


# The plan


def planned(capsys, *arguments):
    main([*arguments, "--dry-run"])
    return json.loads(capsys.readouterr().out)


def test_the_plan_of_a_run_on_a_gpu_needs_nothing_but_shapes(capsys, monkeypatch):
    names = ",".join(FIRST)
    monkeypatch.setattr(module, "evaluate", None)  # nothing may be run
    plan = planned(
        capsys,
        "model=llava_1_5_7b",
        "method=cdpruner",
        "sweep=budgets",
        "preset=full",
        f"tasks=[{names}]",
        "--tflops=100",
    )
    assert [plan["load"]["tasks"][name]["rows"] for name in FIRST] == [9000, 12578, 5000, 2017, 4329, 2374]
    assert plan["take"]["answers"] == 3 * 35298
    assert plan["take"]["generated_tokens_at_most"] == 3 * 35298 * 128
    parameters = sum(p.numel() for p in meta_model("llava_1_5_7b").parameters())
    assert plan["need"]["weights_gb"] == pytest.approx(2 * parameters / 1e9, rel=1e-3)
    tokens = 576 + 64 + 128
    assert plan["need"]["kv_cache_gb"] == pytest.approx(32 * 2 * 4096 * 2 * 32 * tokens / 1e9, rel=1e-3)
    pflop = plan["take"]["pflop"]
    steps = 3 * 128 * sum(-(-rows // 32) for rows in (9000, 12578, 5000, 2017, 4329, 2374))
    cache = plan["need"]["kv_cache_gb"] * (576 + 64) / tokens
    decoding = steps * ((plan["need"]["weights_gb"] + cache) / 1000 + 32 * 1e-4)  # at 1000 GB/s
    seconds = (pflop["prefill"] + pflop["vision"]) / 0.1 + decoding
    assert plan["take"]["hours_estimated"] == pytest.approx(seconds / 3600, rel=1e-3)
    assert plan["assumptions"][0].startswith("hours are an estimate, not a bound: the device is taken to sustain 100 ")
    missing = ["model llava_1_5_7b", "the text tower of", *(f"task {name}" for name in FIRST)]
    for sentence, start in zip(plan["missing"], missing, strict=True):
        assert sentence.startswith(start)
        assert "the hub cannot be reached as " in sentence


def test_the_plan_counts_flops_as_cost_does(world, capsys):
    where = [f"task.path={world / 'pope'}", f"model.checkpoint={world / 'model'}", "model.dtype=float32"]
    plan = planned(capsys, "task=pope", "method=vtw", "sweep.layer=[1,2]", "model.architecture=null", *where)
    assert plan["missing"] == []
    assert plan["load"]["model"]["where"] == plan["load"]["tasks"]["pope"]["where"] == "local"
    assert plan["take"]["rows"] == 20  # of the copy, not of the benchmark
    layer = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # of one token: q, o; k, v; the gated MLP
    count = 0
    for cut in (1, 2):
        lengths = [68] * cut + [64] * (4 - cut)
        count += sum(n * layer + 4 * n * n * 32 for n in lengths) + 2 * 32 * 18  # and the head on one row
    assert plan["take"]["pflop"]["prefill"] == pytest.approx(20 * count / 1e15, rel=1e-3)
    assert plan["need"]["disk_gb"] == 0


def test_the_plan_names_what_is_missing_and_refuses_what_is_wrong(world, capsys, tmp_path):
    plan = planned(capsys, "task=pope", f"task.path={tmp_path}", f"model.checkpoint={tmp_path / 'none'}")
    weights, data = plan["missing"]
    assert weights.startswith("model pocket has no weights at")
    assert data.startswith("task pope finds no data/test-*.parquet in")
    assert plan["need"] is plan["take"] is None  # pocket's shape stands with its weights
    with pytest.raises(UserError, match="method vtw cannot reach kept=500"):
        main(["method=vtw", "sweep.kept=[500]", "--dry-run"])
    with pytest.raises(UserError, match="a number from 1e-06"):
        main(["--dry-run", "--tflops=0"])


def test_a_plan_with_a_limit_takes_less(world, capsys):
    where = [f"task.path={world / 'mme'}", f"model.checkpoint={world / 'model'}", "task=mme"]
    assert planned(capsys, *where, "limit=6")["take"]["rows"] == 6
    assert thinsight.evaluation.dry_run.dry_run(load_config([*where, "limit=null"]))["take"]["rows"] == 20


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_counts_the_rows_that_a_run_asks(world, monkeypatch, name):
    """Videos among SEED's lines and phrases of RefCOCO's regions as well, without a look at a picture."""
    monkeypatch.setattr(mini, "ROWS", 9)
    for *fields, limit in (
        (None,),
        (7,),
        ("first=6", None),
        ("selection=mini", None),
        ("selection=mini", "first=14", 5),
    ):
        chosen = task(world, name, *(f"task.{field}" for field in fields))
        asked = len(load_rows(chosen, limit))
        with monkeypatch.context() as patch:
            patch.setattr("thinsight.tasks.sources._pictures", None)
            place = task_presence(chosen, limit)
        assert (place.where, place.rows, place.rows_by) == ("local", asked, "counted in its files"), place.missing


def test_the_plan_says_which_numbers_of_rows_are_estimates(capsys):
    plan = planned(capsys, "model=llava_1_5_7b", "tasks=[pope,seed,refcoco]", "limit=null")
    tasks = plan["load"]["tasks"]
    assert [tasks[name]["rows"] for name in ("pope", "seed", "refcoco")] == [9000, 14233, 25000]
    assert tasks["pope"]["rows_by"] == "the data set's card"
    for name in ("seed", "refcoco"):
        assert tasks[name]["rows_by"] == f"about, by {load_task(name).rows_about}"
    told = [sentence for sentence in plan["assumptions"] if " rows, by " in sentence]
    assert [sentence.split(" rows")[0] for sentence in told] == [
        "task seed has about 14233",
        "task refcoco has about 25000",
    ]
    plan = planned(capsys, "model=llava_1_5_7b", "tasks=[pope,seed,refcoco]", "preset=mini")
    assert [place["rows"] for place in plan["load"]["tasks"].values()] == [500] * 3
    assert not [sentence for sentence in plan["assumptions"] if "about" in sentence]
    assert planned(capsys, "model=llava_1_5_7b", "task=gqa", "task.first=30", "limit=null")["take"]["rows"] == 30


def test_the_plan_finds_a_copy_under_the_id_that_a_data_set_had(world, monkeypatch, tmp_path):
    chosen = load_task("pope")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    copy = tmp_path / "datasets--lmms-lab--POPE"
    shutil.copytree(world / "pope", copy / "snapshots" / chosen.revision)
    (copy / "refs").mkdir()
    place = task_presence(chosen, 12)
    assert (place.where, place.rows, place.missing) == ("cached", 12, None)


def test_the_plan_of_a_task_that_is_no_benchmark(capsys, tmp_path):
    assert planned(capsys, "task=exist", "limit=9")["load"]["tasks"]["exist"]["rows"] == 9
    assert planned(capsys, "task=easyvqa", "limit=5")["take"]["rows"] == 5
    (told,) = planned(capsys, "task=exist", "task.selection=mini")["missing"]
    assert told == "task exist has no selection mini: it is no benchmark, take limit=500."


# What is not there


@pytest.mark.parametrize("name", ["mme", "refcoco", "textvqa_plain"])
def test_a_hub_that_cannot_be_reached_is_one_sentence(name):
    hub = load_task(name).hub
    sentence = f"task {name} cannot be fetched from the hub as {hub} .it cannot be reached.*: set task.path"
    with pytest.raises(UserError, match=sentence) as e:
        load_rows(load_task(name))
    assert "\n" not in str(e.value)


def test_missing_files_and_foreign_columns_are_one_sentence(world, tmp_path):
    with pytest.raises(
        UserError, match=r"task pope has no data at .*gone: it is to be a folder with a copy of lmms-lab-encoder/POPE"
    ):
        load_rows(load_config(["task=pope", f"task.path={tmp_path / 'gone'}"]).task)
    with pytest.raises(UserError, match=r"task mme finds no data/test-\*\.parquet in "):
        load_rows(load_config(["task=mme", f"task.path={world / 'gqa'}"]).task)
    where = shutil.copytree(world / "scienceqa" / "ScienceQA-IMG", tmp_path / "odd" / "data").parent
    with pytest.raises(
        UserError, match="has no column question_id, so it is not lmms-lab-encoder/POPE as it is read here"
    ):
        load_rows(load_config(["task=pope", f"task.path={where}"]).task)
    rows = [{"question_id": "a", "image": replicas.picture(0), "question": "Q", "answer": 1, "category": "OCR"}]
    columns = {"question_id": replicas.TEXT, "image": replicas.PICTURE, "question": replicas.TEXT}
    replicas.save(tmp_path / "odd2", rows, columns | {"answer": replicas.NUMBER, "category": replicas.TEXT})
    with pytest.raises(UserError, match=r"column answer of the data of task mme holds .*int64.*, not text"):
        load_rows(load_config(["task=mme", f"task.path={tmp_path / 'odd2'}"]).task)
    torn = shutil.copytree(world / "pope", tmp_path / "torn")
    (file,) = torn.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"the data of task pope in .*torn is not readable parquet"):
        load_rows(load_config(["task=pope", f"task.path={torn}"]).task)
    with pytest.raises(UserError, match="unknown reader of task pope 'poep': did you mean pope"):
        load_rows(task(world, "pope", "task.reader=poep"))


def test_a_row_without_its_picture_is_named(tmp_path):
    rows = [
        {"question_id": "OCR/1.png", "image": None, "question": "Q?", "answer": "Yes", "category": "OCR"},
        {"question_id": "OCR/1.png", "image": {"bytes": b"torn"}, "question": "R?", "answer": "No", "category": "OCR"},
    ]
    names = ("question_id", "question", "answer", "category")
    where = replicas.save(tmp_path, rows, dict.fromkeys(names, replicas.TEXT) | {"image": replicas.PICTURE})
    found = {row.id: row for row in load_rows(load_config(["task=mme", f"task.path={where}"]).task)}
    with pytest.raises(UserError, match=r"row OCR/1.png of task mme has no image"):
        _ = found["OCR/1.png"].image
    with pytest.raises(UserError, match=r"the image of row OCR/1.png#2 of task mme cannot be read"):
        _ = found["OCR/1.png#2"].image


def test_a_region_whose_picture_has_no_size_is_named(world, tmp_path):
    """Boxes are shares of the picture's width and height."""
    (source,) = (world / "refcoco").rglob("*.parquet")
    features = datasets.Dataset.from_parquet(str(source)).features
    for picture, sentence in ((None, "has no image"), ({"bytes": b"torn", "path": "a.png"}, "cannot be read")):
        rows = pd.read_parquet(source).to_dict("records")
        rows[1]["image"] = picture
        folder = replicas.save(tmp_path / sentence, rows, features, split="val")
        with pytest.raises(UserError, match=rf"line 2 \(the first is 1\) of task refcoco.* {sentence}"):
            load_rows(load_config(["task=refcoco", f"task.path={folder}"]).task)


def in_the_cache(hub, copy, *commits):
    """A copy of a data set in the hub's cache under several commits, the last the newest."""
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"datasets--{hub.replace('/', '--')}"
    for commit in commits:
        shutil.copytree(copy, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commits[-1])


def test_a_copy_in_the_hubs_cache_is_used_without_the_hub(world, capsys):
    pinned, newest = load_task("mme").revision, "0123456789abcdef0123456789abcdef01234567"
    in_the_cache("lmms-lab-encoder/MME", world / "mme", pinned, newest)
    for override, commit in (([], pinned), (["task.revision=null"], newest), ([f"task.revision={newest}"], newest)):
        chosen = load_config(["task=mme", *override]).task
        assert len(load_rows(chosen)) == 20
        found = provenance(chosen)
        assert (found["hub"], found["revision"]) == ("lmms-lab-encoder/MME", commit)
    plan = planned(capsys, "task=mme", f"model.checkpoint={world / 'model'}")
    assert (plan["load"]["tasks"]["mme"]["where"], plan["load"]["tasks"]["mme"]["rows"]) == ("cached", 20)


@pytest.mark.parametrize("name", ["mme", "gqa", "textvqa"])
def test_a_copy_under_the_former_id_serves_where_the_hub_cannot_be_reached(world, name):
    chosen = load_task(name)
    commit = chosen.revision or "0123456789abcdef0123456789abcdef01234567"
    in_the_cache(chosen.formerly, world / name, commit)
    assert len(load_rows(chosen)) == 20
    found = provenance(chosen)
    assert (found["hub"], found["revision"]) == (chosen.formerly, commit)


def test_a_former_copy_of_another_commit_does_not_serve(world):
    in_the_cache("lmms-lab/MME", world / "mme", "0123456789abcdef0123456789abcdef01234567")
    with pytest.raises(UserError, match="cannot be fetched from the hub as lmms-lab-encoder/MME"):
        load_rows(load_task("mme"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("GatedRepoError", "is gated on the hub: accept the terms at https://huggingface.co/lmms-lab-encoder/MME"),
        ("RepositoryNotFoundError", "is not on the hub as lmms-lab-encoder/MME, or is private there"),
        ("RevisionNotFoundError", "is on the hub as lmms-lab-encoder/MME, but not in the revision"),
    ],
)
def test_the_hub_says_why_it_does_not_give_a_data_set(monkeypatch, error, sentence):
    def refuse(*_, **__):
        kind = getattr(huggingface_hub.errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=f"task mme {re.escape(sentence)}.*: set task.path to a folder") as caught:
        load_rows(load_task("mme"))
    assert "\n" not in str(caught.value)


def test_a_local_copy_has_no_commit(world):
    """That of the yaml is not that of a folder."""
    assert provenance(task(world, "mme"))["revision"] is None


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_names_questions_to_fit_settings_on(world, name):
    """Training questions where there are any, else the first of the test split, and then the title says so."""
    fit, own = training_task(name), load_task(name)
    assert fit.split == "train" if own.calibration.get("split") else "first 20 test questions" in fit.title
    if fit.first:
        fit.path, fit.first = str(world / name.removesuffix("_plain")), 3
        every = {row.id for row in load_rows(task(world, name))}
        assert 0 < len(load_rows(fit)) < len(every)
        assert {row.id for row in load_rows(fit)} <= every


# Configuration


def test_the_full_preset_takes_the_benchmarks_and_a_large_model(tmp_path):
    names = ",".join(replicas.ALL)
    for method, sweep in (
        ("identity", "none"),
        ("vtw", "layers"),
        ("random", "keeps sweep.seed=[0,1,2]"),
        ("par", "curve"),
    ):
        chosen = load_config(
            ["preset=full", f"tasks=[{names}]", f"method={method}", *f"sweep={sweep}".split(), "model=llava_1_5_7b"]
        )
        assert chosen.limit is None
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(chosen))
        assert load_config(path=path).model.processor.chat_template.startswith("A chat between")
    assert all(OmegaConf.select(load_task(name), "kind") == "hub" for name in NAMES)
