"""Row scores as the benchmarks define them, and what they add up to, against values worked out by hand."""

import pytest

from thinsight.evaluation.outputs import _interval
from thinsight.stats import wilson
from thinsight.tasks.metrics import (
    exact,
    letter,
    mmbench_summary,
    mme_summary,
    normalise,
    normalise_vqa,
    polar,
    pope_summary,
    prefix,
    read_letter,
    read_polar,
    read_prefix,
    vqa,
)


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
    assert exact("Red.", "red")
    assert not exact("red circle", "red")
    assert not exact("", "no")
    assert not exact("12", "1 2")


def test_scores_of_yes_and_no_are_bools():
    for metric in (exact, polar, prefix, letter):
        assert metric("Yes", "no") is False
    assert exact("B", "b") is True
    assert polar("Yes", "yes") is True
    assert prefix("No.", "No") is True
    assert letter("B", "B") is True
    assert letter("b", "B") is False
    assert vqa("red", "red", ["red"] * 10) == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("No, there is none.", "no"),
        ("There is not. Yes.", "no"),
        ("Yes. No.", "yes"),  # the first sentence only
        ("nothing", "yes"),  # whole words only: what denies nothing affirms
        ("", "yes"),
        ("NO", "yes"),  # LLaVA's list of words has no such spelling
    ],
)
def test_pope_reads_an_answer_as_llava_does(text, said):
    assert read_polar(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes", "yes"), ("No.", "no"), ("y", "yes"), ("n", "no"), ("x", None), ("I say no", None), ("not so", "no")],
)
def test_mme_reads_four_characters(text, said):
    assert read_prefix(text) == said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A", "A"),
        ("B. the box", "B"),
        ("C\nbecause", "C"),
        ("The answer is D.", "D"),
        ("I think. The answer is E", "E"),
        ("A.", None),
        ("a", None),
        ("F", None),
        ("(B)", None),
        ("the box", None),
    ],
)
def test_the_letter_of_a_choice(text, found):
    assert read_letter(text) == found


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("The Two Dogs.", "2 dogs"),
        ("a, an; the", ""),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("St. John's", "st john 's"),
        ("coca-cola", "coca cola"),
        ("coca- cola", "coca cola"),
        ("yes/no", "yes no"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # the server's table knows one missing apostrophe, not two
        ("somebody'd", "somebodyd"),
        ("stop\nhere", "stop here"),
        ("ten eleven", "10 eleven"),
    ],
)
def test_answers_are_normalised_as_the_vqa_server_does(text, short):
    assert normalise_vqa(text) == short


@pytest.mark.parametrize(
    ("same", "worth"),
    # n of ten said it: (n * min((n - 1) / 3, 1) + (10 - n) * min(n / 3, 1)) / 10
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_soft_accuracy_leaves_each_person_out_once(same, worth):
    answers = ["Stop."] * same + [f"other {i}" for i in range(10 - same)]
    assert vqa("stop", "", answers) == pytest.approx(worth)
    assert vqa("another", "", answers) == 0.0


def record(kind, prediction, correct, key="", group=""):
    return {"id": key, "kind": kind, "prediction": prediction, "correct": correct, "group": group}


def test_f1_of_pope_is_the_mean_over_its_kinds():
    random = [record("random", said, right) for said, right in [("Yes", True)] * 3 + [("Yes", False), ("No", False)]]
    random += [record("random", "No", True)] * 3
    popular = [record("popular", "No", True)] * 2 + [record("popular", "No", False)] * 2
    found = pope_summary(random + popular)
    assert found["kinds"]["random"] == pytest.approx(
        {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "accuracy": 6 / 8, "yes_rate": 4 / 8}
    )
    assert found["kinds"]["popular"] == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0.5, "yes_rate": 0}
    assert found["f1"] == pytest.approx(0.375)
    assert found["yes_rate"] == pytest.approx(4 / 12)
    assert found["printed"] == pytest.approx({"POPE": 37.5})


def test_mme_adds_a_picture_whose_questions_are_both_right():
    rows = [record("existence", "", right, group=f"e{i // 2}") for i, right in enumerate([1, 1, 1, 0, 0, 0, 1, 1])]
    rows += [record("code_reasoning", "", right, group="c0") for right in (1, 0)]
    found = mme_summary(rows)
    assert found["kinds"]["existence"] == {"accuracy": 5 / 8, "accuracy_plus": 2 / 4}
    assert found["perception"] == pytest.approx(62.5 + 50)
    assert found["cognition"] == pytest.approx(50 + 0)
    assert found["printed"] == pytest.approx({"MME": 162.5, "MME-P": 112.5, "MME-C": 50})


def test_a_perfect_mme_has_two_hundred_points_a_category():
    rows = [record(kind, "", True, group=kind) for kind in ("count", "OCR", "text_translation") for _ in "ab"]
    assert mme_summary(rows)["printed"] == {"MME": 600, "MME-P": 400, "MME-C": 200}


def test_mmbench_wants_every_rotation_right():
    rights = {"7": (1, 1, 1, 1), "8": (1, 1, 0), "9": (0, 1)}
    rows = [
        record("x", "", bool(right), key=str(int(group) + turn * 10**6), group=group)
        for group, turns in rights.items()
        for turn, right in enumerate(turns)
    ]
    found = mmbench_summary(rows)
    assert found == {
        "circular": pytest.approx(1 / 3),
        "vanilla": pytest.approx(2 / 3),
        "questions": 3,
        "printed": {"MMBench": pytest.approx(100 / 3)},
    }


def test_shares_have_a_normal_interval_and_yes_and_no_wilsons():
    assert _interval([True, False, True, True]) == wilson(3, 4)
    low, high = _interval([0.3, 0.9, 0.6, 1.0, 0.0, 0.6])
    mean, squares = 3.4 / 6, 0.09 + 0.81 + 0.36 + 1 + 0 + 0.36
    error = ((squares - 6 * mean**2) / 5 / 6) ** 0.5
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error))
    assert _interval([1.0, 1.0, 0.9])[1] == 1.0
    assert _interval([0.6]) == (0.6, 0.6)
