"""FiCoCo's page: its cells against the runs' and the papers' own files, its arithmetic by hand, its paradigm table."""

import csv
import json
from dataclasses import fields

import pandas as pd
import pytest

from thinsight import load_method, load_model
from thinsight.analysis.results import load_answers, load_scores, score_cells
from thinsight.config.catalogue import method_entries
from thinsight.config.compose import load_task
from thinsight.config.schema import names
from thinsight.evaluation.budget import Budget
from thinsight.ledger.published import load_published
from thinsight.methods.controls import Random
from thinsight.papers.decomposition import decomposition, decomposition_table, describe
from thinsight.papers.ficoco.ablations import POINTS, budget_curve, ficoco_ablation, printed_curve
from thinsight.papers.ficoco.flops import PRINTED_MODELS, cache_sizes, cost_floor, tflops_costs, tflops_labels
from thinsight.papers.ficoco.internals import OTHER, edges_of, maps, moments, ranks, row_edges, spreads
from thinsight.papers.ficoco.page import AS_PUBLISHED, Ficoco, ficoco_finding
from thinsight.papers.ficoco.tables import (
    BENCHMARKS,
    SHARE,
    TABLE_RUNS,
    ablation_board,
    comparison_table,
    flops_board,
    measured_scores,
    printed_scores,
    published_beside,
)
from thinsight.paths import CONF, ROOT
from thinsight.tasks.rows import collate, load_rows, training_task

RUNS_OF = ROOT / "data" / "runs"
FILE = ROOT / "data" / "published" / "ficoco.csv"


@pytest.fixture(scope="module")
def printed_lines():
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def published():
    return load_published("ficoco")


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket")


def number(lines, **where):
    """The one printed value with these columns."""
    values = [line["value"] for line in lines if all(line[key] == value for key, value in where.items())]
    assert len(values) == 1, (where, values)
    return float(values[0])


def have_run(*runs):
    return all((RUNS_OF / run / "predictions.parquet").is_file() for run in runs)


def test_table_1_as_printed(published, printed_lines):
    """Every benchmark of v4's table, and for VL v1's with the share computed from the six."""
    table = printed_scores(published).set_index(["method", "tokens"])
    where = {"version": "v4", "table": "Table 1", "model": "LLaVA-1.5-7B"}
    own = [line for line in printed_lines if all(line[key] == value for key, value in where.items()) and line["tokens"]]
    shown = [line for line in own if line["column"] in (*BENCHMARKS, SHARE)]
    assert len(shown) == 21 * 7  # seven methods at three budgets
    for line in shown:
        assert table.loc[(line["method"], int(line["tokens"])), line["column"]] == float(line["value"])
    v1 = {"version": "v1", "table": "Table 3", "model": "LLaVA-1.5-7B"}
    own = [number(printed_lines, **v1, row="FiCoCo-VL 1.5 T", column=name) for name in BENCHMARKS]
    whole = [number(printed_lines, **v1, row="vanilla", column=name) for name in BENCHMARKS]
    assert table.loc[("FiCoCo-VL", 64), SHARE] == pytest.approx(100 * sum(own) / sum(whole))
    assert table.loc[("FiCoCo-V", 192), "version"] == "v4"


@pytest.mark.skipif(
    not have_run("plain", "random", "ficoco_v"), reason="needs the answers of finished runs: dvc repro makes them"
)
def test_table_1_as_measured(published):
    """Each cell is the mean over the budget's seeds of what metrics.json has."""
    runs = [run for run in ("plain", *TABLE_RUNS.values()) if have_run(run)]
    results, rows = load_scores(RUNS_OF, runs), load_answers(RUNS_OF, runs)
    keep = min(float(name.split("=")[1]) for name in score_cells(results, "ficoco_v")["budget"])
    ours = measured_scores(results, rows, [keep]).set_index("method")
    whole = json.loads((RUNS_OF / "plain" / "metrics.json").read_text())["scores"]
    base = sum(cells["fixed"]["accuracy"] for cells in whole.values()) / len(whole)
    for method in ours.index:
        scores = json.loads((RUNS_OF / TABLE_RUNS[method] / "metrics.json").read_text())["scores"]
        means = []
        for task, cells in scores.items():
            values = [cell["accuracy"] for name, cell in cells.items() if name.split(",")[0] == f"keep={keep}"]
            means.append(sum(values) / len(values))
            assert ours.loc[method, task] == pytest.approx(100 * means[-1]), (method, task)
        assert ours.loc[method, "share"] == pytest.approx(100 * sum(means) / len(means) / base)
        assert ours.loc[method, "low"] <= ours.loc[method, "share"] <= ours.loc[method, "high"]
    table = printed_scores(published)
    page = comparison_table(
        table, ours.reset_index(), {task: 100 * cells["fixed"]["accuracy"] for task, cells in whole.items()}
    )
    assert f">{ours.loc['FiCoCo-V', 'share']:.1f}<" in page
    assert set(published_beside(table, ours.reset_index())["run"]) <= set(ours["run"])


