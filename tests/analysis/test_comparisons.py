"""Methods beside random: the verdicts, their intervals and the table, on runs that are made up row by row."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from thinsight.analysis.comparisons import ABOVE, INSIDE, MEAN, against_random, compare, relative_points
from thinsight.analysis.results import budgets_at, label_runs, shared_budgets
from thinsight.config.catalogue import MethodEntry
from thinsight.errors import UserError
from thinsight.papers.methods import compute, landscape_figure, methods_finding, scoreboard
from thinsight.stats import Bootstrap, paired

N, TASKS = 60, ("count", "read")
SHARES = {"plain": 0.95, "blind": 0.1, "random": 0.5, "good": 0.9, "poor": 0.1, "same": 0.5, "layered": 0.7}
BUDGETS = {
    "plain": ["fixed"],
    "blind": ["fixed"],
    "random": [f"keep={k},seed={s}" for k in (0.5, 0.25) for s in (0, 1, 2)],
    "good": ["keep=0.5", "keep=0.25"],
    "poor": ["keep=0.5", "keep=0.25"],
    "same": ["keep=0.5", "keep=0.25"],
    "layered": ["layer=2", "layer=6", "layer=10"],
}
KEPT = {"fixed": 1.0, "layer=2": 2 / 12, "layer=6": 0.5, "layer=10": 10 / 12}


def entry(name, family="in the decoder", title="", **knobs):
    plain = dict.fromkeys(("about", "scores", "acts", "cost", "paper", "arxiv", "version"), "")
    return MethodEntry(
        name=name, title=title or name, family=family, needs=(), knobs=knobs, official={}, deviations=(), **plain
    )


ENTRIES = {
    "random": entry("random", "control", "random subset", keep=0.5),
    "good": entry("good", title="Good (reconstruction)", keep=0.5),
    "poor": entry("poor", "before the decoder", keep=0.5),
    "same": entry("same", "in the vision tower", keep=0.5),
    "layered": entry("layered", layer=None),
    "absent": entry("absent", title="Absent", keep=0.5),
}


@pytest.fixture(scope="module")
def made():
    """Frames as `analysis.results` reads them; the first budget of 'same' is exactly the first seed of random."""
    lines, rows, rng = [], [], np.random.default_rng(1)
    for run, budgets in BUDGETS.items():
        for budget in budgets:
            share = KEPT.get(budget) or float(re.search(r"keep=([\d.]+)", budget)[1])
            for task in TASKS:
                right = np.arange(N) < SHARES[run] * N
                right = rng.permutation(right) if run in ("random", "same") else right
                if budget == "keep=0.5" and run == "same":
                    right = next(r for r in rows if r["run"] == "random" and r["task"] == task)["all"]
                count = 0 if run == "blind" else share * 144
                lines.append(
                    {"run": run, "method": run, "task": task, "budget": budget, "accuracy": right.mean(), "n": N}
                    | {"low": right.mean() - 0.1, "high": right.mean() + 0.1, "layer": 0, "visual": count}
                    | {"kept": count, "picture": 144.0, "kv_bytes": count + 1}
                    | dict.fromkeys(("profiler", "end_to_end"), count + 20)
                )
                rows += [
                    {"run": run, "budget": budget, "task": task, "id": f"{task}-{i}", "correct": bool(r), "all": right}
                    for i, r in enumerate(right)
                ]
    return pd.DataFrame(lines), pd.DataFrame(rows).drop(columns="all")


@pytest.fixture(scope="module")
def table(made):
    return label_runs(against_random(*made, shared_budgets(made[0])), made[0], ENTRIES)


def line(table, run, keep, task="mean"):
    return table[(table["run"] == run) & (table["keep"] == keep) & (table["task"] == task)].iloc[0]


def test_verdicts(table):
    for task in (*TASKS, "mean"):
        assert line(table, "good", 0.5, task)["verdict"] == "above"
        assert line(table, "poor", 0.5, task)["verdict"] == "below"
        assert line(table, "same", 0.5, task)["verdict"] == "inside"
        assert line(table, "random", 0.25, task)["verdict"] == "inside"


def test_a_score_between_the_seeds_is_inside_though_its_interval_excludes_zero(made):
    results, rows = made
    rows = rows.copy()
    high = (rows["run"] == "random") & (rows["budget"] == "keep=0.5,seed=2")
    rows.loc[high, "correct"] = True  # one seed is always right
    found = against_random(results, rows, [0.5])
    good = line(found, "good", 0.5)
    assert good["least"] > 0
    assert good["verdict"] == "inside"


def test_differences_are_paired(made, table):
    """Against one seed alone they are those of `thinsight.stats.paired`."""
    results, rows = made
    rows = rows[(rows["run"] != "random") | rows["budget"].str.contains("seed=0")]
    results = results[(results["run"] != "random") | results["budget"].str.contains("seed=0")]
    found = line(against_random(results, rows, [0.5]), "good", 0.5, "read")

    def right(run, budget):
        part = rows[(rows["run"] == run) & (rows["budget"] == budget) & (rows["task"] == "read")]
        return dict(zip(part["id"], part["correct"], strict=True))

    other = paired(right("good", "keep=0.5"), right("random", "keep=0.5,seed=0"))
    assert found["difference"] == pytest.approx(other.difference)
    assert (found["least"], found["most"]) == pytest.approx((other.low, other.high), abs=0.02)


def test_the_mean_over_tasks_and_seeds(made, table):
    results, _ = made
    own = results[(results["run"] == "random") & results["budget"].str.startswith("keep=0.5")]
    random = line(table, "random", 0.5)
    assert random["accuracy"] == pytest.approx(own["accuracy"].mean())
    seeds = own.groupby("budget")["accuracy"].mean()
    assert (random["low"], random["high"]) == pytest.approx((seeds.min(), seeds.max()))
    assert random["difference"] == pytest.approx(0)
    good = line(table, "good", 0.5)
    assert good["difference"] == pytest.approx(good["accuracy"] - random["accuracy"])
    assert good["low"] < good["accuracy"] < good["high"]
    assert good["flops"] == pytest.approx((72 + 20) / (144 + 20))


def test_at_equal_flops_random_lies_on_a_line_between_its_budgets(made, table):
    results, rows = made
    good, random = line(table, "good", 0.5), line(table, "random", 0.5)
    assert good["equal_flops"] == pytest.approx(good["difference"])  # the same FLOPs here
    assert random["equal_flops"] == pytest.approx(0)
    dearer = results.assign(
        end_to_end=results["end_to_end"] + 36 * (results["run"] == "good")
    )  # as random at keep = 0.75
    found = line(against_random(dearer, rows, [0.5]), "good", 0.5)
    plain = 0.95
    assert found["equal_flops"] == pytest.approx(good["accuracy"] - (random["accuracy"] + plain) / 2, abs=1e-6)
    cheaper = results.assign(end_to_end=results["end_to_end"] - 90 * (results["run"] == "good"))
    assert np.isnan(line(against_random(cheaper, rows, [0.5]), "good", 0.5)["equal_flops"])


def test_which_budgets_stand_for_a_share(made):
    results, _ = made
    assert budgets_at(results, "random", 0.25) == ["keep=0.25,seed=0", "keep=0.25,seed=1", "keep=0.25,seed=2"]
    assert budgets_at(results, "good", 0.3) == []
    assert budgets_at(results, "plain", 0.5) == []
    assert budgets_at(results, "layered", 0.45) == ["layer=6"]
    assert budgets_at(results, "layered", 0.25) == ["layer=2"]
    assert shared_budgets(results) == [0.5, 0.25]
    with pytest.raises(UserError, match="no budget keep="):
        shared_budgets(results[results["run"] == "plain"])
    with pytest.raises(UserError, match=r"has no budget keep=0\.3"):
        against_random(*made, [0.3])


def test_runs_on_other_questions_are_refused(made):
    _, rows = made
    with pytest.raises(UserError, match="not scored on the same questions"):
        Bootstrap(rows.iloc[1:])


def test_points_are_relative_to_the_whole_model(made):
    found = relative_points(*made).set_index(["run", "budget"])
    assert found.loc[("plain", "fixed"), ["flops", "score", "low", "high"]].tolist() == [1, 1, 1, 1]
    assert found.loc[("good", "keep=0.5"), "score"] == pytest.approx(0.9 / 0.95)
    random = found.loc[("random", "keep=0.5")]
    assert random["least"] <= random["score"] <= random["most"]


@pytest.fixture(scope="module")
def page(made):
    return compute(*made, ENTRIES)


def test_the_scoreboard(page):
    text = scoreboard(page)
    rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    names = [re.search(r"<th[^>]*>(?:<span>)?([^<]*)", row)[1] for row in rows]
    assert names[:4] == ["method", "whole model", "no picture", "72 of 144 tokens (as 288 of 576)"]
    assert names[4] == "random subset"
    assert names[5:9] == ["Good", "layered", "same", "poor"]  # by their mean
    assert "Not run: Absent." in text
    good, layered, poor = rows[5], rows[6], rows[8]
    assert ">90.0<" in good
    assert "○" not in good
    assert poor.count("▾") == 3
    assert "layer 6" in layered
    assert 'title="+' in good
    assert "○" not in rows[4]  # random beside itself says nothing


def test_the_finding_counts_the_verdicts(page):
    text, table = methods_finding(page), page.table
    assert "With 72 and 36 of 144 tokens" in text
    above = [(table["keep"] == k) & (table["task"] == "mean") & (table["verdict"] == "above") for k in (0.5, 0.25)]
    assert f"**{above[0].sum()} and {above[1].sum()} of 4 methods beat a random subset**" in text
    assert "Below it: poor." in text
    good = table[table["run"].isin(["random", "good"])]
    assert "**1 and 1 of 1 methods" in methods_finding(replace(page, table=good))
    several = table[table["run"].isin(["random", "good", "layered"])].assign(verdict="above")
    assert "**all 2 methods" in methods_finding(replace(page, table=several))
    assert "No published method" in methods_finding(replace(page, table=table[table["run"] == "random"]))


def test_the_finding_sets_methods_in_the_decoder_beside_random_in_the_decoder(page):
    """'good' and 'layered' act there."""
    assert "in the decoder" not in methods_finding(page)
    for verdict, words in {"above": "all 2 methods that act there", "inside": "0 of 2 methods"}.items():
        inside = page.table.assign(verdict=verdict)
        assert f"beaten by {words}" in methods_finding(replace(page, inside=inside))


def test_a_control_in_the_decoder_says_so(made):
    results, rows = (frame[frame["run"].isin(["plain", "random"])] for frame in made)
    again = results[results["run"] == "random"].assign(run="random_later", layer=2)
    more = rows[rows["run"] == "random"].assign(run="random_later")
    results, rows = pd.concat([results, again]), pd.concat([rows, more])
    found = label_runs(against_random(results, rows, [0.5]), results, ENTRIES).set_index("run")
    later = found.loc["random_later"].iloc[0]
    assert (later["title"], later["place"]) == ("random subset, layer 2", "in the decoder")
    assert found.loc["random"].iloc[0]["place"] == "before the decoder"


def test_the_landscape_has_a_panel_for_each_place(page):
    figure = landscape_figure(page)
    runs = page.table.drop_duplicates("run").set_index("run").drop(index="random")
    assert {axis.get_title() for axis in figure.axes if axis.get_title()} == set(runs["place"])
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert {text.get_text() for legend in legends for text in legend.get_texts()} == {*runs["title"], "random subset"}


def test_one_comparison_for_tasks_their_mean_and_a_base_of_each_line(made):
    results, rows = made
    seeds = [f"keep=0.5,seed={seed}" for seed in (0, 1, 2)]
    lines = {"whole": ("plain", ["fixed"]), "good": ("good", ["keep=0.5"]), "random": ("random", seeds)}
    bases = {"whole": "whole", "good": "random", "random": "whole"}
    table = compare(results.assign(fastv=0.0), rows, lines, bases)
    assert table["task"].tolist() == [*TASKS, MEAN] * 3
    table = table.set_index(["line", "task"])
    good, random = table.loc[("good", MEAN)], table.loc[("random", MEAN)]
    assert good["difference"] == pytest.approx(0.9 - random["accuracy"])
    assert good["low"] < good["difference"] < good["high"]
    assert good["accuracy_low"] < good["accuracy"] < good["accuracy_high"]
    assert good["n"] == N * len(TASKS)
    assert good["p"] < 0.001
    shares = [table.loc[("random", task), "accuracy"] / 0.95 for task in TASKS]
    assert random["share"] == pytest.approx(np.mean(shares))
    assert good["profiler"] == pytest.approx(72 + 20)
    assert "profiler" not in compare(None, rows, lines, "whole")


def test_what_has_draws_itself_is_outside_only_if_all_of_them_are():
    """The mean of the grid's phases is far above random, but one of them is below it."""
    shares = {("plain", "fixed"): 1.0, ("random", "keep=0.5,seed=0"): 0.4, ("random", "keep=0.5,seed=1"): 0.45}
    shares |= {("grid", "keep=0.5,phase=0.1"): 0.3, ("grid", "keep=0.5,phase=0.9"): 0.9}
    shares |= {("high", "keep=0.5,phase=0.1"): 0.8, ("high", "keep=0.5,phase=0.9"): 0.9}
    same = {"task": "read", "layer": 0, "visual": 72.0, "kept": 72.0, "picture": 144.0, "kv_bytes": 1}
    results = pd.DataFrame(
        {
            "run": run,
            "budget": budget,
            "accuracy": share,
            "low": 0.0,
            "high": 1.0,
            "profiler": share,
            "end_to_end": share,
        }
        | same
        for (run, budget), share in shares.items()
    )
    rows = pd.DataFrame(
        {"run": run, "budget": budget, "task": "read", "id": i, "correct": i < 100 * share}
        for (run, budget), share in shares.items()
        for i in range(100)
    )
    found = against_random(results, rows, [0.5]).query("task == 'mean'").set_index("run")
    assert found.loc["grid", "least"] > 0
    assert found["verdict"].to_dict() == {"random": INSIDE, "grid": INSIDE, "high": ABOVE}
    assert (found.loc["grid", "low"], found.loc["grid", "high"]) == (0.3, 0.9)
