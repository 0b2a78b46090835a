"""Each rule of the ledger on numbers made by hand, at its thresholds and beside them."""

import pytest

from thinsight.ledger.verdicts import (
    AGREEING,
    BADGES,
    DIRECTION,
    MISSED,
    NOT_RUN,
    POINT,
    RANGE,
    REPRODUCED,
    TOLERANCE,
    VERDICTS,
    PrintedRange,
    cost_verdict,
    direction_verdict,
    meets,
    rules,
    same_order,
    same_sign,
    score_verdict,
)

ALONE = PrintedRange(8.5, 8.5)


@pytest.mark.parametrize(
    ("printed", "computed", "met"),
    [
        ("8.5", 8.450, True),  # rounded
        ("8.5", 8.449, True),  # within 1 %
        ("2.4", 2.454, True),  # cut to the printed digits
        ("2.5", 2.454, True),
        ("1.5", 1.614, False),
        ("1.6", 1.614, True),
        (".8", 0.807, True),
        (".7", 0.807, False),
        ("891", 891.2, True),
        ("891", 900.1, False),  # 1.02 % off
        ("4.3", 4.225, False),
        ("100", 100.99, True),
        ("100", 101.01, False),
    ],
)
def test_a_computed_number_meets_the_printed_digits(printed, computed, met):
    assert meets(printed, computed) is met


def test_a_cost_is_reproduced_only_by_a_way_of_counting_that_is_known():
    assert cost_verdict("8.5", 8.45, ALONE, known=True) == REPRODUCED
    assert cost_verdict("8.5", 8.45, ALONE, known=False) == RANGE


def test_a_cost_within_the_range_of_papers():
    wide = PrintedRange(16.6, 28.6, papers=2)
    assert cost_verdict("24.9", 28.6, wide, known=True) == RANGE
    assert cost_verdict("24.9", 28.62, wide, known=True) == RANGE  # rounds to the highest
    assert cost_verdict("24.9", 30.0, wide, known=True) == MISSED
    assert cost_verdict("24.9", 20.0, wide, known=False) == MISSED  # a search that meets nothing finds nothing


def test_a_score_of_the_model_itself():
    span = PrintedRange(80.0, 86.0, papers=3)
    assert score_verdict(85.9, 86.5, (85.9, 87.0), span) == REPRODUCED  # the interval's end belongs to it
    assert score_verdict(85.8, 85.95, (85.9, 86.0), span) == RANGE
    assert score_verdict(85.8, 86.5, (85.9, 87.0), span) == MISSED


def test_the_sign_of_a_method_against_the_whole_model():
    loss, none, gain = (-0.20, -0.01), (-0.10, 0.02), (0.01, 0.10)
    assert same_sign(-5.0, loss) is True
    assert same_sign(-5.0, none) is None  # neither confirmed nor denied
    assert same_sign(-5.0, gain) is False
    assert same_sign(0.3, none) is True
    assert same_sign(0.3, loss) is False
    assert same_sign(-POINT, loss) is False  # a point is no loss yet
    assert same_sign(-POINT - 0.1, loss) is True
    assert same_sign(-1.0000000000000002, loss) is False  # nor is one with an error of rounding
    assert same_sign(-5.0, (-0.2, 0.0)) is None  # an interval that ends at zero holds it


def test_the_order_of_two_methods():
    assert same_order(3.0, (0.01, 0.2)) is True
    assert same_order(3.0, (-0.2, -0.01)) is False
    assert same_order(-3.0, (-0.2, -0.01)) is True
    assert same_order(POINT, (0.01, 0.2)) is None
    assert same_order(1.0000000000000002, (0.01, 0.2)) is None
    assert same_order(3.0, (0.0, 0.2)) is None


@pytest.mark.parametrize(
    ("same", "pairs", "said"),
    [
        (True, [True, True, False], DIRECTION),  # two thirds
        (True, [True, False], MISSED),
        (True, [True, None, None], DIRECTION),
        (None, [True], DIRECTION),  # an undecided sign contradicts nothing
        (False, [True, True], MISSED),
        (False, [], MISSED),
        (True, [], DIRECTION),  # nothing to put in order: the sign alone
        (None, [], NOT_RUN),
        (True, [None, None], NOT_RUN),
        (None, [None], NOT_RUN),
    ],
)
def test_the_direction(same, pairs, said):
    assert direction_verdict(same, pairs) == said


def test_the_rules_are_told_with_their_thresholds():
    told = rules()
    assert [name for name, _ in told] == list(VERDICTS)
    text = " ".join(sentence for _, sentence in told)
    assert f"{TOLERANCE:.0%}" in text
    assert f"in {AGREEING} of them" in text
    assert all(sentence.endswith(".") for _, sentence in told)
    assert set(BADGES) == set(VERDICTS)
