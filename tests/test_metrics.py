"""Exact match after normalisation."""

import pytest

from thinsight.errors import UserError
from thinsight.metrics import exact, normalise, score


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  Yes. ", "yes"),
        ("two\n  words", "two words"),
        ("A .", "a"),
        ("3.5", "3.5"),
        ("wait..", "wait."),
        ("", ""),
    ],
)
def test_normalisation(text, plain):
    assert normalise(text) == plain


def test_a_longer_answer_is_not_the_answer():
    assert exact("Red.", "red")
    assert not exact("red circle", "red")
    assert not exact("", "no")
    assert not exact("12", "1 2")


def test_an_unknown_metric_is_named():
    assert score("exact", "B", "b")
    with pytest.raises(UserError, match="unknown metric 'exakt': did you mean exact"):
        score("exakt", "B", "b")
