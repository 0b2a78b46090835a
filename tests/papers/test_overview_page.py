"""The page of all results: known comparisons, fronts, ranks, taus on made-up runs; its cells and the runs' files."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import yaml
from bs4 import BeautifulSoup
from helpers import page_files as pages

from thinsight.analysis.comparisons import compare_methods, kind_changes, scores_by_kind, survivors
from thinsight.analysis.curves import at_budgets, front, pareto
from thinsight.analysis.ranks import rank_agreement, rank_stability
from thinsight.analysis.results import label_runs
from thinsight.config.catalogue import MethodEntry
from thinsight.ledger.ledger import count_all, count_verdicts, reasons
from thinsight.ledger.published import published_files
from thinsight.ledger.verdicts import COST, NEEDS, NOT_RUN, RECOMPUTED, SCORE, VERDICTS
from thinsight.papers.overview import (
    budget_heat,
    budget_name,
    compute,
    front_table,
    kind_heat,
    ledger_table,
    overview_finding,
    relative_table,
    survivors_table,
)
from thinsight.papers.overview_figures import agreement_figure, ledger_figure, pareto_figure, rank_figure
from thinsight.paths import ROOT

N, TASKS, KINDS = 40, ("count", "read"), ("few", "many")
KEEPS = [0.5, 0.25]
RIGHT = {  # how many of N each run has right, per task
    "plain": {"fixed": (40, 20)},
    "good": {"keep=0.5": (40, 20), "keep=0.25": (36, 18)},
    "fair": {"keep=0.5": (30, 15), "keep=0.25": (30, 15)},
    "poor": {"keep=0.5": (20, 10), "keep=0.25": (4, 2)},
    "random": {f"keep={k},seed={s}": n for (k, n), s in product({"0.5": (20, 10), "0.25": (8, 4)}.items(), (0, 1, 2))},
}
FLOPS = {"plain": 100, "keep=0.5": 60, "keep=0.25": 30}


def entry(name, family):
    words = dict.fromkeys(("about", "scores", "acts", "cost", "paper", "arxiv", "version"), "")
    return MethodEntry(
        name=name, title=name.title(), family=family, needs=(), knobs={"keep": 0.5}, official={}, deviations=(), **words
    )


PLACES = {
    "good": "in the decoder",
    "fair": "before the decoder",
    "poor": "in the vision tower",
    "absent": "in the decoder",
}
ENTRIES = {name: entry(name, PLACES.get(name, "control")) for name in ("good", "fair", "poor", "random", "absent")}


@pytest.fixture(scope="module")
def made():
    """Frames as `thinsight.analysis.results` reads them; the first questions of a task are right, halves of a kind."""
    lines, rows = [], []
    for run, of in RIGHT.items():
        for budget, counts in of.items():
            cost = FLOPS["plain"] if run == "plain" else FLOPS[budget.partition(",")[0]]
            for task, right in zip(TASKS, counts, strict=True):
                lines.append(
                    {"run": run, "method": run, "task": task, "budget": budget, "accuracy": right / N, "n": N}
                    | {"low": 0.0, "high": 1.0, "layer": 0, "visual": 36.0, "kept": 36.0, "picture": 144.0}
                    | {"kv_bytes": 1.0, "profiler": cost, "end_to_end": cost}
                )
                rows += [
                    {"run": run, "budget": budget, "task": task, "id": f"{task}-{i}", "kind": KINDS[i >= N // 2]}
                    | {"correct": i < right}
                    for i in range(N)
                ]
    return pd.DataFrame(lines), pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table(made):
    return label_runs(compare_methods(*made, KEEPS), made[0], ENTRIES)


def line(frame, **wanted):
    for key, value in wanted.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_a_comparison_by_hand(table):
    fair = line(table, run="fair", keep=0.25, task="count")
    assert (fair["accuracy"], fair["relative"], fair["n"]) == (0.75, 0.75, N)
    assert (fair["random"], fair["whole"]) == pytest.approx((22 / N, -10 / N))
    assert fair["random_p"] == pytest.approx(2 / 2**22)  # right on 22 more, wrong on none
    assert fair["whole_p"] == pytest.approx(2 / 2**10)
    assert fair["whole_low"] < -0.25 < fair["whole_high"] < 0
    mean = line(table, run="fair", keep=0.25, task="mean")
    assert (mean["accuracy"], mean["relative"], mean["n"]) == pytest.approx(((0.75 + 0.375) / 2, 0.75, 2 * N))
    assert mean["random_p"] == pytest.approx(2 / 2**33)
    assert np.isnan(line(table, run="random", keep=0.5, task="mean")["random_p"])
    assert "plain" not in set(table["run"])


def test_holm_is_over_all_comparisons_of_a_kind(table):
    """Of all questions: 4 runs x 2 budgets against the whole model, 3 x 2 against random: 14."""
    means = table[table["task"] == "mean"]
    asked = [p for name in ("random", "whole") for p in means[f"{name}_p"] if not np.isnan(p)]
    assert len(asked) == 14
    naive, highest = {}, 0.0
    for step, p in enumerate(sorted(asked)):
        highest = max(highest, min(1.0, p * (14 - step)))
        naive.setdefault(p, highest)
    for name in ("random", "whole"):
        there = means[means[f"{name}_p"].notna()]
        assert all(
            naive[p] <= found + 1e-15 for p, found in zip(there[f"{name}_p"], there[f"{name}_holm"], strict=True)
        )
        assert (there[f"{name}_fdr"] <= there[f"{name}_holm"] + 1e-15).all()
    counts = survivors(table).set_index(["kind", "against"])
    # good and fair are above random at both budgets, poor equals it at one and is below it at the other by 6 questions
    assert counts.loc[("mean", "random"), ["comparisons", "nominal", "holm", "better"]].tolist() == [6, 5, 4, 4]
    # all but good at 0.5 lose; good at 0.25 by 6 questions, p = 1/32, which does not survive
    assert counts.loc[("mean", "whole"), ["comparisons", "nominal", "holm", "worse"]].tolist() == [8, 7, 6, 6]
    assert counts.loc[("single tasks", "whole"), "comparisons"] == 16


def test_draws_must_agree(made):
    """A method that beats two draws and not the third does not beat random."""
    results, rows = made
    rows = rows.copy()
    same = (rows["run"] == "random") & (rows["budget"] == "keep=0.5,seed=1")
    rows.loc[same, "correct"] = rows.loc[(rows["run"] == "good") & (rows["budget"] == "keep=0.5"), "correct"].to_numpy()
    assert line(compare_methods(results, rows, [0.5]), run="good", task="mean")["random_p"] == 1
    assert line(compare_methods(results, rows, [0.5]), run="fair", task="mean")["random_p"] == 1  # one draw is above it


def test_a_front_by_hand():
    flops = np.array([0.2, 0.2, 0.4, 0.4, 0.6, 0.8, 1.0])
    scores = np.array([0.5, 0.7, 0.7, 0.8, 0.6, 0.9, 0.9])
    assert front(flops, scores).tolist() == [False, True, False, True, False, True, False]
    assert front(flops, np.stack([scores, scores[::-1]])).shape == (2, 7)
    assert front(np.array([0.3, 0.3]), np.array([0.5, 0.5])).all()  # equals share


def test_a_front_is_what_nothing_dominates():
    rng = np.random.default_rng(0)
    flops, scores = rng.integers(1, 8, 40) / 8, rng.integers(1, 12, (5, 40)) / 12
    for draw, found in zip(scores, front(flops, scores), strict=True):
        for i in range(40):
            beaten = (flops <= flops[i]) & (draw >= draw[i]) & ((flops < flops[i]) | (draw > draw[i]))
            assert found[i] == (not beaten.any())


def test_the_front_of_runs(made):
    found = pareto(*made)
    on = set(zip(found.loc[found["front"], "run"], found.loc[found["front"], "budget"], strict=True))
    assert on == {("good", "keep=0.25"), ("good", "keep=0.5")}
    assert line(found, run="plain")["frequency"] == 0  # good at half the tokens is as good and cheaper
    assert line(found, run="good", budget="keep=0.5")["frequency"] > 0.9
    assert line(found, run="fair", budget="keep=0.5")["frequency"] == 0
    assert found["frequency"].between(0, 1).all()
    assert (found["run_frequency"] >= found["frequency"]).all()


def test_a_point_that_nothing_is_cheaper_than_does_not_count_for_its_run(made):
    results, rows = made
    cheap = results.assign(
        end_to_end=results["end_to_end"].where((results["run"] != "poor"), results["end_to_end"] - 20)
    )
    found = pareto(cheap, rows)
    poor = line(found, run="poor", budget="keep=0.25")
    assert (poor["front"], poor["frequency"]) == (True, 1)
    assert poor["run_frequency"] == line(found, run="poor", budget="keep=0.5")["frequency"]


def test_ranks_by_hand(made):
    found = rank_stability(*made, KEEPS, ["good", "fair", "poor"])
    for keep, rank in product(KEEPS, (("good", 1), ("fair", 2), ("poor", 3))):
        assert line(found, keep=keep, run=rank[0])["rank"] == rank[1]
    good = line(found, keep=0.5, run="good")
    assert good["low"] == 1
    assert good["first"] > 0.99
    seeds = found[found["run"] == "random"]
    assert seeds[seeds["keep"] == 0.5]["rank"].tolist() == [3.5] * 3  # as poor
    assert seeds[seeds["keep"] == 0.25]["rank"].tolist() == [3.0] * 3  # above poor alone


def test_taus_by_hand(made):
    """The same order everywhere is 1; one swapped pair of three is (2 - 1) / 3."""
    results, rows = made
    runs = ["good", "fair", "poor"]
    found = rank_agreement(results, rows, KEEPS, runs)
    assert line(found, first="count", second="read")["tau"] == pytest.approx(1)
    assert line(found, first=0.5, second=0.25)["tau"] == pytest.approx(1)
    assert len(found[found["first"] == found["second"]]) == len(TASKS) + len(KEEPS)
    rows = rows.copy()
    for run, right in {"fair": 1, "poor": 12}.items():  # swap two of them on the task read
        part = (rows["run"] == run) & (rows["task"] == "read")
        rows.loc[part, "correct"] = rows.loc[part, "id"].str.extract(r"(\d+)")[0].astype(int) < right
    assert line(rank_agreement(results, rows, KEEPS, runs), first="count", second="read")["tau"] == pytest.approx(1 / 3)
    alone = rank_agreement(results, rows, [0.5], ["good"])
    assert alone["tau"].isna().all()
    assert rank_agreement(results, rows, [0.5], [])["tau"].isna().all()


def test_kinds_by_hand(made):
    """The first half of a task's questions is 'few': poor at 0.25 has 4 of them right on count, none of 'many'."""
    found = scores_by_kind(*made, KEEPS)
    few = line(found, run="poor", keep=0.25, task="count", kind="few")
    assert (few["n"], few["whole"], few["accuracy"], few["change"]) == pytest.approx((20, 1, 0.2, -0.8))
    assert few["low"] < -0.8 < few["high"] < 0
    many = line(found, run="poor", keep=0.25, task="read", kind="many")
    assert (many["change"], many["low"], many["high"]) == (0, 0, 0)
    order = kind_changes(found[found["run"] == "poor"])
    assert order["change"].is_monotonic_increasing
    assert order.iloc[0][["task", "kind"]].tolist() == ["count", "many"]


