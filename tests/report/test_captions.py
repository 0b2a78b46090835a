"""What figures show, in words: the sentences say the frames' own numbers, and the captions of the report begin so."""

import nbformat
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure

from thinsight.analysis.comparisons import MEAN
from thinsight.analysis.ranks import BUDGETS, TASKS
from thinsight.report.artifacts import stating
from thinsight.report.page import page_body
from thinsight.report.wording import (
    answers_sentence,
    attention_sentence,
    brought_sentence,
    cheapest_sentence,
    first_sentence,
    heeding_sentence,
    moved_sentence,
    orders_sentence,
    overlap_sentence,
    places_sentence,
    spread_sentence,
    stages_sentence,
    thresholds_sentence,
    withdrawn_sentence,
)


def test_attention_is_the_pictures_in_both_halves():
    lines = [
        {"rows": "question", "layer": k, "group": "visual", "share": s} for k, s in enumerate((0.8, 0.6, 0.2, 0.0))
    ]
    lines += [{"rows": "question", "layer": 0, "group": "system", "share": 1.0}]
    assert "from question rows 70% and 10%" in attention_sentence(pd.DataFrame(lines))


def test_thresholds():
    said = thresholds_sentence({0.003: 7, 0.0001: None})
    assert said == "The mean divergence is below 0.003 from layer 7 on and 0.0001 at no layer."


@pytest.mark.parametrize(
    ("scores", "where"),
    [((0.5, 0.9, 0.8, 0.9), "From layer 4 on"), ((0.9, 0.895, 0.9, 0.9), "From layer 1 on"), ((0.5,) * 4, "Nowhere")],
)
def test_withdrawn_counts_from_where_it_stays(scores, where):
    """Layer 2 is enough in the first case, but layer 3 is not."""
    curve = pd.DataFrame({"task": "a", "layer": [1.0, 2.0, 3.0, 4.0], "accuracy": scores})
    whole, blind = (pd.DataFrame({"task": ["a"], "accuracy": [of]}) for of in (0.9, 0.4))
    said = withdrawn_sentence(curve, whole, blind)
    assert said.startswith(where)
    assert f"before layer 1 it is {scores[0]:.1%}" in said
    assert "without the picture 40.0%" in said


def test_cheapest_and_never():
    frame = pd.DataFrame({"run": ["a", "a", "b", "plain"], "flops": [0.5, 0.3, 0.9, 1], "score": [1, 0.99, 0.98, 1]})
    said = cheapest_sentence(frame, {"a": "A", "b": "B", "c": "not there"})
    assert "by A (30%); never by B." in said


def test_heeding_names_sure_losses_only():
    frame = pd.DataFrame({"method": ["a", "b"], "common": [0.5, 0.9], "difference": [-0.2, -0.1], "high": [-0.01, 0.0]})
    said = heeding_sentence(frame)
    assert "50% to 90%" in said
    assert "under a (-20.0 points). No interval says so of: b." in said


def test_overlap_is_a_share_of_the_smaller_set():
    assert "keeps 2 to 4 tokens" in overlap_sentence([[1, 2], [2, 3], [1, 2, 3, 4]])
    assert "83% in common in the mean (50% to 100%)" in overlap_sentence([[1, 2], [2, 3], [1, 2, 3, 4]])


def test_spread_takes_the_widest_for_its_mean():
    frame = pd.DataFrame({"budget": ["x", "y"], "mean": [10.0, 90.0], "sd": [5.0, 6.0]})
    frame = frame.assign(least=[1, 80], most=[20, 99])
    assert "under loose: 1 to 20, 10 ± 5." in spread_sentence(frame, {"x": "loose", "y": "strict"})
    assert spread_sentence(frame[:0], {}) == ""


def test_first_and_whose_interval_reaches_it():
    lines = [("a", 1, 1, 1.5, 0.9), ("b", 2, 1.5, 3, 0.1), ("c", 3, 2, 3, 0.0), ("random", 4, 4, 4, None)]
    frame = pd.DataFrame([dict(zip(("run", "rank", "low", "high", "first"), line, strict=True)) for line in lines])
    said = first_sentence(frame.assign(keep=0.1), {"a": "A", "b": "B", "c": "C"})
    assert said == (
        "At the smallest budget A is first in 90% of the resamples; of 2 others the intervals of B reach its own."
    )


def test_orders_beside_themselves():
    lines = [(TASKS, "a", "b", 0.2), (TASKS, "a", "a", 0.6), (TASKS, "b", "b", 0.8), (BUDGETS, 0.1, 0.1, 0.9)]
    said = orders_sentence(pd.DataFrame(lines, columns=["of", "first", "second", "tau"]))
    assert said == "In the mean two tasks agree with a τ of 0.20, halves of one with 0.70."


def test_places_answers_stages():
    frame = pd.DataFrame({"task": MEAN, "keep": 0.1, "control": [False, False, True], "place": ["in", "in", "in"]})
    assert (
        places_sentence(frame.assign(accuracy=[0.5, 0.7, 0.9])) == "With the fewest tokens methods score 50% to 70% in."
    )
    said = answers_sentence({"a": "7", "b": "8", "random": "7"}, "7", ["random"])
    assert said == "1 of 2 methods read it right, and 1 of 1 controls."
    assert stages_sentence([9, 9, 4, 4, 2]) == "9 visual tokens come in, then 4 and 2 are left."
    assert stages_sentence([9, 9]) == ""


def test_moved_and_brought():
    curves = {"much": pd.DataFrame({"share": [0.5, 1.1]}), "little": pd.DataFrame({"share": [1.0, 0.9]})}
    assert "most with much (50% to 110%) and least with little (90% to 100%)" in moved_sentence(curves)
    assert moved_sentence({"one": curves["much"]}) == ""
    frame = pd.DataFrame({"reading": ["x", "x", "y"], "share": [0.1, 0.3, 0.5]})
    assert "of V 20% (X) and 50% (Y)" in brought_sentence({"V": frame}, {"x": "X", "y": "Y"})


@pytest.fixture
def shell():
    """An IPython to display in."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.mark.usefixtures("shell")
def test_the_report_begins_a_caption_with_it():
    with capture_output() as seen:
        assert isinstance(stating(Figure(), "It *holds*.", ""), Figure)
    (output,) = seen.outputs
    said = nbformat.v4.new_output("display_data", output.data, metadata=output.metadata)
    drawn = nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg><title>x</title></svg>"})
    cells = [
        nbformat.v4.new_code_cell("", outputs=[said, drawn]),
        nbformat.v4.new_markdown_cell("**Figure 1.** Legend."),
    ]
    html = page_body(nbformat.v4.new_notebook(cells=cells))
    caption = html[html.index("<figcaption") : html.index("</figcaption")]
    assert html.count("<em>holds</em>") == 1
    assert caption.index("Figure 1.") < caption.index("<em>holds</em>") < caption.index("Legend.")
