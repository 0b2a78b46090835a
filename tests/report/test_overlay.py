"""Pictures of what a reduction left: every patch is kept, merged or dropped, and the figure says so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.prompts import BATCHES, IMAGE, PATCHES
from PIL import Image

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.report.overlay import (
    DARK,
    TINTS,
    KeptPatches,
    StageOutcome,
    _edges,
    _tints,
    gallery,
    overlay,
    pixels,
)

PICTURE = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


def traced(llava, name, inputs="one", **fields):
    with reduce(llava, load_method(name, **fields)) as trace:
        llava(**BATCHES[inputs])
    return trace


def covers(axis):
    """The colours laid over the picture of a panel, patch by patch."""
    return np.asarray(axis.images[1].get_array()).reshape(-1, 4)


def test_dropped_patches_are_dark_and_kept_ones_clear(llava):
    trace = traced(llava, "random", keep=5)
    figure = overlay(PICTURE, trace, question="What?", answer="That")
    picture, stage = figure.axes
    assert picture.get_title() == "the picture\n16 tokens"
    assert stage.get_title() == "before layer 0\n5 of 16"
    dark = np.flatnonzero(covers(stage)[:, 3] == DARK)
    assert sorted({*range(PATCHES)} - set(dark)) == trace.kept[0]
    assert not covers(picture)[:, 3].any()
    assert figure.get_suptitle() == "What?  →  That"


def test_a_panel_for_every_stage_and_rows_of_six(llava, monkeypatch):
    trace = traced(llava, "ficoco_v", keep=4)
    figure = overlay(PICTURE, trace)
    titles = [axis.get_title().split("\n")[0] for axis in figure.axes]
    assert titles == ["the picture", *trace.steps]
    monkeypatch.setattr("thinsight.report.overlay.COLUMNS", 2)
    assert len(overlay(PICTURE, trace).axes) == 4  # two rows of two for three panels


def test_every_patch_is_in_one_group_at_most(llava):
    for name in ("ficoco_v", "ficoco_l", "ficoco_vl"):
        trace = traced(llava, name, keep=4)
        stages = StageOutcome(trace, 0)
        for where in stages.tokens:
            left = stages.left(where, 0)
            inside = [patch for group in left.groups for patch in group]
            members = [patch for group in left.groups for patch in group - left.kept]
            assert len(members) == len(set(members))
            assert {*inside} | left.kept <= {*range(left.count)}
            assert len(left.kept) == len(trace.steps[where][0])
            assert all(group & left.kept for group in left.groups)  # the token that took the others in


def test_merged_patches_have_the_colour_of_their_group(llava):
    trace = traced(llava, "ficoco_v", keep=4)
    left = StageOutcome(trace, 0).last(0)
    stage = covers(overlay(PICTURE, trace).axes[len(trace.steps)])
    for group in left.groups:
        inks = {tuple(stage[patch][:3].round(3)) for patch in group - left.kept}
        assert len(inks) <= 1
    assert not stage[list(left.kept), 3].any()


def test_shares_go_with_steps_and_end_as_weights(llava):
    trace = traced(llava, "ficoco_vl", "unequal", keep=4)
    for where, step in trace.steps.items():
        for tokens, shares in zip(step, trace.shares[where], strict=True):
            assert [len(patches) for _, patches in tokens] == [len(of) for of in shares]
    assert trace.shares[list(trace.steps)[-1]] == trace.weights
    assert [sum(own) for own in trace.pictures] == [int(n) for n in (BATCHES["unequal"]["input_ids"] == IMAGE).sum(1)]


def test_the_token_that_took_the_larger_share_has_the_patch():
    given = SimpleNamespace(
        pictures=[[4]],
        steps={"here": [[(0, [0, 2]), (1, [1, 2, 3])]]},
        shares={"here": [[[1.0, 0.3], [1.0, 0.7, 1.0]]]},
    )
    assert StageOutcome(given, 0).last(0) == KeptPatches(4, frozenset({0, 1}), (frozenset({1, 2, 3}),))


def test_tokens_that_show_no_place_are_counted_apart():
    steps, shares = {"features": [[(-1, []), (3, [3])]]}, {"features": [[[], [1.0]]]}
    given = SimpleNamespace(pictures=[[4]], steps=steps, shares=shares)
    assert StageOutcome(given, 0).last(0) == KeptPatches(4, frozenset({3}), adrift=1)
    assert overlay(PICTURE, given).axes[1].get_title() == "features\n2 of 4, 1 of no place"


def test_several_images_have_rows_of_their_own(llava):
    inputs = BATCHES["several images"]
    trace = traced(llava, "random", "several images", keep=0.5)
    sample = next(i for i, own in enumerate(trace.pictures) if len(own) > 1)
    count = len(trace.pictures[sample])
    first = sum(len(own) for own in trace.pictures[:sample])
    pictures = list(inputs["pixel_values"][first : first + count])
    figure = overlay(pictures, trace, sample)
    assert len(figure.axes) == 2 * count
    clear = sum(int((covers(axis)[:, 3] == 0).sum()) for axis in figure.axes[1::2])
    assert clear == len(trace.kept[sample])
    with pytest.raises(UserError, match=f"has {count} image"):
        overlay(pictures[0], trace, sample)
    with pytest.raises(UserError, match="none with the number 99"):
        overlay(pictures, trace, 99)


def test_nothing_is_covered_where_nothing_leaves(llava):
    (axis,) = overlay(PICTURE, traced(llava, "identity")).axes
    assert not covers(axis)[:, 3].any()


def test_a_gallery_has_the_last_stage_of_every_method(llava):
    traces = {name: traced(llava, name, keep=4) for name in ("random", "ficoco_v")}
    figure = gallery(PICTURE, {**traces, "whole": traced(llava, "identity")}, question="What?", answer="That")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["the picture\n→ That", "random", "ficoco_v", "whole"]
    assert (covers(figure.axes[1])[:, 3] == DARK).sum() == PATCHES - 4
    assert not covers(figure.axes[3])[:, 3].any()


def test_what_is_no_square_is_refused(llava):
    odd = SimpleNamespace(pictures=[[15]], steps={}, shares={})
    with pytest.raises(UserError, match="no square grid"):
        overlay(PICTURE, odd)
    with pytest.raises(UserError, match="20 x 10 pixels"):
        overlay(PICTURE.resize((20, 10)), traced(llava, "random", keep=4))


def test_pixels_of_any_kind_look_the_same():
    plain = np.asarray(PICTURE) / 255
    tensor = torch.tensor(plain).permute(2, 0, 1)
    for image in (PICTURE, np.asarray(PICTURE), plain, tensor, [PICTURE]):
        (shown,) = pixels(image)
        np.testing.assert_allclose(shown, plain, atol=1e-6)
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    normal = (tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    made_by = SimpleNamespace(do_normalize=True, image_mean=mean, image_std=std)
    for image, processor in ((normal, made_by), (normal[None], SimpleNamespace(image_processor=made_by))):
        (shown,) = pixels(image, processor)
        np.testing.assert_allclose(shown, plain, atol=1e-6)
    (stretched,) = pixels(tensor * 100 - 7)
    np.testing.assert_allclose((stretched.min(), stretched.max()), (0, 1))
    (grey,) = pixels(PICTURE.convert("L"))
    assert grey.shape == (16, 16, 3)
    for wrong in (torch.zeros(2, 4, 4), np.zeros((4, 4, 7))):
        with pytest.raises(UserError, match="shape"):
            pixels(wrong)


def test_borders_and_colours():
    assert len(_edges(frozenset({0}), 4)) == 4
    assert len(_edges(frozenset({0, 1}), 4)) == 6
    assert len(_edges(frozenset({3, 4}), 4)) == 8  # ends of two rows: no neighbours
    assert len(_edges(frozenset(range(16)), 4)) == 16
    groups = [frozenset({0, 1}), frozenset({2, 3}), frozenset({4, 5}), frozenset({10, 11})]
    chosen = _tints(groups, 4)
    assert set(chosen) <= set(TINTS)
    assert len(set(chosen[:3])) == 3
