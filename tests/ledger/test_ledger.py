"""The ledger: every line is what stands in data/published and metrics.json, read here without our readers."""

import csv
import math
import re

import pandas as pd
import pytest

from thinsight.analysis.results import load_scores
from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.ledger.counting import Counting, countings
from thinsight.ledger.ledger import COLUMNS, LABEL, WHOLE, count_all, count_verdicts, headline, ledger
from thinsight.ledger.published import FOLDER, load_all
from thinsight.ledger.verdicts import (
    ADDS,
    AVERAGE,
    BADGES,
    COST,
    DIFFERS,
    INFERRED,
    NEEDS,
    NOT_RUN,
    OBTAINED,
    RANGE,
    RECOMPUTED,
    SCORE,
    VERDICTS,
)
from thinsight.paths import CONF, ROOT
from thinsight.report.tables import ledger_html

FILES = sorted(path.stem for path in FOLDER.glob("*.csv"))
EIGHT = ("paper", "version", "table", "model", "method", "tokens", "row", "column")


@pytest.fixture(scope="module")
def whole():
    every = load_all()
    return ledger(every, *ran(plain=190, vtw=180), every=every)


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


def test_every_line_answers_one_question_and_gives_a_reason(whole):
    assert (whole[SCORE].ne("") != whole[COST].ne("")).all()
    for question, verdicts in VERDICTS.items():
        assert set(whole[question]) <= {*verdicts, ""}
    assert (whole["why"].str.len() > 5).all()
    assert whole.loc[whole[COST].isin([RECOMPUTED, INFERRED, DIFFERS]), "computed"].notna().all()
    assert (whole["computed"].notna() == (whole["how"] != "")).all()
    assert (whole["measured"].notna() == (whole["run"] != "")).all()
    costs = whole[whole[COST] != ""]
    assert (costs["computed"].notna() == (costs["computation"] != "")).all()


def test_pocket_obtains_no_score(whole):
    """Neither runs that are made up nor those that are here."""
    assert set(whole[SCORE]) == {NEEDS, ""}
    assert whole["measured"].isna().all()
    results = load_scores(ROOT / "data" / "runs")
    some = load_all().query("column == 'POPE'")
    found = ledger(some, results, results[["run"]].drop_duplicates(), every=some)
    assert len(found) > 100
    assert set(found[SCORE]) == {NEEDS}


def test_the_same_computation_has_one_name_and_counts_once(whole):
    """By hand: VTW at K=16 with 64 text tokens, which ShortV prints as TFLOPs and as a share of the whole model's."""
    lines = whole[(whole["paper"] == "ShortV") & (whole["model"] == "LLaVA-1.5-7B") & (whole["row"] == "VTW K16")]
    lines = lines[lines[COST] != ""]
    assert set(lines["computation"]) == {"profiler, llava_1_5_7b, 16 x 576, 16 x 0 + 64"}
    counts = count_all(lines)
    assert (len(lines), counts[f"{COST}: {INFERRED}"], counts["inferred"], counts["computations"]) == (2, 2, 1, 0)
    both = count_all(whole)
    apart = count_verdicts(whole)
    assert 0 < both["plain"] < both["computations"] < both[f"{COST}: {RECOMPUTED}"]
    assert both["computations"] <= apart["computations"].sum()


def test_what_says_little_is_marked(whole):
    met = whole[whole[COST].isin([RECOMPUTED, INFERRED])]
    assert (met["mark"].str.contains(WHOLE) == (met["method"] == "vanilla")).all()
    labels = met[(met["paper"] == "FiCoCo") & (met["column"] == "TFLOPs") & (met["tokens"] != "")]
    assert labels["mark"].str.contains(LABEL).all()
    assert (met.loc[met[COST] == INFERRED, "mark"].str.contains("fitted|searched")).all()
    assert not met.loc[met[COST] == RECOMPUTED, "mark"].str.contains("fitted|searched").any()


def test_a_method_that_is_not_here_recomputes_nothing(whole):
    rows = whole[whole["row"].str.startswith(("Honeybee", "IVTP", "TRIM 2.4")) & (whole["column"] == "TFLOPs")]
    assert len(rows) == 5
    assert set(rows[COST]) == {NOT_RUN}
    assert rows["why"].str.endswith("has no file in conf/method").all()


def test_a_label_that_is_not_the_methods_own_cost_says_so(whole):
    """FiCoCo-L that ends with 192 tokens takes nearly twice its label; its lengths fall evenly from 576."""
    lines = whole[(whole["row"] == "FiCoCo-L 3.3 T") & (whole["column"] == "TFLOPs")]
    assert len(lines)
    assert set(lines[COST]) == {DIFFERS}
    assert (lines["computed"] > 6).all()
    assert (
        lines["why"]
        .str.startswith("the setting's label, 192 visual and 60 text tokens in every layer, gives 3.297")
        .all()
    )


def test_the_labels_of_ficoco_are_a_uniform_count_of_tokens(whole):
    """8.5, 3.3 and 2.4 T: 576, 192 and 128 visual and 60 text tokens, counted here by hand; 1.5 T is not 64 of them."""
    lines = whole[(whole["paper"] == "FiCoCo") & (whole["model"] == "LLaVA-1.5-7B") & (whole["column"] == "TFLOPs")]
    lines = lines[~lines["row"].str.contains(",")]
    lines = lines[
        lines["method"].isin(["vanilla", "ToMe", "LLaVA-PruMerge", "FiCoCo-V"])
    ]  # all that cut before the decoder
    for label, tokens, verdict in (("8.5", "", RECOMPUTED), ("3.3", "192", RECOMPUTED), ("2.4", "128", RECOMPUTED),
                                   ("1.5", "64", DIFFERS), ("1.6", "64", RECOMPUTED)):  # fmt: skip
        part = lines[(lines["printed"] == label) & (lines["tokens"] == tokens)]
        assert len(part), label
        assert set(part[COST]) == {verdict}
        n = (int(tokens) if tokens else 576) + 60
        layer = 2 * n * (4 * 4096**2 + 3 * 4096 * 11008) + 4 * n**2 * 4096
        assert part["computed"].to_numpy() == pytest.approx((32 * layer + 2 * 4096 * 32064) / 1e12)


