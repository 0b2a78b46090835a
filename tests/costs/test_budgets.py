"""Budgets against the table of schedules that papers and their users argue about: LLaVA-1.5-7B, 576 visual tokens."""

from itertools import pairwise

import pytest

from thinsight import load_method
from thinsight.config.compose import load_config
from thinsight.costs.budgets import PrefillSizes, prefill_sizes, simulate, solve_budget
from thinsight.costs.conventions import CONVENTIONS
from thinsight.costs.flops import DecoderShape, flops
from thinsight.errors import UserError
from thinsight.solve import main

VICUNA = DecoderShape(layers=32, width=4096, ffn=11008, matrices=3, queries=4096, keys=4096)
STAGE = PrefillSizes(depth=32, total=576, blocks=24, used=23, text=95, shape=VICUNA)
COUNTS = {c.name: c for c in CONVENTIONS}

TABLE = [  # method, fields, layer mean, TFLOPs of visual tokens alone, and with 95 others in every layer
    ("identity", {}, 576, 3.817, 4.463),
    *(("random", {"keep": k}, k, t, w) for k, t, w in [(192, 1.253, 1.880), (128, 0.833, 1.457), (64, 0.416, 1.036)]),
    ("fastv", {"layer": 2, "keep": 166}, 191.6, 1.253, 1.880),
    ("fastv", {"layer": 2, "keep": 98}, 127.9, 0.836, 1.460),
    ("fastv", {"layer": 2, "keep": 30}, 64.1, 0.421, 1.042),
    ("fastv", {"layer": 3, "keep": 152}, 191.8, 1.255, 1.883),
    ("fastv", {"layer": 3, "keep": 82}, 128.3, 0.841, 1.465),
    ("fastv", {"layer": 3, "keep": 11}, 64.0, 0.422, 1.043),
    ("fastv", {"layer": 2, "keep": 192}, 216, 1.413, 2.042),
    ("fastv", {"layer": 3, "keep": 64}, 112, 0.734, 1.358),
    ("fastv", {"layer": 3, "keep": 0.5}, 315, 2.068, 2.701),
    ("fastv", {"layer": 2, "keep": 0.5}, 306, 2.007, 2.640),
    ("sparsevlm", {"keep": 192 / 576}, 206.5, 1.353, 1.981),
    ("sparsevlm", {"keep": 128 / 576}, 145.4, 0.954, 1.579),
    ("sparsevlm", {"keep": 96 / 576}, 114.1, 0.749, 1.373),
    ("sparsevlm", {"keep": 64 / 576}, 82.2, 0.541, 1.163),
    ("pyramiddrop", {"keep": 0.125}, 270, 1.777, 2.408),
    ("dart", {"keep": 196}, 219.8, 1.438, 2.067),
    ("dart", {"keep": 132}, 159.8, 1.044, 1.670),
    ("dart", {"keep": 68}, 99.8, 0.653, 1.275),
]


@pytest.mark.parametrize(("name", "fields", "mean", "alone", "whole"), TABLE)
def test_schedules(name, fields, mean, alone, whole):
    """Lengths played through without a model give the table's layer means and TFLOPs, to its last digit."""
    played = simulate(load_method(name, **fields), STAGE)
    assert played.layer_mean == pytest.approx(mean, abs=0.051)
    visual = played.visual
    shown = flops(VICUNA, visual, COUNTS["pyramiddrop_visual"], visual=visual) / 1e12
    every = flops(VICUNA, [n + 95 for n in visual], COUNTS["pyramiddrop"], visual=visual) / 1e12
    assert shown == pytest.approx(alone, abs=0.0011)
    assert every == pytest.approx(whole, abs=0.0011)


