"""The share of kept sets that a last digit changes, as the page of all methods shows it."""

import pytest
import torch

from thinsight import load_method, load_model
from thinsight.config.catalogue import method_entry
from thinsight.config.compose import load_task
from thinsight.papers.last_digit import changed_sets, nudged
from thinsight.papers.methods import catalogue_table
from thinsight.tasks.rows import load_rows


@pytest.mark.parametrize("units", [1, 4])
def test_each_value_moves_by_units(units):
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = nudged(pixels, units, seed=1)
    steps = (moved.view(torch.int32) - pixels.view(torch.int32)).abs()
    assert bool((steps == units).all())
    assert 0.3 < float((moved > pixels).float().mean()) < 0.7
    assert torch.equal(moved, nudged(pixels, units, seed=1))
    assert not torch.equal(moved, nudged(pixels, units, seed=2))


def test_what_changes():
    """A random subset is drawn from the picture's own bytes, a grid looks at nothing; other methods keep their sets."""
    model, processor = load_model("pocket", device="cpu")
    names = ("random", "grid", "cdpruner", "divprune", "fastervlm", "fastv", "par")
    methods = {name: load_method(name, keep=0.2222) for name in names}
    task = load_task("relation")
    found = changed_sets(model, processor, methods, [(task, load_rows(task, 6))], seeds=(0, 1))
    assert list(found["method"]) == list(names)
    assert set(found["pictures"]) == {12}
    changed = dict(zip(found["method"], found["changed"], strict=True))
    assert changed["random"] == 12
    assert changed["grid"] == 0
    assert all(changed[name] <= 1 for name in names[2:])
    table = catalogue_table(
        [method_entry(name) for name in ("random", "fastv", "identity")],
        found.assign(flipped=[2] + [None] * (len(names) - 1), answers=7),
    )
    assert "last digit" in table
    assert "12 of 12" in table
    assert "2 of 7" in table
    assert f"{changed['fastv']} of 12" in table
