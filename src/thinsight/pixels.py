"""Pictures as a figure can show them: whatever a processor made of them, back to 0..1."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thinsight.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's processors subtract and divide by, LLaVA's among them."""
SLACK = 0.02  # rounding to bytes before normalising


def pixels(image: Any) -> list[np.ndarray]:
    """One picture, or several, as (height, width, 3) floats in 0..1.

    A PIL image or an (H, W, 3) array is taken as it is. A tensor (3, H, W), or (images, 3, H, W), is what a processor
    gave the model: taken as it is if it lies in 0..1, un-normalised by CLIP's mean and deviation if that brings it
    there, and stretched from its least to its largest value otherwise.
    """
    if isinstance(image, Sequence):
        return [one for part in image for one in pixels(part)]
    if not hasattr(image, "permute"):
        found = np.asarray(image)
        found = found / 255 if found.dtype == np.uint8 else found.astype(float)
        if found.ndim == 2:
            found = found[..., None].repeat(3, -1)
        if found.ndim != 3 or found.shape[2] not in (3, 4):
            raise UserError(f"a picture has the shape (height, width, 3), not {found.shape}")
        return [found[..., :3]]
    if image.dim() == 4:
        return [one for part in image for one in pixels(part)]
    if image.dim() != 3 or image.shape[0] != 3:
        raise UserError(f"pixels have the shape (3, height, width), not {tuple(image.shape)}")
    return [_shown(image)]


def _shown(tensor: "Tensor") -> np.ndarray:
    found = tensor.detach().float().cpu().permute(1, 2, 0).numpy()
    if _fits(found):
        return found.clip(0, 1)
    back = found * np.array(CLIP_STD) + np.array(CLIP_MEAN)
    if _fits(back):
        return back.clip(0, 1)
    least, most = found.min(), found.max()
    return (found - least) / max(most - least, 1e-9)


def _fits(values: np.ndarray) -> bool:
    return bool(values.min() >= -SLACK and values.max() <= 1 + SLACK)
