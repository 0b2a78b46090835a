"""Schedules as values: shared ones, and those that papers publish as tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight import load_method
from thinsight.errors import UserError
from thinsight.methods.image_text_interaction import FirstCut, SecondCut
from thinsight.methods.pyramiddrop import PyramidRates
from thinsight.methods.sparsevlm import SparseVlmTable
from thinsight.methods.vtw import AllVisual
from thinsight.reduction.method import Reduction
from thinsight.reduction.schedules import Geometric, Keep

FEW = settings(max_examples=25, deadline=None)
TABLE = [[64, 66, 30, 17], [192, 300, 200, 110]]


def played(name: str, total: int = 576, **fields) -> list[int]:
    """Visual tokens after each stage of the method's last reduction, new ones included."""
    reduction = load_method(name, **fields).reductions[-1]
    stages = len(reduction.site.layers)
    found = [total]
    for stage in range(stages):
        found.append(sum(reduction.tokens_left(found[-1], stage, stages, total)))
    return found[1:]


@pytest.mark.parametrize(
    ("name", "keep", "expected"),
    [
        ("fastv", 0.5, [288]),
        ("fastv", 0.25, [144]),
        ("pyramiddrop", 0.125, [288, 144, 72]),
        ("sparsevlm", 192, [309, 204, 113]),
        ("sparsevlm", 128, [312, 117, 39]),
        ("sparsevlm", 96, [249, 55, 27]),
        ("sparsevlm", 64, [82, 32, 18]),
        ("sparsevlm_v2", 192, [300, 200, 118]),
        ("sparsevlm_v2", 128, [238, 108, 60]),
        ("sparsevlm_v2", 96, [246, 54, 28]),
        ("sparsevlm_v2", 64, [66, 34, 20]),
        ("dart", 128, [128]),
        ("interaction", 128, [128]),
    ],
)
def test_published_counts(name, keep, expected):
    """On LLaVA-1.5's 576 tokens; a count and the fraction that it is say the same."""
    assert played(name, keep=keep) == expected
    assert played(name, keep=keep if isinstance(keep, float) else keep / 576) == expected


@pytest.mark.parametrize(("target", "kept"), [(192, 196), (128, 132), (64, 68), (166, 164), (98, 100), (30, 28)])
def test_dart_overshoots_officially(target, kept):
    assert played("dart", keep=target, fidelity="official") == [kept]


def test_one_leaves_officially():
    """A table with room for everybody."""
    room = {"counts": [200, 50, 20]}
    assert played("sparsevlm", 144, **room) == [144, 53, 22]
    assert played("sparsevlm", 144, fidelity="official", **room) == [144, 53, 22]
    assert load_method("sparsevlm", **room).reductions[0].tokens_left(144, 0, 3, 144) == (144, 0)
    official = load_method("sparsevlm", fidelity="official", **room)
    assert official.reductions[0].tokens_left(144, 0, 3, 144) == (143, 1)


def test_published_ratios():
    """Rounded down, as in the released code."""
    assert played("pyramiddrop", 100, ratios=[0.5, 0.25, 0.125]) == [50, 25, 12]
    assert played("pyramiddrop", 100, ratios=[0.57, 0.29, 0.1]) == [56, 28, 10]  # 0.57 * 100 is below 57 in floats
    with pytest.raises(UserError, match="2 ratios do not fit 3 layers"):
        played("pyramiddrop", ratios=[0.5, 0.25])
    with pytest.raises(UserError, match=r"ratio 1\.5"):
        PyramidRates(ratios=[1.5])


def test_keep():
    assert [Keep(k)(10) for k in (0, 3, 10, 99, 0.0, 0.25, 1.0)] == [0, 3, 10, 10, 0, 2, 10]
    assert Keep(0.5)(6, 1, 2, total=16) == 6
    assert Keep(0.21, down=True)(576) == 120
    assert Keep(0.21)(576) == 121
    for wrong in (-1, 1.01, "3", True):
        with pytest.raises(UserError):
            Keep(wrong)


@pytest.mark.parametrize("schedule", [Keep(None), Geometric(None)])
def test_no_number_without_a_filter_that_decides(schedule):
    assert schedule(10, 0, 1, 10) is None
    with pytest.raises(UserError, match="AllVisual does not decide"):
        Reduction(AllVisual(), schedule=schedule)


@FEW
@given(st.integers(1, 700), st.floats(0, 1), st.floats(0, 1))
def test_tables_go_down_and_grow_with_the_budget(total, keep, other):
    low, high = sorted((keep, other))
    for stage in range(3):
        counts = [SparseVlmTable(k, TABLE, 576)(total, stage, 3, total) for k in (0.0, low, high, 1.0)]
        assert counts == sorted(counts)
        assert counts[0] == 0
        assert counts[-1] == total
    counts = [SparseVlmTable(keep, TABLE, 576)(total, stage, 3, total) for stage in range(3)]
    assert counts == sorted(counts, reverse=True)


@FEW
@given(st.integers(1, 700), st.floats(0, 1), st.floats(0.05, 1))
def test_two_cuts_end_at_the_budget(total, keep, ratio):
    first = FirstCut(keep, ratio)(total, 0, 1, total)
    last = SecondCut(keep, ratio)(first, 0, 1, total)
    assert last == round(keep * total)
    assert first == total or last <= round(ratio * first + 0.5)
    assert FirstCut(None, ratio)(total, 0, 1, total) is None
    assert 1 <= SecondCut(None, ratio)(total, 0, 1, total) <= total


def test_what_is_no_ladder():
    with pytest.raises(UserError, match="3 stages, not 2"):
        SparseVlmTable(0.5, TABLE, 576)(576, 0, 2, 576)
    with pytest.raises(UserError, match="none above size"):
        SparseVlmTable(0.5, [[192, 600, 200, 110]], 576)
    with pytest.raises(UserError, match="none above size"):
        SparseVlmTable(0.5, [[192, 300], [64, 66, 30]], 576)
    for wrong in (0.0, 1.5):
        with pytest.raises(UserError, match="ratio"):
            SecondCut(None, wrong)
    with pytest.raises(UserError, match="keep"):
        FirstCut(2.0, 0.5)
