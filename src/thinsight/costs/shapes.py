"""A model's architecture in other sizes, for clocks on machines that the true one is too large for.

    shape=8x512          8 decoder layers of width 512
    shape=8x512+6x256    and a vision tower of 6 blocks of width 256

All else stays: pictures, patches and so visual tokens, the vocabulary, the width of a head, how many query heads share
a key head, and how much wider the MLP is.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinsight.errors import UserError

SHAPE = re.compile(r"(\d+)x(\d+)(?:\+(\d+)x(\d+))?")


@dataclass(frozen=True)
class StackSize:
    """Layers of a stack and the width of a row in it."""

    layers: int
    width: int


def read_shape(text: str) -> tuple[StackSize, StackSize | None]:
    """The decoder's size and, where it is given, the tower's; anything but ``8x512`` or ``8x512+6x256`` is refused."""
    match = SHAPE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise UserError(
            f"shape is LAYERSxWIDTH of the decoder and, if wanted, of the vision tower (8x512 or 8x512+6x256), "
            f"not '{text}'"
        )
    layers, width, blocks, tower = (int(number or 0) for number in match.groups())
    return StackSize(layers, width), StackSize(blocks, tower) if blocks else None


def resized(model: DictConfig, shape: str) -> DictConfig:
    """The model node with its architecture in the sizes of ``shape``; widths no head fits into are a `UserError`."""
    decoder, tower = read_shape(shape)
    if model.architecture is None:
        raise UserError(f"shape changes the architecture in conf/model/{model.name}.yaml, and that file has none")
    architecture = OmegaConf.to_container(model.architecture, resolve=True)
    text, vision = architecture["text_config"], architecture["vision_config"]
    text |= _resized(text, decoder, "hidden_size", "num_hidden_layers", "num_attention_heads", "the decoder")
    if tower is not None:
        width = "embed_dim" if "embed_dim" in vision else "hidden_size"
        depth = "depth" if "depth" in vision else "num_hidden_layers"
        heads = "num_heads" if "num_heads" in vision else "num_attention_heads"
        vision |= _resized(vision, tower, width, depth, heads, "the vision tower")
        if "fullatt_block_indexes" in vision:  # Qwen2.5-VL: the blocks that attend to everything, the last one at least
            whole = [block for block in vision["fullatt_block_indexes"] if block < tower.layers]
            vision["fullatt_block_indexes"] = whole or [tower.layers - 1]
    for key in ("out_hidden_size", *(["hidden_size"] if "embed_dim" in vision else [])):
        if key in vision:  # Qwen-VL's tower ends in rows as wide as the decoder's
            vision[key] = decoder.width
    changed = copy.deepcopy(model)
    changed.architecture, changed.checkpoint = architecture, None  # whose weights these are not
    return changed


def _resized(node: Mapping[str, Any], size: StackSize, width: str, depth: str, heads: str, what: str) -> dict[str, Any]:
    """The fields of a stack that change."""
    head = node.get("head_dim") or node[width] // node[heads]
    if size.width % head:
        raise UserError(f"the width of {what} is a multiple of its heads' {head}, not {size.width}")
    number = size.width // head
    fields = {width: size.width, depth: size.layers, heads: number}
    if "num_key_value_heads" in node:
        groups = max(1, number * node["num_key_value_heads"] // node[heads])
        fields["num_key_value_heads"] = next(n for n in range(groups, 0, -1) if number % n == 0)
    if "intermediate_size" in node:
        fields["intermediate_size"] = round(size.width * node["intermediate_size"] / node[width])
    return fields