@pytest.fixture(scope="module")
def page(made, entered):
    return compute(*made, ENTRIES, entered)


def test_the_table_says_what_the_frame_says(page):
    soup = BeautifulSoup(relative_table(page), "html.parser")
    rows = {row.th.text: [cell.text for cell in row.find_all("td")] for row in soup.find_all("tr") if row.td}
    assert list(rows) == ["Goodin the decoder", "Fairbefore the decoder", "Poorin the vision tower", "Random"]
    assert "72 of 144 tokens (as 288 of 576)" in soup.thead.text
    good, fair, poor, random = rows.values()
    assert fair[0].startswith("75.0")
    assert ["▴" in cell for cell in fair] == [False, True, False, True]
    assert not any("▴" in cell or "▾" in cell for cell in [*poor, *random])
    assert random[1] == "–"  # random is not compared with itself
    bold = {cell.text for cell in soup.find_all("td") if cell.get("id")}
    assert bold.isdisjoint(good)
    assert {fair[0], fair[2]} <= bold
    assert "Not run: Absent." in soup.text
    cells = [cell.text for cell in BeautifulSoup(survivors_table(page), "html.parser").find_all("td")]
    assert cells[:2] == ["6", "5"]  # against random: of six comparisons five have p below the level


def test_the_heat_maps(made, entered, page):
    text = budget_heat(page)
    assert text.count("<td") == 4 * len(KEEPS) * len(TASKS)
    assert "Fair, count: 75.0% on 40 questions, 75.0% of the whole model" in text
    text = kind_heat(page)
    assert text.count("<td") == 4 * len(TASKS) * len(KINDS)
    assert ">−80</td>" in text
    assert "few (20)" in text
    kinds = page.kinds[(page.kinds["run"] != "fair") | (page.kinds["task"] != "read")]
    assert kind_heat(replace(page, kinds=kinds)).count(">–</td>") == 2