def test_costs_of_other_papers(whole):
    tflops = whole[whole["column"] == "TFLOPs"]
    assert set(tflops[tflops["paper"] == "ShortV"][COST]) == {INFERRED}  # its prompt is stated, no convention
    searched = tflops[tflops["paper"] == "V-Skip"]
    assert set(searched[COST]) <= {INFERRED, NOT_RUN}  # its way of counting is not known
    found = searched[searched["computed"].notna()]
    assert len(found) >= 3
    assert found["how"].str.startswith("nearest of the conventions").all()
    cache = whole[(whole["paper"] == "OccamToken") & (whole["column"] == "KV MB")]
    cache = cache[cache["computed"].notna()]
    assert len(cache)
    assert list(cache["computed"].round()) == [float(value) for value in cache["printed"]]


def test_an_average_is_held_against_its_own_row(whole):
    table = whole[(whole["paper"] == "FiCoCo") & (whole["version"] == "v4") & (whole["table"] == "Table 3")]
    for line in table[table["column"] == "average"].to_dict("records"):
        row = table[(table["row"] == line["row"]) & (table["unit"] == "%") & (table["column"] != "average")]
        assert line["computed"] == pytest.approx(sum(map(float, row["printed"])) / len(row))
        assert (line[SCORE], line[AVERAGE]) == (NEEDS, ADDS)  # a sum that is right obtains no score


def test_a_whole_models_own_share_is_no_average(whole):
    assert not whole.loc[(whole["column"] == "relative average") & (whole["method"] == "vanilla"), AVERAGE].any()


def test_a_single_run_and_a_file_without_its_name_are_enough():
    every = load_all()
    some = every[every["file"] == "vtw"]
    frame = ledger(some.drop(columns="file"), *ran(plain=190), every=every)
    assert set(frame["file"]) == {"vtw"}
    assert frame["measured"].isna().all()


def test_the_counts_and_the_table_on_the_page(whole):
    counts = count_verdicts(whole)
    assert counts["total"].sum() == len(whole)
    for question, verdicts in VERDICTS.items():
        assert counts[question].sum() == (whole[question] != "").sum()
        for verdict in verdicts:
            assert counts[f"{question}: {verdict}"].sum() == (whole[question] == verdict).sum()
    part = whole[whole["file"] == "vtw"]
    html = ledger_html(part)
    assert html.count("<tbody>") == part.groupby(["paper", "arxiv", "version", "table", "model"]).ngroups
    assert html.count("<tr>") == len(part) + html.count("<thead>")
    for question, kinds in BADGES.items():
        for name, kind in kinds.items():
            assert len(re.findall(f'badge-{kind}">{name}</span>(?!</dt>)', html)) == (part[question] == name).sum()
    assert headline(count_all(part)) in html.replace("&#39;", "'")
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


def test_the_very_model_is_compared_by_its_number():
    """FiCoCo's Table 1 is known to be printed under LLaVA's protocol, P's is not known."""
    lines = (("vanilla", "", "GQA", "61.9"), ("FastV", "64", "GQA", "46.1"), ("FastV", "64", "POPE", "48"))
    runs = ran("llava_1_5_7b", "gqa", "llava", plain=124, fastv=104)  # 62 % and 52 %, five points to either side
    known = {"paper": "FiCoCo", "version": "v4", "table": "Table 1"}
    table = printed(*lines).assign(**known)
    other = printed(("FastV", "64", "GQA", "55")).assign(**known | {"table": "Table 2"})
    frame = ledger(table, *runs, every=pd.concat([table, other]))
    assert list(frame[SCORE]) == [OBTAINED, RANGE, NEEDS]
    assert ledger(table, *runs, every=table)[SCORE][1] == DIFFERS
    assert frame["measured"][0] == pytest.approx(62.0)
    unknown = ledger(printed(*lines), *runs, every=table)
    assert list(unknown[SCORE]) == [NEEDS] * 3
    assert unknown["measured"][0] == pytest.approx(62.0)  # shown, and no verdict on it
    for elsewhere in (table.assign(model="LLaVA-1.5-13B"), table.assign(method="IVTP"), table.assign(tokens="32")):
        frame = ledger(elsewhere[elsewhere["method"] != "vanilla"], *runs, every=elsewhere)
        assert set(frame[SCORE]) == {NEEDS}


def test_a_table_in_which_no_average_adds_up_says_nothing_of_them():
    cells = [("FastV", "64", name, value) for name, value in (("GQA", "50"), ("POPE", "60"), ("MMBench", "70"))]
    for average, others, said in (("60.0", (), ADDS), ("63.0", (), ""), ("63.0", ("60.0",), "does not add up")):
        table = printed(*cells, ("FastV", "64", "average", average))
        more = [printed(*cells, ("FastV", "64", "average", value)).assign(row="again") for value in others]
        table = pd.concat([table, *more])
        frame = ledger(table, *ran(plain=190), every=table)
        line = frame[(frame["column"] == "average") & (frame["row"] != "again")].iloc[0]
        assert line[AVERAGE] == said
        assert (line["computed"] == pytest.approx(60.0)) == (said != "")


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