def test_every_printed_row_of_an_ablation_is_a_point(published):
    """Each row of tables 5, 6 and 13 is a point of the sweeps in conf/sweep, and each point of ours can be made."""
    from omegaconf import OmegaConf

    sweeps = {"FiCoCo-V": "ficoco_v", "FiCoCo-L": "ficoco_l"}
    for method, name in sweeps.items():
        points = OmegaConf.to_container(OmegaConf.load(CONF / "sweep" / "ablation" / f"{name}_fields.yaml"))["points"]
        known = {str(Budget.of(point)) for point in points}
        assert set(POINTS[method].values()) <= known
        ablated = published["table"].str.contains("ablation") & (published["method"] == method)
        assert set(published.loc[ablated, "row"].str.removeprefix(f"{method}, ")) <= set(POINTS[method])
        for point in points:
            load_method(name, **point)


@pytest.mark.parametrize("run", ["ficoco_v-fields", "ficoco_l-fields"])
def test_the_ablations_as_measured(published, printed_lines, run, tmp_path):
    """A line's numbers are those of metrics.json and of the csv; where the run is not there the printed part stands."""
    method = {"v": "FiCoCo-V", "l": "FiCoCo-L"}[run[7]]
    rows = load_answers(RUNS_OF if have_run(run) else tmp_path, [run], missing_ok=True)
    table = ficoco_ablation(published, rows, method, run).set_index("row")
    first = {"FiCoCo-V": "Table 5 (ablation)", "FiCoCo-L": "Table 6 (ablation)"}[method]
    for name in ("full", "fixed K=0 (prune)", "convergent (one sink)"):
        where = {"table": first, "row": f"{method}, {name}", "column": "TextVQA"}
        assert table.loc[name, "TextVQA"] == number(printed_lines, **where)
    if not have_run(run):
        assert table["point"].isna().all()
        assert "not run" in ablation_board({method: table.reset_index()}, [])
        return
    scores = json.loads((RUNS_OF / run / "metrics.json").read_text())["scores"]
    for _, line in table.dropna(subset="point").iterrows():
        for task, cells in scores.items():
            assert line[task] == pytest.approx(100 * cells[line["point"]]["accuracy"])
    assert table.loc["fixed K=1", "same"] == 1  # one edge is what epsilon gives


def test_an_absent_run_is_said(published, tmp_path):
    """Nothing crashes and nothing is hidden when the ablations have not been run."""
    none = load_answers(tmp_path, ["ficoco_v-fields"], missing_ok=True)
    table = ficoco_ablation(published, none, "FiCoCo-V", "ficoco_v-fields")
    assert len(table) >= len(POINTS["FiCoCo-V"]) - 1
    assert ablation_board({"FiCoCo-V": table}, []).count("not run") == len(table)
    assert budget_curve(none, "ficoco_v-fields", "lambda", 0.35).empty
    page = Ficoco(**dict.fromkeys(field.name for field in fields(Ficoco)) | {
        "both": pd.DataFrame({"method": [], "tokens": []}, dtype=object),
        "correlations": {},
        "ablations": {"FiCoCo-V": table},
        "edges": pd.DataFrame({"point": [AS_PUBLISHED], "layer": [6], "edges": [1], "most": [9.0]}),
        "costs": pd.DataFrame({"label": ["FiCoCo-L, 64 tokens"], "kept": [64], "uniform": [1.5], "formula": [5.2]}),
        "ledger": pd.DataFrame(),
    })  # fmt: skip
    first, *others = ficoco_finding(page).strip().split("\n\n")
    assert first == "None of FiCoCo's methods has been run."
    assert len(others) == 2  # what needs no run: edges, and FLOPs


