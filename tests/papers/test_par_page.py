"""PAR's page: curves, wrong answers, ways of counting, variants and heeding by hand; its cells are the files'."""

import json
import math
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import page_files as pages
from hypothesis import given, settings
from hypothesis import strategies as st

import thinsight
from thinsight.analysis.ablation import ablation_facts, ablation_table, part_of, spelled
from thinsight.analysis.curves import compression_curve, kept_spread, tokens_needed, tokens_needed_by
from thinsight.analysis.hallucination import count_yes, rename_by_method
from thinsight.analysis.prompt_awareness import prompt_swap, prompt_swaps, swap_summary, training_batches
from thinsight.analysis.results import read_if_run
from thinsight.costs.conventions import FASTV, PROFILER, PYRAMIDDROP
from thinsight.costs.flops import DecoderShape, flops
from thinsight.errors import UserError
from thinsight.evaluation.answer import answer
from thinsight.ledger.published import load_published
from thinsight.papers.par.figures import score_curve_figure
from thinsight.papers.par.flops import counting_table, meets_printed, reductions, tokens_left
from thinsight.papers.par.page import abstract_claims, at_budget, budget_table
from thinsight.report.render import finding
from thinsight.tasks.rows import training_rows

LLAVA = DecoderShape(layers=32, width=4096, ffn=11008, matrices=3, queries=4096, keys=4096)
QUICK = settings(max_examples=30, deadline=None)


def points(**scores) -> pd.DataFrame:
    """run=((share, score), ...)."""
    lines = [{"run": run, "share": x, "score": y, "low": y, "high": y} for run, some in scores.items() for x, y in some]
    return pd.DataFrame(lines)


def par_finding(**values) -> str:
    """The page's finding with these values, and with nothing else run."""
    record = {"questions": 300, "spaces": {"llm": {"accuracy": 0.9, "shuffled": {"accuracy": 0.8, "common": 0.5}}}}
    printed = {"compression": 0.89, "score": 0.9, "flops": 0.83, "times": 2.0}
    nothing = {
        "model": "pocket",
        "statement": "PAR.",
        "kept": [],
        "ways": {},
        "lengths": [0],
        "times": [],
        "whole": [],
        "par": None,
    }
    nothing |= {"printed": printed, "calibration": record, "parts": {"changes": {}, "keeps": 0, "variants": 0}}
    return finding("par/finding.md.j2", nothing | values)


