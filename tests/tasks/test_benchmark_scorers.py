"""Scorers of VQAv2, VizWiz, MMMU, SEED-Bench, MMStar, AI2D, OCRBench and RefCOCO by protocol, on answers worked out by
hand from the source that each names."""

import inspect
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight.tasks.scorers import ai2d, mmbench, mmmu, mmstar, ocrbench, refcoco, seed, vizwiz, vqav2

MODULES = (vqav2, vizwiz, mmmu, seed, mmstar, ai2d, ocrbench, refcoco)
L, M, O = "llava", "lmms_eval", "official"  # noqa: E741
PLACES = {L: "haotian-liu/LLaVA", M: "EvolvingLMMs-Lab/lmms-eval", O: ""}


def scorers(module):
    """Protocol -> its function."""
    return {name: getattr(module, name) for name in PLACES if hasattr(module, name)}


def right(module, text, answer, answers=()):
    """The protocols under which the text is right."""
    return {name for name, score in scorers(module).items() if score(text, answer, answers) == 1}


# VQAv2: vqaEval.py, of answers as convert_vqav2_for_submission.py writes them; lmms-eval's vqav2/utils.py


@pytest.mark.parametrize(
    ("text", "people", "worth"),
    [
        ("no", ["no"] * 10, {L: 1, M: 1, O: 1}),
        ("No", ["no"] * 10, {L: 1, M: 1, O: 0}),  # as it stands, since all say the same
        ("No.", ["no"] * 10, {L: 1, M: 1, O: 0}),
        ("no", ["No"] * 10, {L: 0, M: 1, O: 0}),
        ("No", ["no"] * 9 + ["yes"], {L: 1, M: 1, O: 1}),
        ("two", ["2"] * 5 + ["3"] * 5, {L: 1, M: 1, O: 1}),
        ("a dog's", ["dog's"] * 5 + ["cat"] * 5, {L: 0, M: 1, O: 1}),  # the file that LLaVA sends parts the 's
        ("red,blue", ["red blue"] * 5 + ["red"] * 5, {L: 0, M: 1, O: 1}),  # and has dropped the comma
        ("red", ["red"] * 2 + ["blue"] * 8, {L: 0.6, M: 0.6, O: 0.6}),
        ("", ["red"] * 10, {L: 0, M: 0, O: 0}),
    ],
)
def test_vqav2(text, people, worth):
    found = {name: score(text, "", people) for name, score in scorers(vqav2).items()}
    assert found == pytest.approx(worth)


@pytest.mark.parametrize(
    ("text", "people", "worth"),
    [
        ("Unanswerable", ["unanswerable"] * 10, {L: 1, M: 1}),
        ("unanswerable", ["Unanswerable"] * 10, {L: 0, M: 1}),
        ("coca cola?", ["Coca-Cola"] * 3 + ["can"] * 7, {L: 0.9, M: 0.9}),
    ],
)
def test_vizwiz(text, people, worth):
    assert {name: score(text, "", people) for name, score in scorers(vizwiz).items()} == pytest.approx(worth)


# MMMU: eval_utils.py against lmms-eval's mmmu_mcq_utils.py, which draw a choice where they read none

CHOICES = ("a ball", "a box", "the stone", "none")


@pytest.mark.parametrize(
    ("text", "answer", "protocols"),
    [
        ("B", "B", {M, O}),
        ("(B)", "B", {M, O}),
        ("B.", "B", {M, O}),
        ("A or B", "B", {M, O}),  # the last
        ("(A), or B", "A", {M, O}),  # brackets first
        ("(B) not (A)", "A", {M, O}),
        ("I say that BB", "B", {M}),  # the end of a word
        ("So: B. Since it is", "B", {M}),  # in front of a period
        ("I would say it is the stone here", "C", {M, O}),  # a text, of more than five words
        ("a ball or rather a box I think", "B", {M, O}),
    ],
)
def test_mmmu_reads_a_letter(text, answer, protocols):
    assert right(mmmu, text, answer, CHOICES) == protocols


def test_what_a_source_draws_is_worth_its_mean():
    for text in ("", "the stone", "E"):
        for score in scorers(mmmu).values():
            assert [score(text, letter, CHOICES) for letter in "ABCD"] == [0.25] * 4
            assert score(text, "A", CHOICES[:2]) == 0.5


@pytest.mark.parametrize(
    ("text", "answer", "is_right"),
    [
        ("2.5", "2.5", True),
        ("2.504", "2.5", True),  # two places
        ("about 1,000 of them", "1000", True),
        ("the answer is 24", "24", True),
        ("the answer is 24", "4", False),
        ("it is a Box", "box", True),
        ("cat", "c", False),  # a single letter is no part of a word
        ("it is vitamin c", "c", True),
        ("x = 3\ny = 4", "3", False),  # an equals sign counts in the last line only, and that says something
        ("x = 3\ny = 4", "4", True),
        ("3e5", "300000", True),
        ("", "x", False),
        ("-.5", "-0.5", True),
    ],
)
def test_mmmu_reads_an_open_answer(text, answer, is_right):
    assert mmmu.official(text, answer) == is_right
    assert mmmu.lmms_eval(text, answer) == 0  # always: a fault of it


# SEED-Bench: convert_seed_for_submission.py against lmms-eval's seedbench/utils.py


@pytest.mark.parametrize(
    ("text", "protocols"),
    [("A", {L, M}), ("a", {M}), ("A.", {M}), ("a man", {M}), ("(A)", set()), ("", set()), ("B", set())],
)
def test_seed(text, protocols):
    assert right(seed, text, "A") == protocols