def test_the_front_is_of_the_budgets_that_are_asked_for(made):
    results, rows = made
    few = pareto(results, rows, [0.25])
    assert set(few.loc[few["run"] != "plain", "budget"]) == {"keep=0.25"}
    assert set(few["run"]) == set(results["run"])
    assert set(pareto(results, rows, KEEPS)["budget"]) == set(pareto(results, rows)["budget"])
    layered = results.assign(budget=results["budget"].where(results["run"] != "good", "layer=3"))
    assert (layered["run"] == "good").any()
    kept = at_budgets(layered, [0.25])
    assert set(kept.loc[kept["run"] == "good", "budget"]) == {"layer=3"}


def test_the_front_is_listed_by_cost(page):
    cells = [row.find_all("td") for row in BeautifulSoup(front_table(page), "html.parser").tbody.find_all("tr")]
    assert [cell[0].text for cell in cells] == ["36 tokens", "72 tokens"]
    assert [cell[1].text for cell in cells] == ["30.0%", "60.0%"]
    assert [budget_name(b, 144) for b in ("keep=0.1111", "layer=3", "fixed", "keep=16")] == [
        "16 tokens", "layer 3", "", "keep 16",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def entered():
    lines = [("A", "", RECOMPUTED, "one", "")] * 2 + [("A", "", RECOMPUTED, "two", "")]
    lines += [("B", NEEDS, "", "", "LLaVA-1.5-7B was not run")] * 5 + [("B", NEEDS, "", "", "Qwen2-VL was not run")]
    lines += [("C", "", RECOMPUTED, "one", ""), ("D", "", NOT_RUN, "", "slow")]
    return pd.DataFrame(lines, columns=["paper", SCORE, COST, "computation", "why"]).assign(average="", mark="")


def test_the_ledger_is_counted(entered):
    counts = count_verdicts(entered)
    assert counts["paper"].tolist() == ["B", "A", "C", "D"]
    assert counts["total"].tolist() == [6, 3, 1, 1]
    assert counts.loc[1, [f"{COST}: {RECOMPUTED}", "computations"]].tolist() == [3, 2]
    assert count_all(entered)["computations"] == 2  # A and C print the same one
    few = count_verdicts(entered, 3)
    assert few["paper"].tolist() == ["B", "A", "2 other papers"]
    assert few["total"].sum() == len(entered)
    assert reasons(entered)[["numbers", "papers"]].to_numpy().tolist() == [[6, 1], [1, 1]]


def test_the_finding(page):
    text = overview_finding(page)
    assert "With 25.0% of the tokens **2 of 3 published methods beat a random subset**" in text
    assert "2 lose to the whole model, after correction for 14 comparisons" in text
    assert "Good (100%)" in text
    assert "The most is lost on count, many" in text
    assert text.startswith(
        "Scores obtained on the papers' models: none of 6. Cost numbers that recompute: 4 of 5 (2 distinct"
    )
    assert "11 numbers of 4 documents" in text
    assert page.facts["verdicts"]["total"] == 11
    assert "score: 6 of 1 paper: a score of a model or benchmark that was not run" in ledger_table(page)


def test_the_figures_show_every_line(made, entered, page):
    figure = pareto_figure(page)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert [label.partition(":")[0] for label in labels] == ["Good, 36 tokens", "Good, 72 tokens"]
    names = [label.get_text() for label in rank_figure(page).axes[0].get_yticklabels()]
    assert names == ["Good", "Fair", "Poor", "Random (each seed)"]
    assert len(agreement_figure(page).axes) == 2
    few = {keep: head for keep, head in page.heads.items() if keep == min(KEEPS)}
    assert len(agreement_figure(replace(page, heads=few)).axes) == 1  # one budget agrees with no other
    labels = ledger_figure(entered).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["D", "C", "A", "B"]


def test_without_any_published_method_the_page_has_nothing_to_show_and_says_so(made, entered):
    results, rows = (frame[frame["run"].isin(["plain", "random"])] for frame in made)
    page = compute(results, rows, ENTRIES, entered)
    assert "Not run: Good, Fair, Poor" in relative_table(page)
    assert "No published method" in overview_finding(page)
    rank_figure(page)
    agreement_figure(page)
    pareto_figure(page)


# The executed page against the files of the runs, read without the package.


def _binomial(wins, losses):
    """Two-sided: twice the smaller tail of a fair coin."""
    n = wins + losses
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)