class TestCurve:
    @pytest.fixture(scope="class")
    def made(self):
        """Two tasks of forty questions; the whole model is right on all of one and half of the other."""
        results, rows = [], []
        right = {
            ("plain", "fixed"): ([1, 1, 1, 1], [1, 1, 0, 0]),
            ("some", "keep=0.5"): ([1, 1, 1, 0], [1, 0, 0, 0]),
            ("drawn", "keep=0.5,seed=0"): ([1, 0, 0, 0], [1, 0, 0, 0]),
            ("drawn", "keep=0.5,seed=1"): ([1, 1, 0, 0], [1, 1, 0, 0]),
        }
        for (run, budget), both in right.items():
            for task, some in zip(("one", "two"), both, strict=True):
                kept = 8.0 if run == "plain" else 4.0
                costs = {
                    "visual": kept,
                    "kept": kept,
                    "picture": 8.0,
                    "profiler": kept,
                    "end_to_end": kept,
                    "kv_bytes": kept,
                    "layer": 0,
                }
                results.append({"run": run, "budget": budget, "task": task, "accuracy": np.mean(some), **costs})
                rows += [
                    {"run": run, "budget": budget, "task": task, "id": str(i), "correct": bool(r)}
                    for i, r in enumerate(some * 10)
                ]
        return pd.DataFrame(results), pd.DataFrame(rows)

    def test_relative_score_is_the_mean_of_the_tasks_ratios(self, made):
        found = compression_curve(*made).set_index("run")
        assert found.loc["plain", ["score", "share", "flops"]].tolist() == [1, 1, 1]
        assert found.loc["some", "score"] == pytest.approx((3 / 4 + 1 / 2) / 2)
        assert found.loc["some", ["share", "flops", "kept"]].tolist() == [0.5, 0.5, 4]
        assert found.loc["some", "low"] <= found.loc["some", "score"] <= found.loc["some", "high"]

    def test_draws_are_one_line_with_their_band(self, made):
        line = compression_curve(*made).set_index("run").loc["drawn"]
        first, second = (1 / 4 + 1 / 2) / 2, (2 / 4 + 1) / 2
        assert line["budget"] == "keep=0.5"
        assert line[["least", "score", "most"]].tolist() == pytest.approx([first, (first + second) / 2, second])

    def test_tokens_needed(self):
        found = points(a=((0.5, 0.9), (0.25, 0.7)), dips=((0.5, 0.6), (0.25, 0.9)))
        assert tokens_needed(found, "a", 0.8) == pytest.approx(0.375)
        assert tokens_needed(found, "a", 0.95) == pytest.approx(0.75)
        assert tokens_needed(found, "a", 0.7) == 0.25  # its smallest budget is enough
        assert tokens_needed(found, "dips", 0.8) == pytest.approx(0.75)  # from there on, not only there
        assert math.isnan(tokens_needed(found, "b", 0.7))

    def test_against(self):
        found = points(par=((0.5, 0.9), (0.1, 0.8)), a=((0.5, 0.8), (0.1, 0.6)), b=((0.1, 0.85),))
        needed = tokens_needed_by(found, {"a": "A", "b": "B", "c": "C"}, 0.11, "par").set_index("title")
        assert list(needed.index) == ["B", "A"]
        assert needed.loc["A", "times"] == pytest.approx(5)
        assert needed["least"].tolist() == [True, False]

    def test_what_a_smallest_budget_leaves_open_is_not_said_to_be_needed(self):
        found = points(par=((0.1, 0.8),), a=((0.5, 0.8), (0.1, 0.6)), b=((0.3, 0.85),), c=((0.12, 0.8),))
        times = tokens_needed_by(found, {"a": "A", "b": "B", "c": "C"}, 0.1, "par")
        text = par_finding(times=times.to_dict("records"))
        assert "needed by A (5.0), fewer by C (1.2); open for B (3.0), whose smallest budget is enough." in text

    def test_both_ways_of_keeping_are_set_beside_the_printed_score(self):
        line = {"share": 0.1, "score": 0.8, "low": 0.8, "high": 0.8}
        one, both = (par_finding(kept=kept) for kept in ([line], [line, {**line, "share": 0.12, "high": 0.9}]))
        assert "keeps **80.0%** (80.0% to 80.0%) of pocket's score; the abstract" in one
        assert "prints 90% of its model's, outside that interval." in one
        assert "itself how many, 12% in the mean, 80.0% (80.0% to 90.0%)" in both
        assert "inside one of these intervals." in both
        assert "PAR's curve was not run." in par_finding(kept=[])

    def test_the_table_says_what_was_not_run(self):
        curve = points(par=((0.1, 0.8),), a=((0.5, 0.8),)).assign(flops=0.2)
        times = tokens_needed_by(curve, {"a": "A"}, 0.1, "par")
        table = budget_table(
            at_budget(curve, pd.DataFrame({"run": []}), times, {"par": "PAR", "a": "A", "b": "B"}, 0.1)
        )
        assert table.loc["PAR"].tolist() == ["10%", "20%", "80.0% (80% to 80%)", "", *["not run"] * 4]
        assert table.loc["A", "needs for PAR's score"] == "≤ 50%, 5.0 ×"
        assert table.loc["B", "tokens left"] == "not run"

    def test_a_curve_names_what_was_not_run(self):
        found = points(plain=((1.0, 1.0),), grid=((0.5, 0.9), (0.1, 0.7))).assign(least=0.6, most=0.95)
        figure = score_curve_figure(found, {"trsm": "TRSM", "grid": "uniform grid"})
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert sorted(labels) == ["TRSM: not run", "uniform grid"]
        plt.close(figure)

    def test_mean_of_flops_and_flops_of_the_mean(self):
        shape = DecoderShape(layers=2, width=4, ffn=8, matrices=2, queries=4, keys=4)
        counts = pd.DataFrame(
            {"budget": "b", "kept": [2, 6], "picture": 8, "visual": [[2, 2], [6, 6]], "lengths": [[5, 5], [9, 9]]}
        )
        line = kept_spread(counts, shape, FASTV).iloc[0]
        count = {n: flops(shape, [n, n], FASTV) for n in (5, 7, 9, 11)}
        assert line[["mean", "sd", "least", "most", "share"]].tolist() == [4, 2, 2, 6, 0.5]
        assert line["flops"] == pytest.approx((count[5] + count[9]) / 2 / count[11])
        assert line["flops_of_mean"] == pytest.approx(count[7] / count[11])
        assert line["flops_of_mean"] < line["flops"]


