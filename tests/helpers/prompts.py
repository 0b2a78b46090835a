"""Prompts for the tiny LLaVA of conftest.py."""

import torch
from torch import Tensor

IMAGE, PATCHES, PAD = 100, 16, 0


def prompt(*parts: int, seed: int = 0) -> list[int]:
    """Token ids: a positive part is that many random words, a zero is an image."""
    words = torch.Generator().manual_seed(seed)
    ids = [1]
    for part in parts:
        ids += [IMAGE] * PATCHES if part == 0 else torch.randint(2, IMAGE, (part,), generator=words).tolist()
    return ids


def batch(*prompts: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Model inputs with left padding, and one random picture for each image in the prompts."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    inputs = {"input_ids": ids, "attention_mask": mask}
    images = int((ids == IMAGE).sum()) // PATCHES
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return inputs


BATCHES = {
    "one": batch(prompt(4, 0, 6)),
    "two, padded": batch(prompt(4, 0, 6), prompt(2, 0, 3, seed=1)),
    "several images": batch(prompt(3, 0, 2, 0, 4), prompt(2, 0, 0, 5, seed=1)),
    "unequal": batch(prompt(3, 0, 2, 0, 4), prompt(2, 0, 3, seed=1), prompt(9, seed=2)),
    "text longest": batch(prompt(40), prompt(2, 0, 3, seed=1)),
}
"""Name -> model inputs."""