def _end_to_end(cell) -> float:
    return cell["prefill_flops"]["profiler_last_row"] + cell["vision_flops"] + cell["choice_flops"]


def _mean_accuracy(run, names, tasks):
    scores = pages.metrics(run)["scores"]
    return [sum(scores[task][name]["accuracy"] for name in names) / len(names) for task in tasks]


def test_the_pages_scores_are_those_of_the_runs():
    lines = pages.saved("overview", "relative")
    pages.check_scores([cell for cell in lines if cell["task"] != "mean"])
    tasks = list(dict.fromkeys(cell["task"] for cell in lines if cell["task"] != "mean"))
    whole = _mean_accuracy("plain", ["fixed"], tasks)
    for cell in (cell for cell in lines if cell["task"] == "mean"):
        own = _mean_accuracy(cell["run"], pages.budgets(cell["run"], cell["budget"]), tasks)
        random = _mean_accuracy("random", pages.budgets("random", f"keep={cell['keep']}"), tasks)
        assert pages.same(cell["accuracy"], sum(own) / len(tasks))
        assert pages.same(cell["relative"], sum(a / b for a, b in zip(own, whole, strict=True)) / len(tasks))
        assert pages.same(cell["whole"], sum(own) / len(tasks) - sum(whole) / len(tasks))
        if cell["random"]:
            assert pages.same(cell["random"], sum(own) / len(tasks) - sum(random) / len(tasks), 5)


