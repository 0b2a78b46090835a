"""FLOPs of Qwen-VL's vision tower by formula: its many small windows make counting operations one by one slow."""

from typing import TYPE_CHECKING

from thinsight.conventions import PROFILER
from thinsight.cost import Shape, flops

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from thinsight.picture import Picture


def tower_shape(vision: "PreTrainedConfig") -> Shape:
    """The blocks of a Qwen2.5-VL tower: gated MLPs, as many keys as queries."""
    d = vision.hidden_size
    return Shape(vision.depth, d, vision.intermediate_size, 3, d, d)


def packed_flops(vision: "PreTrainedConfig", picture: "Picture") -> dict[str, int]:
    """As `thinsight.meta.tower_flops`, equal to it: two operations per multiply-add, no biases.

    Linear maps see every patch; attention runs in windows of ``window_size`` pixels, but for the blocks
    ``fullatt_block_indexes``, where every patch attends to all; patches become the tower's input by one linear map,
    and the merger is two on each 2 x 2 of them.
    """
    shape, side, merge = tower_shape(vision), vision.patch_size, vision.spatial_merge_size
    rows, columns = (pixels // side for pixels in picture.size)
    whole = len(vision.fullatt_block_indexes)
    tall, wide = (_windows(n, vision.window_size // side) for n in (rows, columns))
    inside = sum((a * b) ** 2 for a in tall for b in wide)
    n, d = rows * columns, shape.width
    dense = flops(shape, [n] * shape.layers, PROFILER)
    attended = 4 * d * ((shape.layers - whole) * (inside - n * n))
    embedding = 2 * n * vision.in_channels * vision.temporal_patch_size * side**2 * d
    wider = d * merge**2
    merger = 2 * (n // merge**2) * wider * (wider + vision.out_hidden_size)
    return {"vision_tower": dense + attended + embedding, "projector": merger}


def _windows(length: int, window: int) -> list[int]:
    """The lengths of windows side by side, the last one cut."""
    return [min(window, length - start) for start in range(0, length, window)]
