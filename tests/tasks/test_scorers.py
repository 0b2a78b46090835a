"""Scorers of benchmarks by protocol, on answers worked out by hand from the source that each table names."""

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight.tasks.scorers import gqa, mmbench, mme, pope, scienceqa, textvqa

MODULES = (gqa, mmbench, mme, pope, scienceqa, textvqa)
L, M, O = "llava", "lmms_eval", "official"  # noqa: E741


def verdicts(module, text, answer, answers=()):
    """Protocol -> what it makes of the text."""
    found = {name: getattr(module, name, None) for name in (L, M, O)}
    return {name: score(text, answer, answers) for name, score in found.items() if score}


# POPE: eval_pope.py and evaluate.py read the first sentence; lmms-eval wants the bare word


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
        ("NO", "yes"),  # the list of words has no such spelling
        ("no\nthere", "yes"),  # words end at spaces only
        (". no", "yes"),
    ],
)
def test_pope_reads_the_first_sentence(text, said):
    for protocol in (pope.llava, pope.official):
        assert protocol(text, said) is True
        assert protocol(text, {"yes": "no", "no": "yes"}[said]) is False


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("Yes", True, False),
        (" YES ", True, False),
        ("no", False, True),
        ("Yes.", False, False),
        ("No, it is not", False, False),
        ("", False, False),
    ],
)
def test_pope_in_lmms_eval_is_the_bare_word(text, yes, no):
    assert (pope.lmms_eval(text, "yes"), pope.lmms_eval(text, "no")) == (yes, no)
    assert pope.lmms_eval(text, "Yes") is yes


# GQA: convert_gqa_for_eval.py strips final periods and lowers, eval.py compares; lmms-eval ignores punctuation


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("no", "no", {L, M, O}),
        ("No", "no", {L, M}),
        ("No.", "no", {L, M}),
        ("No...", "no", {L, M}),
        ("...no", "no", {M}),
        ("No .", "no", set()),  # a space is left
        ("no!", "no", {M}),
        ("t-shirt", "t-shirt", {L, M, O}),
        ("tshirt", "t-shirt", {M}),
        ("t shirt", "t-shirt", set()),
        ("red  car", "red car", set()),
        ("the red car", "red car", set()),
        ("", "no", set()),
    ],
)
def test_gqa(text, answer, right):
    assert {name for name, score in verdicts(gqa, text, answer).items() if score is True} == right


# ScienceQA: eval_science_qa.py against lmms_eval/tasks/scienceqa/utils.py


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("B", "B", {L, M}),
        ("B. the box", "B", {L, M}),
        ("B.", "B", {M}),
        ("b", "B", {M}),
        ("b. the box", "B", set()),
        ("B.the box", "B", {M}),
        ("(B)", "B", set()),
        ("B\nbecause", "B", set()),
        ("B, the box", "B", set()),
        ("the box", "B", set()),
        ("", "B", set()),
        ("The answer is B.", "B", {L}),
        ("The answer is B", "B", set()),  # nothing behind it
        ("I think so. The answer is B", "B", set()),
        ("The answer is B, surely", "B", {L}),
        ("The answer is B\nor so", "B", set()),  # a line break is no character of the pattern's
        ("The answer is Both.", "B", {L}),
        ("The answer is A. The answer is B.", "A", set()),
        ("The answer is A. The answer is B.", "B", set()),
        ("The answer is B. The answer is B.", "B", set()),
        ("the answer is B.", "B", set()),
        ("C. The answer is B.", "C", {L, M}),
        ("C. The answer is B.", "B", set()),
        ("E", "E", {L, M}),
        ("F", "F", {M}),
        ("F. the sixth", "F", {M}),
        ("The answer is F.", "F", set()),
        ("I", "I", {M}),  # nine choices
    ],
)
def test_scienceqa(text, answer, right):
    assert {name for name, score in verdicts(scienceqa, text, answer).items() if score is True} == right


# TextVQA: m4c_evaluator.py of LLaVA and MMF, vqa_eval_metric.py of lmms-eval


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
        ("x" + 40 * ".", "x" + 8 * "."),  # re.UNICODE, 32, stands where the count does
    ],
)
def test_answers_are_normalised_as_the_vqa_server_does(text, short):
    assert textvqa.normalise(text) == short