def test_the_pages_p_are_mcnemars():
    lines = [cell for cell in pages.saved("overview", "relative") if cell["task"] == "mean"]
    for cell in lines:
        for name, (other, names) in {
            "whole": ("plain", ["fixed"]),
            "random": ("random", pages.budgets("random", f"keep={cell['keep']}")),
        }.items():
            if not cell[f"{name}_p"]:
                assert cell["run"] == other
                continue
            found = []
            for mine, theirs in product(pages.budgets(cell["run"], cell["budget"]), names):
                own, beside = pages.right(cell["run"], mine), pages.right(other, theirs)
                assert own.keys() == beside.keys()
                pairs = [(own[key] > 0.5, beside[key] > 0.5) for key in own]
                found.append((pairs.count((True, False)), pairs.count((False, True))))
            agree = len({(wins > losses) - (wins < losses) for wins, losses in found}) == 1
            expected = max(_binomial(*pair) for pair in found) if agree else 1.0
            assert float(cell[f"{name}_p"]) == pytest.approx(expected, rel=1e-4)
    asked = sorted(float(cell[f"{name}_p"]) for cell in lines for name in ("random", "whole") if cell[f"{name}_p"])
    sure = sum(float(cell[f"{name}_holm"] or 1) < 0.05 for cell in lines for name in ("random", "whole"))
    steps = [p * (len(asked) - step) < 0.05 for step, p in enumerate(asked)]
    assert sure == (steps.index(False) if False in steps else len(steps))
    counts = {(row["kind"], row["against"]): row for row in pages.facts("overview")["survivors"]}
    assert sum(counts["mean", name]["holm"] for name in ("random", "whole")) == sure


