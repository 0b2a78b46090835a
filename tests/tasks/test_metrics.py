"""What belongs to no benchmark alone: pocket's metric, rates of the answer yes, intervals of scores."""

import pytest

from thinsight.evaluation.outputs import _interval
from thinsight.stats import wilson
from thinsight.tasks.metrics import exact, group_records, normalise, precision_recall_f1


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("  Yes. ", "yes"),
        ("two\n  words", "two words"),
        ("A .", "a"),
        ("3.5", "3.5"),
        ("wait..", "wait."),
        ("", ""),
    ],
)
def test_normalisation(text, short):
    assert normalise(text) == short


def test_a_longer_answer_is_not_the_answer():
    assert exact("Red.", "red") is True
    assert exact("B", "b") is True
    assert exact("red circle", "red") is False
    assert exact("", "no") is False
    assert exact("12", "1 2") is False


def test_rates_of_yes():
    assert precision_recall_f1([True, True, False, False], [True, False, True, False]) == (1 / 2, 1 / 2, 1 / 2)
    assert precision_recall_f1([False, False], [True, False]) == (0, 0, 0)
    assert precision_recall_f1([], []) == (0, 0, 0)


def test_records_are_grouped_in_order():
    records = [{"kind": kind, "n": n} for n, kind in enumerate("bab")]
    groups = group_records("kind", records)
    assert {kind: [r["n"] for r in group] for kind, group in groups.items()} == {"a": [1], "b": [0, 2]}
    assert list(groups) == ["a", "b"]


def test_shares_have_a_normal_interval_and_yes_and_no_wilsons():
    assert _interval([True, False, True, True]) == wilson(3, 4)
    low, high = _interval([0.3, 0.9, 0.6, 1.0, 0.0, 0.6])
    mean, squares = 3.4 / 6, 0.09 + 0.81 + 0.36 + 1 + 0 + 0.36
    error = ((squares - 6 * mean**2) / 5 / 6) ** 0.5
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error))
    assert _interval([1.0, 1.0, 0.9])[1] == 1.0
    assert _interval([0.6]) == (0.6, 0.6)
