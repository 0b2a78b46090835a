"""Masks cut to a layout, in each form that an attention implementation takes. FlashAttention itself is not run."""

import pytest
import torch

from thinsight.reduction.prompt import Prompt, number_images
from thinsight.runtime.layout import Layout, cut_mask

ALIVE = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]).bool()
IMAGE = torch.tensor([[-1, 0, 0, 0, -1, -1], [-1, -1, 0, 1, -1, -1]])


@pytest.fixture
def prompt():
    position = (ALIVE.long().cumsum(1) - 1).clamp(min=0)
    return Prompt(ALIVE, IMAGE, position, lambda sample: b"")


def withdrawn(prompt, pack=False):
    stay = [((IMAGE[b] < 0) & ALIVE[b]).nonzero().squeeze(1) for b in range(2)]
    return Layout.full(prompt).narrow(stay, [pack, pack])


def test_narrow(prompt):
    layout = withdrawn(prompt)
    assert layout.columns.tolist() == [[0, 4, 5], [1, 4, 5]]
    assert layout.position.tolist() == [[0, 4, 5], [0, 3, 4]]
    assert withdrawn(prompt, pack=True).position.tolist() == [[0, 1, 2]] * 2
    assert withdrawn(prompt, pack=True).last.tolist() == [2, 2]


def test_filling_takes_padding_first(prompt):
    """The second sample keeps two of five: padding fills before a withdrawn column does."""
    full = Layout.full(prompt)
    stay = [torch.tensor([0, 1, 4, 5]), torch.tensor([4, 5])]
    layout = full.narrow(stay, [False, True])
    assert layout.columns.tolist() == [[0, 1, 4, 5], [0, 1, 4, 5]]
    assert layout.alive.tolist() == [[True] * 4, [False, False, True, True]]
    assert layout.filling.tolist() == [[False] * 4, [False, True, False, False]]
    assert layout.position[1, 2:].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_four_dimensions(prompt, kind):
    full, layout = Layout.full(prompt), withdrawn(prompt)
    mask = (torch.ones(6, 6).tril().bool() & ALIVE[:, None, :])[:, None]
    if kind == "float":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    cut = cut_mask(mask, layout, full, queries=3, keys=3, flash=False)
    for sample in range(2):
        columns = layout.columns[sample]
        assert torch.equal(cut[sample, 0], mask[sample, 0][columns][:, columns])


def test_two_dimensions_as_flash_attention_takes_them(prompt):
    full = Layout.full(prompt)
    layout = full.narrow([torch.tensor([0, 1, 4, 5]), torch.tensor([4, 5])], [False, False])
    mask = torch.cat([ALIVE, torch.ones(2, 2, dtype=torch.bool)], 1)  # two generated tokens
    cut = cut_mask(mask, layout, full, queries=1, keys=6, flash=True)
    assert cut.tolist() == [[True] * 6, [False, False, True, True, True, True]]
    none = cut_mask(None, layout, full, queries=1, keys=6, flash=True)
    assert torch.equal(none, cut)
    assert cut_mask(None, withdrawn(prompt), full, 3, 3, flash=True) is None


def test_a_causal_mask_is_made_for_filling(prompt):
    """transformers passes None for plain causality; filling has to be hidden all the same, and stay finite."""
    full = Layout.full(prompt)
    layout = full.narrow([torch.tensor([0, 1, 5]), torch.tensor([4, 5])], [False, False])
    assert layout.columns[1].tolist() == [0, 4, 5]
    prefill = cut_mask(None, layout, full, queries=3, keys=3, flash=False)[1, 0]
    assert prefill.tolist() == [[True, False, False], [False, True, False], [False, True, True]]
    decode = cut_mask(None, layout, full, queries=1, keys=5, flash=False)[1, 0]
    assert decode.tolist() == [[False, True, True, True, True]]
    turn = cut_mask(None, layout, full, queries=2, keys=5, flash=False)[0, 0]
    assert turn.tolist() == [[True, True, True, True, False], [True] * 5]


def test_images_are_told_apart():
    """Runs of visual columns, and neighbours without text between them where all images are equally long."""
    visual = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]]).bool()
    assert number_images(visual).tolist() == [[-1, 0, 0, -1, 1, 1, 1, 1], [0, 0] + [-1] * 6]
    assert number_images(visual, [2, 2, 2])[0].tolist() == [-1, 0, 0, -1, 1, 1, 2, 2]