@pytest.mark.parametrize(
    ("same", "worth"),
    # n of ten said it: (n * min((n - 1) / 3, 1) + (10 - n) * min(n / 3, 1)) / 10
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_soft_accuracy_leaves_each_person_out_once(same, worth):
    answers = ["Stop."] * same + [f"other {i}" for i in range(10 - same)]
    for score in (textvqa.llava, textvqa.lmms_eval, textvqa.official):
        assert score("stop", "", answers) == pytest.approx(worth)
        assert score("another", "", answers) == 0.0


# MMBench: matching_util.py of VLMEvalKit against mmbench_evals.py (static) and mcq_extract.py of lmms-eval

CHOICES = ("a red thing", "a blue thing", "banana", "neither")


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("B", "B", {L, M, O}),
        ("b", "B", set()),
        ("B.", "B", {L, M, O}),
        ("(B)", "B", {L, M, O}),
        ("B. a blue thing", "B", {L, M, O}),
        (
            "B\nbecause it is so",
            "B",
            {M},
        ),  # not among the last four of five words, and what is there is no choice's text
        ("B because it is", "B", {L, M, O}),
        ("The answer is B", "B", {L, M, O}),
        ("The answer is B since everything else is wrong here", "B", {L, M, O}),
        ("the ANSWER is **b** I would say to you", "B", {L, O}),
        ("A or B", "A", {M}),  # two letters: of these lmms-eval takes the one at the start
        ("A or B", "B", set()),
        ("It is a blue thing", "B", {L, M, O}),
        ("BLUE", "B", {M}),  # lmms-eval takes any B where nothing else is to be had
        ("a red thing, not a blue thing", "A", set()),
        ("Cannot determine the answer: B", "B", {M}),
        ("Z", "B", set()),
        ("", "B", set()),
        ("A man is over there", "A", {M}),  # an article for lmms-eval's first rule, the start of the text for its last
        ("It may be A", "A", {L, M, O}),
        ("It is A I guess so yes", "A", {M}),
        ("E", "E", {M}),
        ("My choice is B not C I think so", "C", {M}),
    ],
)
def test_mmbench(text, answer, right):
    assert {name for name, score in verdicts(mmbench, text, answer, CHOICES).items() if score is True} == right


def test_a_word_in_an_empty_cell_is_a_choice_for_lmms_eval():
    """Its reader hands over "nan", which stands in "banana": two choices are named, and nothing else is a letter."""
    assert mmbench.official("banana", "B", ("apple", "banana")) is True
    assert mmbench.lmms_eval("banana", "B", ("apple", "banana")) is True
    assert mmbench.lmms_eval("banana", "B", ("apple", "banana", "nan", "nan")) is False


def test_a_long_text_names_no_choice_for_mmbench_itself():
    long = "a blue thing " + "and so on " * 10
    assert mmbench.official(long, "B", CHOICES) is False
    assert mmbench.lmms_eval(long, "B", CHOICES) is True


# MME: calculation.py reads four characters as they stand, lmms-eval's utils.py without periods, and y and n


@pytest.mark.parametrize(
    ("text", "plain", "lmms"),
    [
        ("Yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("y", None, "yes"),
        ("n", None, "no"),
        ("N.", None, "no"),
        ("a. no", None, "no"),
        ("a no", "no", "no"),
        ("y.es", None, "yes"),
        ("not so", "no", "no"),
        ("I say no", None, None),
        ("noyes", "no", "no"),
        ("x", None, None),
        ("", None, None),
        ("Yes\nsince it is", "yes", "yes"),
    ],
)
def test_mme(text, plain, lmms):
    for score, said in ((mme.llava, plain), (mme.official, plain), (mme.lmms_eval, lmms)):
        assert score(text, "Yes") is (said == "yes")
        assert score(text, "No") is (said == "no")


# All of them

TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(
    ["A", "B.", "(C)", "D:", "yes", "No", "n", ".", ",", " ", "\n", "The answer is ", "red", "Z", "1,0", "don't"]
), max_size=8).map("".join))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["A", "F", "yes", "No", "red"]), st.lists(TEXTS, max_size=4))
def test_no_text_makes_a_scorer_fail(text, answer, answers):
    for module in MODULES:
        for score in verdicts(module, text, answer, answers).values():
            assert isinstance(score, float if module is textvqa else bool)
            assert 0 <= score <= 1


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["A", "B", "yes", "no"]))
def test_llava_and_the_authors_agree_where_one_calls_the_other(text, answer):
    for module in (mmbench, mme, pope, textvqa):
        found = verdicts(module, text, answer, CHOICES)
        assert found[L] == found[O]
    assert gqa.official(text, answer.lower()) <= gqa.llava(text, answer.lower())  # GQA's answers are in lower case


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_only_one_answer_is_right(text):
    for module, options in ((pope, ("yes", "no")), (mme, ("yes", "no")), (scienceqa, "ABCDE"), (mmbench, "ABCD")):
        for protocol in verdicts(module, text, options[0], CHOICES):
            score = getattr(module, protocol)
            assert sum(score(text, option, CHOICES) for option in options) <= 1


def test_every_scorer_names_its_source():
    places = ("haotian-liu/LLaVA", "EvolvingLMMs-Lab/lmms-eval", "")
    for module in MODULES:
        for name, place in zip((L, M, O), places, strict=True):
            if score := getattr(module, name, None):
                assert place in inspect.getdoc(score)
                assert list(inspect.signature(score).parameters) == ["prediction", "answer", "answers"]


# Summaries


def record(kind, prediction, correct, key="", group="", **more):
    return {"id": key, "kind": kind, "prediction": prediction, "correct": correct, "group": group, **more}