class TestHallucination:
    @QUICK
    @given(st.lists(st.tuples(st.sampled_from(["yes", "no", "Yes.", "maybe"]), st.booleans()), min_size=2))
    def test_counts(self, pairs):
        pairs = [("yes", True), ("no", False), *pairs]
        said, truth = zip(*[(text, "yes" if yes else "no") for text, yes in pairs], strict=True)
        found = count_yes(pd.Series(said), pd.Series(truth))
        affirmed = [text.lower().startswith("yes") for text in said]
        hits = sum(a and t == "yes" for a, t in zip(affirmed, truth, strict=True))
        false = sum(a and t == "no" for a, t in zip(affirmed, truth, strict=True))
        assert found["false_yes"] == pytest.approx(false / truth.count("no"))
        assert found["low"] <= found["false_yes"] <= found["high"]
        assert found["yes"] == pytest.approx(sum(affirmed) / len(said))
        assert found["precision"] == pytest.approx(hits / (hits + false))
        assert found["f1"] == pytest.approx(2 * hits / (2 * hits + false + truth.count("yes") - hits))

    def test_pars_own_choice_is_a_run_of_its_own(self):
        runs = {"run": ["par-exist", "par-exist", "random-exist", "plain-exist"]}
        budgets = ["keep=0.5", "tau_r=1.1", "seed=0", "fixed"]
        methods = {"method": ["par", "par", "random", "identity"], "budget": budgets}
        frame = pd.DataFrame(runs | methods)
        results, answers = rename_by_method(frame, frame.drop(columns="method"))
        assert results["run"].tolist() == answers["run"].tolist() == ["par", "par-adaptive", "random", "plain"]


class TestCounting:
    @pytest.mark.parametrize(("text", "layers"), [(0, 0), (35, 2), (44, 0), (60, 3)])
    def test_by_hand(self, text, layers):
        found = reductions(64).set_index(["convention", "text", "layers"])["reduction"]
        d, m = 4096, 11008
        for convention, matrices in ((FASTV, 2), (PYRAMIDDROP, 3)):
            whole, short = (4 * n * d * d + 2 * n * n * d + matrices * n * d * m for n in (576 + text, 64 + text))
            saved = 1 - (layers * whole + (32 - layers) * short) / (32 * whole)
            assert found[convention.name, text, layers] == pytest.approx(saved, abs=1e-12)

    def test_printed_is_met_before_the_decoder_with_a_short_question_or_behind_two_layers_without_text(self):
        printed = abstract_claims(load_published("par"))
        assert tokens_left(printed["compression"]) == 64
        found = reductions(64)
        met = found[meets_printed(found, printed["flops"])]
        assert set(zip(met["layers"], met["text"], strict=True)) == {(0, 44), (2, 0)}
        text, marks = counting_table(found, printed["flops"])
        shown = text.where(marks).stack().dropna()
        assert {f"{100 * reduction:.1f} ◀" for reduction in met["reduction"]} == set(shown)
        assert not text.where(~marks, "").map(lambda cell: cell.endswith("◀")).any(axis=None)

    def test_visual_only_conventions_know_no_text(self):
        found = reductions(64)
        assert set(found.loc[found["convention"].str.endswith("visual"), "text"]) == {0}