@pytest.mark.parametrize(
    ("name", "fields", "target", "knob"),
    [
        ("fastv", {"layer": 2}, 192, 166),
        ("fastv", {"layer": 2}, 128, 98),
        ("fastv", {"layer": 2}, 64, 30),
        ("fastv", {"layer": 3}, 192, 152),
        ("fastv", {"layer": 3}, 64, 11),
        ("random", {}, 64, 64),
        ("pyramiddrop", {"layers": [2, 8, 16]}, 192, 101),
        ("pyramiddrop", {"layers": [2, 8, 16]}, 128, 43),
        ("pyramiddrop", {"layers": [2, 8, 16]}, 64, 4),
        ("pyramiddrop", {"layers": [8, 16, 24]}, 192, 9),
    ],
)
def test_a_layer_mean_is_solved(name, fields, target, knob):
    assert solve_budget(name, STAGE, "layer_mean", target, **fields)["keep"] == pytest.approx(knob, abs=1)


@pytest.mark.parametrize(
    ("target", "removed"), [(192, [17] * 16 + [16] * 7), (128, [20] * 11 + [19] * 12), (64, [23] * 6 + [22] * 17)]
)
def test_tome_removes_evenly(target, removed):
    found = solve_budget("tome", STAGE, "kept", target)
    lengths = simulate(load_method("tome", **found), STAGE).tower  # patches that enter each of the 24 blocks
    assert [more - less for more, less in pairwise(lengths)] == removed
    assert lengths[-1] == target


def test_other_measures():
    half = solve_budget("random", STAGE, "flops:pyramiddrop", 0.5)["keep"]
    lengths = simulate(load_method("random", keep=half), STAGE).visual
    cost = flops(VICUNA, [n + 95 for n in lengths], COUNTS["pyramiddrop"], visual=lengths)
    whole = flops(VICUNA, [576 + 95] * 32, COUNTS["pyramiddrop"], visual=[576] * 32)
    assert cost / whole == pytest.approx(0.5, abs=0.001)
    assert solve_budget("vtw", STAGE, "layer_mean", 288)["layer"] == 16
    assert solve_budget("random", STAGE, "kept", 1 / 3)["keep"] == 192


@pytest.mark.parametrize(
    ("name", "measure", "target", "sentence"),
    [
        ("pyramiddrop", "layer_mean", 128, "cannot reach layer_mean=128: the nearest that it can is 144"),
        ("ficoco_l", "layer_mean", 64, "cannot reach layer_mean=64"),
        ("random", "kept", 600, "cannot reach kept=600: the nearest that it can is 576"),
        ("vtw", "kept", 192, "cannot reach kept=192: the nearest that it can is 0"),
        ("mustdrop", "kept", 64, "decides by the picture"),
        ("blind", "kept", 64, "has no knob"),
        ("random", "tokens", 64, "did you mean|measure of a budget"),
        ("random", "flops:pyramid", 0.5, "convention"),
        ("vtw_random_layer", "kept", 64, "no knob"),
    ],
)
def test_what_cannot_be_reached_is_said(name, measure, target, sentence):
    with pytest.raises(UserError, match=sentence):
        solve_budget(name, STAGE, measure, target)


def test_the_command_line(capsys):
    main(["model=llava_1_5_7b", "method=random", "layer_mean=192"])
    assert '"fields": {"keep": 192}' in capsys.readouterr().out
    stage = prefill_sizes(load_config(["model=pocket"]))
    assert (stage.depth, stage.total, stage.blocks, stage.used) == (12, 144, 8, 7)
    with pytest.raises(UserError, match="usage"):
        main(["method=random"])
    with pytest.raises(UserError, match="is a number"):
        main(["method=random", "kept=many"])


def test_a_sweep_over_a_measure():
    from thinsight.evaluation.sweep import sweep_points

    config = load_config(["model=pocket", "method=random", "sweep.layer_mean=[0.3333,0.1111]"])
    points = sweep_points(config)
    assert [str(p.budget) for p in points] == ["layer_mean=0.3333", "layer_mean=0.1111"]
    assert [p.method.fields["keep"] for p in points] == [48, 16]
