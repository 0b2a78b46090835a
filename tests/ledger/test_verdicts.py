"""Each rule of the ledger on numbers made by hand, at its thresholds and beside them."""

import pytest

from thinsight.ledger.verdicts import (
    ADDS,
    ADDS_NOT,
    BADGES,
    DIFFERS,
    INFERRED,
    NOT_RUN,
    OBTAINED,
    POINT,
    RANGE,
    RECOMPUTED,
    TOLERANCE,
    VERDICTS,
    PrintedRange,
    average_verdict,
    cost_verdict,
    meets,
    rules,
    same_order,
    score_verdict,
)


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


def test_a_cost_is_recomputed_only_by_a_way_of_counting_that_is_stated():
    assert [cost_verdict("8.5", 8.45, reading) for reading in ("stated", "fitted", "unknown")] == [
        RECOMPUTED, INFERRED, INFERRED,
    ]  # fmt: skip
    assert [cost_verdict("8.5", 9.0, reading) for reading in ("stated", "fitted", "unknown")] == [
        DIFFERS, DIFFERS, NOT_RUN,
    ]  # fmt: skip


def test_a_score_of_the_model_itself():
    span = PrintedRange(80.0, 86.0, papers=3)
    assert score_verdict(85.9, 86.5, (85.9, 87.0), span) == OBTAINED  # the interval's end belongs to it
    assert score_verdict(85.8, 85.95, (85.9, 86.0), span) == RANGE
    assert score_verdict(85.8, 86.5, (85.9, 87.0), span) == DIFFERS


@pytest.mark.parametrize(
    ("printed", "low", "high", "said"),
    [
        ("60.9", 60.90, 61.00, ADDS),
        ("60.9", 60.99, 61.09, ADDS),  # cut to its digits
        ("60.9", 61.01, 61.11, ADDS_NOT),
        ("60.9", 60.75, 60.85, ADDS),  # rounded up
        ("60.9", 60.74, 60.84, ADDS_NOT),
        ("97", 96.5, 96.6, ADDS),
    ],
)
def test_an_average_adds_up_as_far_as_rounding_lets_one_say(printed, low, high, said):
    assert average_verdict(printed, low, high) == said


def test_the_order_of_two_methods():
    assert same_order(3.0, (0.01, 0.2)) is True
    assert same_order(3.0, (-0.2, -0.01)) is False
    assert same_order(-3.0, (-0.2, -0.01)) is True
    assert same_order(POINT, (0.01, 0.2)) is None
    assert same_order(1.0000000000000002, (0.01, 0.2)) is None
    assert same_order(3.0, (0.0, 0.2)) is None


def test_the_rules_are_told_with_their_thresholds():
    told = rules()
    assert {question: tuple(name for name, _ in lines) for question, lines in told.items()} == VERDICTS
    sentences = [sentence for lines in told.values() for _, sentence in lines]
    assert f"{TOLERANCE:.0%}" in " ".join(sentences)
    assert all(sentence.endswith(".") for sentence in sentences)
    kinds = [kind for kinds in BADGES.values() for kind in kinds.values()]
    assert len(set(kinds)) == len(kinds)  # each has a colour and an anchor of its own