def test_f1_of_pope_is_the_mean_over_its_kinds():
    random = [record("random", said, right) for said, right in [("Yes", True)] * 3 + [("Yes", False), ("No", False)]]
    random += [record("random", "No", True)] * 3
    popular = [record("popular", "No", True)] * 2 + [record("popular", "No", False)] * 2
    for summary in (pope.llava_summary, pope.official_summary):
        found = summary(random + popular)
        assert found["kinds"]["random"] == pytest.approx(
            {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "accuracy": 6 / 8, "yes_rate": 4 / 8}
        )
        assert found["kinds"]["popular"] == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0.5, "yes_rate": 0}
        assert found["f1"] == pytest.approx(0.375)
        assert found["yes_rate"] == pytest.approx(4 / 12)
        assert found["printed"] == pytest.approx({"POPE": 37.5})
        assert found["missing"] == ["adversarial"]


def test_f1_of_pope_in_lmms_eval_is_that_of_all_questions():
    asked = [("random", "Yes", "yes"), ("random", "No", "no"), ("popular", "yes", "no"), ("popular", "Yes.", "yes")]
    asked += [("adversarial", "no", "yes"), ("adversarial", "well", "no")]
    rows = [record(kind, said, pope.lmms_eval(said, answer), answer=answer) for kind, said, answer in asked]
    found = pope.lmms_eval_summary(rows)
    # one hit, one false yes, one false no; "Yes." and "well" are no answers
    assert (found["precision"], found["recall"], found["f1"]) == (1 / 2, 1 / 2, 1 / 2)
    assert (found["accuracy"], found["yes_rate"], found["yes_ratio"]) == (2 / 6, 2 / 6, 3 / 6)
    assert found["printed"] == {"POPE": 50}
    assert found["missing"] == []
    odd = [record("random", "well", False, answer="yes")]
    assert pope.lmms_eval_summary(odd)["f1"] == 0


def test_mme_adds_a_picture_whose_questions_are_both_right():
    rows = [record("existence", "", right, group=f"e{i // 2}") for i, right in enumerate([1, 1, 1, 0, 0, 0, 1, 1])]
    rows += [record("code_reasoning", "", right, group="c0") for right in (1, 0)]
    found = mme.points(rows)
    assert found["kinds"]["existence"] == {"accuracy": 5 / 8, "accuracy_plus": 2 / 4}
    assert found["perception"] == pytest.approx(62.5 + 50)
    assert found["cognition"] == pytest.approx(50 + 0)
    assert found["printed"] == pytest.approx({"MME": 162.5, "MME-P": 112.5, "MME-C": 50})
    assert (found["pairs"], found["left_out"], len(found["missing"])) == (5, 0, 12)


def test_a_perfect_mme_has_two_hundred_points_a_category():
    rows = [record(kind, "", True, group=kind) for kind in ("count", "OCR", "text_translation") for _ in "ab"]
    assert mme.points(rows)["printed"] == {"MME": 600, "MME-P": 400, "MME-C": 200}


def test_a_picture_of_mme_that_lost_a_question_is_left_out_and_counted():
    asked = [("a", "Yes"), ("a", "No"), ("b", "Yes"), ("b", "No"), ("c", "Yes")]  # all answered yes
    rows = [record("count", "Yes", mme.llava("Yes", answer), group=picture, answer=answer) for picture, answer in asked]
    found = mme.points(rows)
    assert found["total"] == found["printed"]["MME"] == 50
    assert (found["pairs"], found["left_out"]) == (2, 1)
    assert found["kinds"] == {"count": {"accuracy": 0.5, "accuracy_plus": 0}}
    rows += [record("count", "No", False, group="c"), record("count", "No", True, group="c")]  # a question too many
    assert mme.points(rows)["total"] == 50


def test_mme_without_a_pair_has_no_points():
    rows = [record("count", "Yes", True, group="a"), record("OCR", "Yes", True, group="b")]
    found = mme.points(rows)
    assert (found["total"], found["printed"], found["pairs"], found["left_out"]) == (None, {}, 0, 2)


def rotations(rights, sizes=None):
    return [
        record("x", "", bool(right), str(int(group) + turn * 10**6), group, group_size=(sizes or {}).get(group, 0))
        for group, turns in rights.items()
        for turn, right in enumerate(turns)
        if right is not None
    ]  # fmt: skip


def test_mmbench_wants_every_rotation_right():
    found = mmbench.circular(rotations({"7": (1, 1, 1, 1), "8": (1, 1, 0), "9": (0, 1)}))
    assert found == {
        "circular": pytest.approx(1 / 3),
        "vanilla": pytest.approx(2 / 3),
        "questions": 3,
        "left_out": 0,
        "printed": {"MMBench": pytest.approx(100 / 3)},
    }


@pytest.mark.parametrize("lost", range(4))
def test_a_question_of_mmbench_that_lost_a_rotation_is_left_out_and_counted(lost):
    broken = [1, 1, 1, 1]
    broken[lost] = None
    found = mmbench.circular(rotations({"7": broken, "8": (1, 0), "9": (0, 1)}, {"7": 4, "8": 2, "9": 2}))
    assert (found["circular"], found["vanilla"], found["questions"], found["left_out"]) == (0, 1 / 2, 2, 1)
    none = mmbench.circular(rotations({"7": broken}, {"7": 4}))
    assert (none["circular"], none["printed"], none["left_out"]) == (None, {}, 1)