def test_claims_are_those_of_the_file():
    cells = {key[-1]: cell for key, cells in pages.printed("par").items() for cell in cells if key[2] == "abstract"}
    found = abstract_claims(load_published("par"))
    assert found["flops"] == float(cells["FLOPs saving"]["value"]) / 100
    assert found["score"] == float(cells["relative average"]["value"]) / 100
    assert found["times"] == float(cells["token reduction against earlier methods"]["value"])


def test_variants_are_spelled_and_sorted():
    assert spelled({"space": "clip", "asked": ["a", "b"], "keep": None}) == "space = clip, asked = a + b, keep = null"
    assert spelled({}) == "as it is"
    assert part_of({"x": 1, "sign": -1}, {"B": ["y"], "C": ["sign"]}) == "C"
    nothing = ablation_table(*read_if_run(Path("nowhere"), ["par-parts"]), {})
    assert ablation_facts(nothing) == {"changes": {}, "keeps": 0, "variants": 0}


def test_variants_beside_the_method_as_it_is():
    right = {"keep=0.5": [1, 1, 0, 0], "keep=0.5,a=1": [0, 0, 0, 0], "keep=0.5,a=2": [1, 1, 0, 0]}
    rows = pd.DataFrame(
        [
            {"run": "r", "budget": b, "task": "t", "id": str(i), "correct": bool(c)}
            for b, some in right.items()
            for i, c in enumerate(some * 10)
        ]
    )
    results = pd.DataFrame([{"run": "r", "budget": b, "kept": 4.0} for b in right])
    found = ablation_table(results, rows, {"A": ["a"]})
    assert found["difference"].tolist() == [0, -0.5, 0]
    assert found["base"].tolist() == [True, False, False]
    assert ablation_facts(found) == {"changes": {"a = 1": {0.5: -0.5}}, "keeps": 1, "variants": 2}
    assert par_finding(parts=ablation_facts(found)).endswith(
        "Each by its own paired 95 % interval, these change the score, in points: a = 1 (−50.0). "
        "The intervals of 1 other variants hold zero."
    )
    assert par_finding().endswith("The ablation was not run.")


@pytest.fixture(scope="module")
def pocket():
    return thinsight.load_model("pocket")


class TestPromptAwareness:
    rows = training_rows(["exist", "attribute"], 6)

    def test_a_method_that_reads_no_prompt_changes_nothing(self, pocket):
        swap = prompt_swap(*pocket, thinsight.load_method("divprune", keep=16), self.rows)
        assert swap["kept"].tolist() == swap["others"].tolist()
        assert swap["own"].tolist() == swap["other"].tolist()
        assert swap_summary(swap)["common"] == 1

    def test_par_does(self, pocket):
        swap = prompt_swap(*pocket, thinsight.load_method("par", keep=16), self.rows)
        assert {len(patches) for patches in [*swap["kept"], *swap["others"]]} == {16}
        assert swap["kept"].tolist() != swap["others"].tolist()
        summary = swap_summary(swap)
        assert summary["chance"] == pytest.approx(16 / 144)
        common = [len({*a} & {*b}) / 16 for a, b in zip(swap["kept"], swap["others"], strict=True)]
        assert summary["common"] == pytest.approx(np.mean(common))
        assert summary["difference"] == pytest.approx(summary["other"] - summary["own"])

    def test_the_given_sets_are_answered_as_the_method_answers(self, pocket):
        """Own choices and answers are those of the method itself, though all of them are given in one batch."""
        model, processor = pocket
        methods = {name: thinsight.load_method(name, keep=16) for name in ("par", "trsm")}
        swaps = prompt_swaps(*pocket, methods, self.rows)
        batches = list(training_batches(*pocket, self.rows))
        for name, method in methods.items():
            records = [
                record
                for task, batch, inputs in batches
                for record in answer(model, processor, method, inputs, batch, task)
            ]
            assert swaps[name]["id"].tolist() == [record["id"] for record in records]
            assert swaps[name]["kept"].tolist() == [sorted(record["kept"]) for record in records]
            assert swaps[name]["own"].tolist() == [bool(record["correct"]) for record in records]

    def test_refusals(self, pocket):
        with pytest.raises(UserError, match="does not choose once"):
            prompt_swap(*pocket, thinsight.load_method("fastv", keep=16), self.rows)
        with pytest.raises(UserError, match="merges tokens"):
            prompt_swap(*pocket, thinsight.load_method("par", keep=16, merge="mean"), self.rows)