def test_printed_curves(published, printed_lines):
    curve = printed_curve(published, "FiCoCo-V", "epsilon").set_index("value")
    row = {"table": "Table 12 (sensitivity to epsilon)", "row": "FiCoCo-V, epsilon=.992"}
    scores = [number(printed_lines, **row, column=name) for name in ("ScienceQA-IMG", "TextVQA")]
    full = [
        number(printed_lines, **row | {"row": "FiCoCo-V, epsilon=.998"}, column=n) for n in ("ScienceQA-IMG", "TextVQA")
    ]
    assert curve.loc[0.992, "share"] == pytest.approx(sum(scores) / sum(full))
    assert list(printed_curve(published, "FiCoCo-V", "penalty")["value"]) == [1, 2, 3, 4]


def test_edges_of_a_row_by_arithmetic():
    """One edge up to 500 stayers at 0.998, and the numbers of the common models."""
    assert [row_edges(n, 0.998) for n in (1, 16, 500, 501, 1000, 1001, 1300, 2880)] == [1, 1, 1, 2, 2, 3, 3, 6]


def test_edges_and_readings_of_real_attention(pocket):
    """By rows all leavers of a step have the K of the arithmetic; by the matrix they have not. Row softmax tells V's
    tokens apart by next to nothing, and a map has a number for each patch that is left."""
    model, processor = pocket
    inputs = collate(processor, load_rows(load_task("read"), 1), training_task("read"))
    batches = [inputs.to(model.device, model.dtype)]
    points = {scope: {"keep": 0.1111, "epsilon": 0.945, "quantile_scope": scope} for scope in ("row", "matrix")}
    counted = edges_of(model, batches, "ficoco_v", points)
    by_row = counted[counted["point"] == "row"]
    assert (by_row["edges"] == [row_edges(n, 0.945) for n in by_row["stayers"]]).all()
    assert counted[counted["point"] == "matrix"]["edges"].nunique() > 3
    stages = moments(model, batches, "ficoco_v", keep=0.1111)
    spread = spreads(stages, 0.35).groupby("reading")["share"].mean()
    assert spread["row_softmax"] < 0.02 < spread["col_softmax"]
    rho = ranks(stages)["rho"]
    assert rho.between(-1, 1).all()
    grids = maps(stages[0][1], 12)
    assert set(grids) == {"row_softmax", "col_softmax", "row_logit", OTHER}
    assert int(grids[OTHER].isfinite().sum()) == len(stages[0][1].cells) == 101


def test_printed_flops_are_a_uniform_count(published):
    """8.5 T and 333 MB are 576 visual and 60 text tokens in every layer, and so on; L's 1.5 T cannot be reached."""
    table = tflops_labels(published).set_index(["model", "printed"])
    for key in [("LLaVA-1.5-7B", 8.5), ("LLaVA-1.5-7B", 3.3), ("LLaVA-1.5-13B", 28.6), ("LLaVA-NeXT-7B", 42.7)]:
        assert round(table.loc[key, "uniform"].item(), 1) == pytest.approx(key[1], abs=0.11), key
        assert abs(table.loc[key, "implied"] - table.loc[key, "stated"]) <= 4
    stated = table.dropna(subset="uniform")
    assert stated["counted"].to_list() == pytest.approx(stated["uniform"].to_list(), rel=1e-3)
    fits = cache_sizes(published).set_index(["model", "row"])["fits"]
    assert fits["LLaVA-1.5-7B", "FiCoCo-V"] == pytest.approx(64, abs=0.5)
    paper = PRINTED_MODELS[0]
    costs = tflops_costs(paper, {"V": ("ficoco_v", {"keep": 64}), "L": ("ficoco_l", {"keep": 64})}).set_index("label")
    assert (costs["formula"] / costs["counted"]).to_list() == pytest.approx([1, 1], rel=1e-3)
    assert costs.loc["V", "formula"] == costs.loc["V", "uniform"] == paper.uniform(64)
    assert costs.loc["L", "formula"] > 3 * paper.uniform(64)
    least = cost_floor(paper, [3, 4])
    assert least[4] > 1.5 * 1.1
    assert "as it runs" in flops_board(tflops_labels(published), cache_sizes(published), costs.reset_index(), least)


def test_the_paradigm_names_every_method():
    """A line for each reduction of each file in conf/method, in the words of the classes it composes."""
    lines = decomposition(method_entries())
    methods = {name: load_method(name) for name in names("method")}
    for name, method in methods.items():
        own = [line for line in lines if line.method == name]
        assert len(own) == len(method.reductions), name
        assert [line.correlate is None for line in own] == [r.correlate is None for r in method.reductions], name
    page = decomposition_table(lines)
    for line in lines:
        assert line.filter.sentence, line
        assert line.schedule.sentence, line
        assert line.filter.name in page
    assert describe(None) is None
    assert describe(Random(seed=3)).settings == "seed=3"
