"""The ledger: every line is what stands in data/published and metrics.json, read here without our readers."""

import csv
import json
import math
import re

import pandas as pd
import pytest

from thinsight.analysis.results import load_answers, load_scores
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.ledger.counting import Counting, countings
from thinsight.ledger.ledger import COLUMNS, count_verdicts, ledger
from thinsight.ledger.published import FOLDER, load_all
from thinsight.ledger.verdicts import BADGES, DIRECTION, MISSED, NOT_RUN, RANGE, REPRODUCED, VERDICTS
from thinsight.paths import CONF, ROOT
from thinsight.report.tables import ledger_html

RUNS = ROOT / "data" / "runs"
FILES = sorted(path.stem for path in FOLDER.glob("*.csv"))
EIGHT = ("paper", "version", "table", "model", "method", "tokens", "row", "column")


@pytest.fixture(scope="module")
def read_runs():
    try:
        return load_scores(RUNS), load_answers(RUNS)
    except UserError:
        pytest.skip("no finished runs here: `dvc checkout` brings them")


@pytest.fixture(scope="module")
def whole(read_runs):
    every = load_all()
    return ledger(every, *read_runs, every=every)


def stored():
    """All lines of data/published in order, as dicts."""
    for name in FILES:
        with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as text:
            yield from ({"file": name, **line} for line in csv.DictReader(text))


def test_every_printed_number_has_its_line(whole):
    lines, there = list(stored()), whole.to_dict("records")
    assert tuple(whole.columns) == COLUMNS
    assert len(there) == len(lines)
    for line, entry in zip(lines, there, strict=True):
        assert entry["printed"] == line["value"]
        assert all(entry[key] == line[key] for key in ("file", "arxiv", "unit", *EIGHT))


def test_every_line_has_one_of_five_verdicts_and_a_reason(whole):
    assert set(whole["verdict"]) <= set(VERDICTS)
    assert (whole["why"].str.len() > 5).all()
    found = whole[whole["verdict"] != NOT_RUN]
    assert (found["computed"].notna() | found["measured"].notna()).all()
    assert (whole["computed"].notna() == (whole["how"] != "")).all()
    assert (whole["measured"].notna() == (whole["run"] != "")).all()


def test_what_was_measured_is_what_the_runs_say(whole):
    """Relative scores from metrics.json alone: the mean over tasks of the method's accuracy over the whole model's."""
    tasks_after = {}
    for path in (CONF / "task").glob("*.yaml"):
        said = re.search(r"^after: \[(.*)\]", path.read_text(encoding="utf-8"), re.MULTILINE)
        for benchmark in said[1].split(", ") if said else ():
            tasks_after.setdefault(benchmark, set()).add(path.stem)
    scores = {f.parent.name: json.loads(f.read_text())["scores"] for f in RUNS.glob("*/metrics.json")}
    measured = whole[whole["measured"].notna()].to_dict("records")
    for line in measured:
        budget = re.search(r"(keep|layer)=[\d.]+", line["measure"])[0]
        there = set(scores["plain"])
        tasks = there if "average" in line["column"] else tasks_after[line["column"]] & there
        ratios = []
        for task in tasks:
            own = [cell["accuracy"] for name, cell in scores[line["run"]][task].items() if budget in name.split(",")]
            ratios.append(sum(own) / len(own) / scores["plain"][task]["fixed"]["accuracy"])
        assert line["measured"] == pytest.approx(100 * sum(ratios) / len(ratios))
        if "keep" in budget:
            assert float(budget[5:]) == pytest.approx(int(line["tokens"] or 64) / 576, abs=1e-4)


def test_pocket_reproduces_no_score(whole):
    scored = whole[whole["measured"].notna()]
    assert set(scored["verdict"]) <= {DIRECTION, MISSED, NOT_RUN}
    assert not (scored["method"] == "vanilla").any()