class TestCells:
    """What the executed page saved is what stands in the runs' files and in the published table."""

    def test_curve(self):
        plain = pages.metrics("plain")["scores"]
        for line in pages.saved("par", "curve"):
            cells, names = pages.metrics(line["run"])["scores"], pages.budgets(line["run"], line["budget"])
            ratios = [
                np.mean([cells[task][name]["accuracy"] for name in names]) / plain[task]["fixed"]["accuracy"]
                for task in cells
            ]
            assert pages.same(line["score"], float(np.mean(ratios))), line
            share = [cells[t][n]["visual_tokens_mean"] / cells[t][n]["picture_tokens"] for t in cells for n in names]
            assert pages.same(line["share"], float(np.mean(share))), line

    def test_false_yes(self):
        for line in pages.saved("par", "false_yes"):
            run = line["run"].replace("par-adaptive", "par") + "-exist"
            if not (pages.RUNS / run / "predictions.parquet").is_file():
                pytest.skip(f"{run} is not here")
            said = pq.read_table(pages.RUNS / run / "predictions.parquet").to_pylist()
            names = {
                name: ",".join(f"{k}={v}" for k, v in json.loads(name).items()) or "fixed"
                for name in {s["budget"] for s in said}
            }
            wanted = pages.budgets(run, line["budget"])
            absent = [s for s in said if names[s["budget"]] in wanted and s["answer"] == "no"]
            rate = sum(s["prediction"].lower().startswith("yes") for s in absent) / len(absent)
            assert pages.same(line["false_yes"], rate), line

    def test_parts(self):
        for line in pages.saved("par", "parts"):
            cells = pages.metrics("par-parts")["scores"]
            mean = np.mean([cells[task][line["budget"]]["accuracy"] for task in cells])
            assert pages.same(line["accuracy"], float(mean)), line

    def test_adaptive(self):
        lines = pages.saved("par", "adaptive")
        trace = pages.RUNS / "par-adaptive" / "trace.parquet"
        if not trace.is_file():
            pytest.skip("the traces are not here: `dvc checkout` brings them back")
        kept: dict[str, list[int]] = {}
        for line in pq.read_table(trace, columns=["budget", "kept"]).to_pylist():
            name = ",".join(f"{k}={v}" for k, v in json.loads(line["budget"]).items()) or "fixed"
            kept.setdefault(name, []).append(len(line["kept"]))
        for line in lines:
            found = kept[line["budget"]]
            assert pages.same(line["mean"], float(np.mean(found)))
            assert pages.same(line["sd"], float(np.std(found)))
            assert [int(line["least"]), int(line["most"])] == [min(found), max(found)]
            cells = pages.metrics("par-adaptive")["scores"]
            assert pages.same(
                line["mean"], float(np.mean([cells[t][line["budget"]]["visual_tokens_kept"] for t in cells]))
            )

    def test_flops(self):
        for line in pages.saved("par", "flops"):
            if line["convention"] == PROFILER.name:
                n, text, whole = pages.facts("par")["tokens"], int(line["text"]), int(line["layers"])
                full, short = (flops(LLAVA, [k + text] * 32, PROFILER) for k in (576, n))
                assert pages.same(line["reduction"], 1 - (whole * full + (32 - whole) * short) / (32 * full))

    def test_ledger(self):
        pages.check_printed("par")
        assert {line["paper"] for line in pages.saved("par", "ledger")} == {"PAR"}

    def test_no_number_of_the_abstract_is_typed_into_a_cell(self):
        notebook = json.loads((pages.ROOT / "notebooks" / "par.ipynb").read_text())
        code = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
        assert not re.search(r"\b0?\.(83|89|97)\b", code)