def test_the_pages_front_is_of_the_runs_flops_and_scores():
    lines = pages.saved("overview", "front")
    tasks = list(pages.metrics("plain")["scores"])
    whole = _mean_accuracy("plain", ["fixed"], tasks)
    for point in lines:
        names, scores = pages.budgets(point["run"], point["budget"]), pages.metrics(point["run"])["scores"]
        own = _mean_accuracy(point["run"], names, tasks)
        assert pages.same(point["score"], sum(a / b for a, b in zip(own, whole, strict=True)) / len(tasks), 5)
        base = pages.metrics("plain")["scores"]
        shares = [
            scores[task][name]["prefill_flops"]["profiler"] / base[task]["fixed"]["prefill_flops"]["profiler"]
            for task, name in product(tasks, names)
        ]
        assert pages.same(point["flops"], sum(shares) / len(shares), 5)
        shares = [
            _end_to_end(scores[task][name]) / _end_to_end(base[task]["fixed"]) for task, name in product(tasks, names)
        ]
        assert pages.same(point["end_to_end"], sum(shares) / len(shares), 5)
    for point in lines:
        cost, score = round(float(point["end_to_end"]), 3), float(point["score"])
        others = [(round(float(o["end_to_end"]), 3), float(o["score"])) for o in lines]
        beaten = any(f <= cost and s >= score and (f < cost or s > score) for f, s in others)
        assert (point["front"] == "True") == (not beaten)


def test_the_pages_kinds_are_of_the_runs():
    lines = pages.saved("overview", "kinds")
    sums: dict[tuple[str, str, str], list[float]] = {}
    for cell in lines:
        scores = pages.metrics("plain")["scores"][cell["task"]]["fixed"]["kinds"][cell["kind"]]
        assert int(cell["n"]) == scores["n"]
        assert pages.same(cell["whole"], scores["accuracy"], 5)
        assert pages.same(cell["change"], float(cell["accuracy"]) - float(cell["whole"]), 4)
        sums.setdefault((cell["run"], cell["keep"], cell["task"]), []).append(int(cell["n"]) * float(cell["accuracy"]))
    by_task = {(c["run"], c["keep"], c["task"]): c for c in pages.saved("overview", "relative")}
    for key, parts in sums.items():
        assert sum(parts) / int(by_task[key]["n"]) == pytest.approx(float(by_task[key]["accuracy"]), abs=1e-4)


def test_the_summary_counts_every_printed_number():
    lines = pages.saved("overview", "summary")
    found = {line["paper"]: int(line["total"]) for line in lines}
    wanted: dict[str, int] = {}
    for file in pages.PUBLISHED.glob("*.csv"):
        for cells in pages.printed(file.stem).values():
            for cell in cells:
                wanted[cell["paper"]] = wanted.get(cell["paper"], 0) + 1
    assert found == wanted
    parts = [f"{question}: {verdict}" for question in (SCORE, COST) for verdict in VERDICTS[question]]
    assert all(int(line["total"]) == sum(int(line[part]) for part in parts) for line in lines)


def test_the_pages_ledger_is_of_the_papers_without_a_page():
    pages.check_printed("overview")
    listed = yaml.safe_load((ROOT / "params.yaml").read_text())["pages"]
    pages.check_complete(pages.saved("overview", "ledger"), [name for name in published_files() if name not in listed])