def test_the_labels_of_ficoco_are_a_uniform_count_of_tokens(whole):
    """8.5, 3.3 and 2.4 T: 576, 192 and 128 visual and 60 text tokens, counted here by hand; 1.5 T is not 64 of them."""
    lines = whole[(whole["paper"] == "FiCoCo") & (whole["model"] == "LLaVA-1.5-7B") & (whole["column"] == "TFLOPs")]
    lines = lines[~lines["row"].str.contains(",")]
    for label, tokens, verdict in (("8.5", "", REPRODUCED), ("3.3", "192", REPRODUCED), ("2.4", "128", REPRODUCED),
                                   ("1.5", "64", MISSED), ("1.6", "64", REPRODUCED)):  # fmt: skip
        part = lines[(lines["printed"] == label) & (lines["tokens"] == tokens)]
        assert len(part), label
        assert set(part["verdict"]) == {verdict}
        n = (int(tokens) if tokens else 576) + 60
        layer = 2 * n * (4 * 4096**2 + 3 * 4096 * 11008) + 4 * n**2 * 4096
        assert part["computed"].to_numpy() == pytest.approx((32 * layer + 2 * 4096 * 32064) / 1e12)


def test_costs_of_other_papers(whole):
    tflops = whole[whole["column"] == "TFLOPs"]
    assert set(tflops[tflops["paper"] == "ShortV"]["verdict"]) == {REPRODUCED}
    searched = tflops[tflops["paper"] == "V-Skip"]
    assert REPRODUCED not in set(searched["verdict"])  # its way of counting is not known
    found = searched[searched["computed"].notna()]
    assert len(found) >= 3
    assert found["how"].str.startswith("nearest of the conventions").all()
    cache = whole[(whole["paper"] == "OccamToken") & (whole["column"] == "KV MB")]
    assert list(cache["computed"].round()) == [float(value) for value in cache["printed"]]


def test_an_average_is_held_against_its_own_row(whole):
    table = whole[(whole["paper"] == "FiCoCo") & (whole["version"] == "v4") & (whole["table"] == "Table 3")]
    for line in table[table["column"] == "average"].to_dict("records"):
        row = table[(table["row"] == line["row"]) & (table["unit"] == "%") & (table["column"] != "average")]
        assert line["computed"] == pytest.approx(sum(map(float, row["printed"])) / len(row))
        assert line["verdict"] == NOT_RUN  # a sum that is right reproduces no score


def test_a_variant_is_not_taken_for_its_method(whole):
    ablated = whole[whole["row"].str.contains(", no |fixed K") & (whole["unit"] == "%")]
    assert len(ablated) > 10
    assert set(ablated["verdict"]) == {NOT_RUN}
    assert ablated["why"].str.contains("variant").all()


def test_a_single_run_and_a_file_without_its_name_are_enough(read_runs):
    results, answers = (part[part["run"] == "plain"] for part in read_runs)
    every = load_all()
    some = every[every["file"] == "vtw"]
    frame = ledger(some.drop(columns="file"), results, answers, every=every)
    assert set(frame["file"]) == {"vtw"}
    assert frame["measured"].isna().all()
    assert "no run of VTW" in set(frame["why"])


def test_the_counts_and_the_table_on_the_page(whole):
    counts = count_verdicts(whole)
    assert list(counts.columns) == ["paper", *VERDICTS, "total"]
    assert counts["total"].sum() == len(whole)
    for name in VERDICTS:
        assert counts[name].sum() == (whole["verdict"] == name).sum()
    part = whole[whole["file"] == "vtw"]
    html = ledger_html(part)
    assert html.count("<tbody>") == part.groupby(["paper", "arxiv", "version", "table", "model"]).ngroups
    assert html.count("<tr>") == len(part) + html.count("<thead>")
    for name, count in part["verdict"].value_counts().items():
        assert len(re.findall(f'badge-{BADGES[name]}">{name}</span><small>', html)) == count
    assert "nan" not in re.sub("<[^>]+>", " ", html).split()


# --- the same by hand ---------------------------------------------------------------------------------------------

HEAD = {
    "paper": "P",
    "arxiv": "",
    "version": "",
    "table": "T",
    "model": "LLaVA-1.5-7B",
    "protocol": "",
    "trust": "paper",
}


def printed(*lines):
    """(method, tokens, column, value): a table of one paper."""
    made = [
        {**HEAD, "file": "p", "method": m, "tokens": t, "row": m, "column": c, "value": v, "number": float(v),
         "unit": "%", "source": "own paper"} for m, t, c, v in lines
    ]  # fmt: skip
    return pd.DataFrame(made)