# MMStar: lmms-eval's mcq_extract.py, whose rule MMBench's scorer has as its last


def test_mmstar_is_the_likeliest_letter():
    for text, letter in (("B", "B"), ("The answer is (C).", "C"), ("A, no: B", "A"), ("blue", None), ("", None)):
        assert mmbench.likeliest_letter(text, "ABCD") == letter
        assert {x for x in "ABCD" if mmstar.lmms_eval(text, x)} == ({letter} if letter else set())


# AI2D: lmms-eval's filter, and exact_match without case and punctuation


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("B", True),
        ("b", True),
        ("(B)", True),
        (" B. a box", True),
        ("b. a box", False),
        ("B a box", False),
        ("", False),
    ],
)
def test_ai2d(text, is_right):
    assert ai2d.lmms_eval(text, "B") is is_right


# OCRBench: example.py, and lmms-eval's ocrbench/utils.py


@pytest.mark.parametrize(
    ("text", "answers", "protocols"),
    [
        ("it says STOP here", ("svt", "stop"), {M, O}),
        ("st op", ("svt", "stop"), set()),
        ("a\nb", ("svt", "A B"), {M, O}),
        ("\uff33\uff34\uff2f\uff30", ("svt", "stop"), {M}),  # full width
        ("x^2 +1", ("HME100k", "x ^ 2"), {M, O}),
        ("X^2", ("HME100k", "x ^ 2"), set()),  # case counts
        ("second", ("svt", "first", "second"), {M, O}),
        ("", ("svt", "stop"), set()),
        ("svt", ("svt", "stop"), set()),  # the data set's name is no reference
    ],
)
def test_ocrbench(text, answers, protocols):
    assert right(ocrbench, text, answers[1], answers) == protocols


# RefCOCO: lmms-eval's utils_rec.py

BOX = "[0.2, 0.2, 0.6, 0.6]"


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("[0.2, 0.2, 0.6, 0.6]", 1),
        ("The box is [0.20,0.20,0.60,0.60]. And [0, 0, 1, 1].", 1),  # the first
        ("[0.2, 0.2, 0.6, 0.4]", 1 / 2),
        ("[0.4, 0.4, 0.8, 0.8]", 0.04 / 0.28),
        ("[0.7, 0.7, 0.9, 0.9]", 0),
        ("(0.2, 0.2, 0.6, 0.6)", 0),  # round brackets
        ("[0.2, 0.2, 0.6]", 0),
        ("", 0),
    ],
)
def test_refcoco_overlaps(text, shared):
    assert refcoco.overlap(json.loads(BOX), refcoco.box_in(text)) == pytest.approx(shared)
    assert refcoco.lmms_eval(text, BOX) is (shared > 0.49)


# All of them

PARTS = ["A", "B.", "(C)", "D:", ".", ",", " ", "\n", "answer is ", "red", "=", "1,0", "don't", "[0.1, 0, 1, 1]", "2e9"]
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PARTS), max_size=8).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["A", "D", "red", "2.5"]), st.lists(TEXTS, max_size=4))
def test_no_text_makes_a_scorer_fail(text, answer, answers):
    for module in MODULES:
        for score in scorers(module).values():
            worth = score(text, BOX if module is refcoco else answer, answers)
            assert isinstance(worth, float if module in (vqav2, vizwiz, mmmu) else bool)
            assert 0 <= worth <= 1


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_only_one_choice_is_right(text):
    for module in (mmmu, seed, mmstar, ai2d):
        for score in scorers(module).values():
            assert sum(score(text, letter, CHOICES) for letter in "ABCD") <= 1


def test_every_scorer_names_its_source():
    for module in MODULES:
        for name, score in scorers(module).items():
            assert PLACES[name] in inspect.getdoc(score)
            assert list(inspect.signature(score).parameters) == ["prediction", "answer", "answers"]


# Summaries


def record(kind, correct, prediction="", answer=""):
    return {"id": "", "kind": kind, "prediction": prediction, "correct": correct, "answer": answer, "group": ""}


def test_mmstar_is_the_mean_over_its_parts():
    found = mmstar.average([record("a", True)] * 3 + [record("a", False)] + [record("b", False)])
    assert found == {"average": 0.375, "kinds": {"a": 0.75, "b": 0}, "printed": {"MMStar": 37.5}}


def test_ocrbench_has_a_thousand_points():
    found = ocrbench.final_score([record("a", True), record("a", False), record("b", True), record("b", True)])
    assert found == {"points": 750, "kinds": {"a": 0.5, "b": 1}, "printed": {"OCRBench": 750}}


def test_refcoco_says_how_far_boxes_are_off():
    said = ["[0.2, 0.2, 0.6, 0.6]", "[0.2, 0.2, 0.6, 0.4]", "[0.3, 0.3, 0.7, 0.7]", "no box"]
    found = refcoco.boxes([record("all", refcoco.lmms_eval(text, BOX), text, BOX) for text in said])
    assert found["accuracy_at"] == {"0.1": 0.75, "0.3": 0.75, "0.5": 0.5, "0.7": 0.25, "0.9": 0.25}
    assert found["overlap"] == pytest.approx((1 + 1 / 2 + 9 / 23) / 4)
    assert (found["centre"], found["without_box"]) == (0.75, 1)
    assert found["printed"] == {"RefCOCO": 50}
