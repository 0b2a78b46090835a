"""Intervals and paired comparisons, against values computed by hand or by brute force."""

import math

import numpy as np
import pytest

from thinsight.errors import UserError
from thinsight.stats import holm, mcnemar, paired, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 20), (7, 20), (20, 20), (1404, 2017)])
def test_wilson_is_its_formula(correct, n):
    z, share = 1.959963984540054, correct / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert wilson(correct, n) == pytest.approx((middle - half, middle + half))


def test_shares_of_a_right_answer_are_compared_as_shares():
    first, second = {str(i): 0.3 for i in range(40)}, {str(i): 0.3 * (i % 2) for i in range(40)}
    found = paired(first, second)
    assert found.difference == pytest.approx(0.15)
    assert 0.05 < found.low < 0.15 < found.high < 0.25
    assert (found.only_first, found.only_second) == (0, 0)


def test_mcnemar_is_the_sign_test_on_discordant_rows():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    # 8 against 1: P(at most 1 of 9, or at least 8) = 2 * (1 + 9) / 512
    assert mcnemar(8, 1) == pytest.approx(20 / 512)
    assert mcnemar(8, 1) == mcnemar(1, 8)


def test_the_paired_bootstrap_is_resampling_of_rows():
    rng = np.random.default_rng(3)
    a, b = rng.random(150) < 0.8, rng.random(150) < 0.7
    found = paired(dict(enumerate(a)), dict(enumerate(b)), seed=1)
    delta = a.astype(float) - b
    means = [delta[rng.integers(0, 150, 150)].mean() for _ in range(4000)]
    assert found.difference == pytest.approx(delta.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01)
    assert (found.only_first, found.only_second) == ((a & ~b).sum(), (b & ~a).sum())
    assert found == paired(dict(enumerate(a)), dict(enumerate(b)), seed=1)


def test_pairing_uses_the_rows_own_ids():
    same = {"a": True, "b": False, "c": True}
    found = paired(same, dict(reversed(same.items())))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    with pytest.raises(UserError, match="same rows: c is only in one"):
        paired(same, {"a": True, "b": False, "d": True})


def test_nonsense_is_refused():
    with pytest.raises(UserError):
        wilson(3, 2)
    with pytest.raises(UserError):
        wilson(0, 0)
    with pytest.raises(UserError):
        paired({}, {})


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 -> never falling; Holm's own kind of example."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.4, 0.9]) == pytest.approx([1, 1, 1])
    assert holm([0.02]) == pytest.approx([0.02])
    assert len(holm([])) == 0


def test_holm_rejects_what_stepping_down_rejects():
    p = np.random.default_rng(2).beta(0.3, 3, 40)
    rejected, ordered = set(), np.argsort(p)
    for step, at in enumerate(ordered):
        if p[at] > 0.05 / (len(p) - step):
            break
        rejected.add(int(at))
    assert 0 < len(rejected) < len(p)
    assert set(np.flatnonzero(holm(p) <= 0.05)) == rejected