def ran(model="pocket", task="exist", protocol="", n=200, **shares):
    """Runs with so many right answers of 200 each; all but ``plain`` at keep=0.1111."""
    results, answers = [], []
    for run, right in shares.items():
        budget = "fixed" if run == "plain" else "keep=0.1111"
        ends = {"accuracy": right / 200, "low": right / 200 - 0.05, "high": right / 200 + 0.05}
        results.append({"run": run, "method": run, "task": task, "budget": budget, "model": model, **ends})
        results[-1] |= {"protocol": protocol, "n": n}
        rows = [{"run": run, "task": task, "budget": budget, "id": f"{i:03}", "correct": i < right} for i in range(200)]
        answers += rows
    return pd.DataFrame(results), pd.DataFrame(answers)


POPE = (("vanilla", "", "POPE", "86"), ("FastV", "64", "POPE", "48"), ("VisionZip", "64", "POPE", "77"))


def test_order_and_sign_agree():
    frame = ledger(table := printed(*POPE), *ran(plain=190, fastv=100, visionzip=150), every=table)
    assert list(frame["verdict"]) == [NOT_RUN, DIRECTION, DIRECTION]
    assert frame["measured"][1] == pytest.approx(100 * 100 / 190)
    assert "1 of 1 decided pairs" in frame["why"][1]


def test_order_or_sign_disagrees():
    turned = ledger(table := printed(*POPE), *ran(plain=190, fastv=150, visionzip=100), every=table)
    assert list(turned["verdict"]) == [NOT_RUN, MISSED, MISSED]
    gain = printed(("vanilla", "", "POPE", "86"), ("FastV", "64", "POPE", "86.5"))
    frame = ledger(gain, *ran(plain=190, fastv=100), every=gain)
    assert frame["verdict"][1] == MISSED
    assert "other sign" in frame["why"][1]


def test_what_decides_nothing_and_what_was_not_run():
    frame = ledger(table := printed(*POPE), *ran(plain=190, fastv=189, visionzip=189), every=table)
    assert list(frame["verdict"]) == [NOT_RUN] * 3
    assert frame["why"][1].startswith("pocket decides too little")
    other = printed(("FastV", "32", "POPE", "40"), ("IVTP", "64", "POPE", "80"), ("FastV", "64", "MM-Vet", "20"))
    whys = list(ledger(other, *ran(plain=190, fastv=100), every=other)["why"])
    assert whys[0].startswith("FastV was not run at keep=0.05")
    assert whys[1].startswith("IVTP has no file")
    assert whys[2].startswith("MM-Vet has no counterpart")


def test_the_very_model_is_compared_by_its_number():
    lines = (("vanilla", "", "GQA", "61.9"), ("FastV", "64", "GQA", "46.1"), ("FastV", "64", "POPE", "48"))
    runs = ran("llava_1_5_7b", "gqa", "llava", plain=124, fastv=104)  # 62 % and 52 %, five points to either side
    table = printed(*lines)
    other = printed(("FastV", "64", "GQA", "55")).assign(paper="Q")
    frame = ledger(table, *runs, every=pd.concat([table, other]))
    assert list(frame["verdict"]) == [REPRODUCED, RANGE, NOT_RUN]
    assert ledger(table, *runs, every=table)["verdict"][1] == MISSED
    assert frame["measured"][0] == pytest.approx(62.0)
    elsewhere = printed(*lines).assign(model="LLaVA-1.5-13B")
    assert set(ledger(elsewhere, *runs, every=elsewhere)["verdict"]) == {NOT_RUN}


# --- how papers count ---------------------------------------------------------------------------------------------


def test_every_paper_says_where_its_counting_is_known_from(whole):
    assert len(countings()) == len(list((FOLDER / "counting").glob("*.yaml")))
    assert set(countings()) <= set(whole["paper"])
    for ways in countings().values():
        assert all(len(way.source) > 20 for way in ways)


def test_a_wrong_word_is_named():
    with pytest.raises(UserError, match="did you mean profiler"):
        Counting(convention="profilr")
    with pytest.raises(UserError, match="reading of tokens"):
        Counting(tokens="some layers")


def test_tasks_name_the_benchmarks_they_are_after(whole):
    columns = set(whole["column"])
    for path in (CONF / "task").glob("*.yaml"):
        assert set(load_config([f"task={path.stem}"]).task.after) <= columns


def test_numbers_are_finite(whole):
    for column in ("computed", "measured"):
        assert all(math.isfinite(value) for value in whole[column].dropna())
