"""Where in the model a reduction acts: in the vision tower, in front of the projector or behind it, in the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from thinsight.errors import UserError
from thinsight.reduction.evidence import Evidence

POSITIONS = ("keep", "pack")
"""keep: survivors go by their original numbers, with gaps. pack: re-indexed without gaps from the reducing layer on."""

Layer = int | float | None
"""A layer is a number from 0, or a fraction of the depth (float; 0.5 is layer 16 of 32), or None: half the depth."""


@dataclass(frozen=True)
class Vision:
    """In the blocks ``layers`` of the vision tower, between attention and MLP (``inside``) or before the block.

    layers       block numbers or fractions of the tower's depth; None: every block from ``start`` to the last one
                 whose output the projector reads (LLaVA leaves out the tower's last block)
    proportional log(size) of merged tokens is added to the attention logits of their keys from then on (ToMe)
    """

    layers: Sequence[Layer] | None = None
    start: Layer = 0
    inside: bool = True
    proportional: bool = False
    positions: str = "pack"

    def __post_init__(self) -> None:
        _check_positions(self.positions)
        object.__setattr__(self, "layers", None if self.layers is None else tuple(self.layers))

    def blocks(self, depth: int, used: int) -> tuple[int, ...]:
        """The blocks in a tower of ``depth`` blocks of which the first ``used`` reach the projector."""
        if self.layers is None:
            numbers = tuple(range(_number(self.start, depth), used))
        else:
            numbers = tuple(_number(layer, depth) for layer in self.layers)
        for layer in numbers:
            if layer >= used:
                raise UserError(f"block {layer} does not reach the projector: it reads the output of block {used - 1}")
        if not numbers or len(set(numbers)) < len(numbers):
            raise UserError(f"layers={list(numbers)} of a tower of {depth} blocks: at least one is needed, none twice")
        return numbers


@dataclass(frozen=True)
class Features:
    """Between vision tower and projector, on the features of each image; the tower itself runs whole."""

    positions: str = "pack"

    def __post_init__(self) -> None:
        _check_positions(self.positions)


@dataclass(frozen=True)
class Projected:
    """Between projector and decoder: the first layer already sees the shortened prompt."""

    positions: str = "keep"
    layers = (0,)
    inside = False
    proportional = False

    def __post_init__(self) -> None:
        _check_positions(self.positions)

    def resolve(self, depth: int) -> "Projected":
        """This site in a decoder of ``depth`` layers."""
        return self

    def where(self, evidence: Evidence) -> tuple[int, ...]:
        """Before the first layer."""
        return (0,)


@dataclass(frozen=True)
class Decoder:
    """Before the decoder layers ``layers``, or ``inside`` them between attention and MLP.

    layers       numbers (the depth itself: never), fractions of the depth, or None for half of it; ``layers=None``:
                 every layer from ``start`` on
    proportional as for `Vision`
    """

    layers: Sequence[Layer] | None = (None,)
    positions: str = "keep"
    start: Layer = 0
    inside: bool = False
    proportional: bool = False

    def __post_init__(self) -> None:
        _check_positions(self.positions)
        object.__setattr__(self, "layers", None if self.layers is None else tuple(self.layers))

    def resolve(self, depth: int) -> "Decoder":
        """The same with numbers; a layer that the decoder does not have is a `UserError`."""
        if self.layers is None:
            return replace(self, layers=tuple(range(_number(self.start, depth), depth)))
        layers = _apart(self.layers, depth)
        if len(set(layers)) < len(layers):
            raise UserError(f"layers={list(layers)} of a decoder of {depth} layers names a layer twice")
        return replace(self, layers=layers)

    def where(self, evidence: Evidence) -> tuple[int, ...]:
        """The layers, the same for every sample."""
        return self.layers


@dataclass(frozen=True)
class RandomDecoder:
    """Before one layer per sample, drawn uniformly from ``low`` to ``high`` (both included).

    None stands for a quarter and three quarters of the depth: 8 and 24 of LLaVA-1.5-7B's 32 layers, the range of VTW's
    ``random_drop_layer``. The draw depends on the seed and on the sample's own content.
    """

    low: int | None = None
    high: int | None = None
    seed: int = 0
    positions: str = "keep"
    inside = False
    proportional = False

    def __post_init__(self) -> None:
        _check_positions(self.positions)

    def resolve(self, depth: int) -> "RandomDecoder":
        """The same with numbers for None."""
        low = depth // 4 if self.low is None else _check_layer(self.low, depth)
        high = 3 * depth // 4 if self.high is None else _check_layer(self.high, depth)
        if low > high:
            raise UserError(f"no layer lies between low={low} and high={high}")
        return replace(self, low=low, high=high)

    @property
    def layers(self) -> tuple[int, ...]:
        """All that may be drawn, once resolved."""
        return tuple(range(self.low, self.high + 1))

    def where(self, evidence: Evidence) -> tuple[int, ...]:
        """The layer drawn for this sample."""
        (generator,) = evidence.generators(self.seed)
        return (int(torch.randint(self.low, self.high + 1, (), generator=generator).numpy()),)


BeforeProjector = Vision | Features
"""Sites in front of the projector, where the tokens of one image are reduced without its prompt."""

AfterProjector = Projected | Decoder | RandomDecoder
"""Sites behind the projector, where the visual tokens of one prompt are reduced."""

Site = BeforeProjector | AfterProjector


def _check_positions(positions: str) -> None:
    if positions not in POSITIONS:
        raise UserError(f"positions is keep or pack, not {positions!r}")


def _apart(layers: Sequence[Layer], depth: int) -> tuple[int, ...]:
    """The numbers of ``layers``; ascending fractions that meet in a shallow decoder move on to the next layer."""
    numbers: list[int] = []
    for at, layer in enumerate(layers):
        number, before = _number(layer, depth), layers[at - 1] if at else None
        if isinstance(layer, float) and isinstance(before, float) and layer > before:
            number = min(max(number, numbers[-1] + 1), depth - (layer < 1))
        numbers.append(number)
    return tuple(numbers)


def _number(layer: Layer, depth: int) -> int:
    """A layer's number: fractions are rounded, but never down to layer 0, which has nothing before it."""
    if layer is None:
        return depth // 2
    if isinstance(layer, float) and 0 <= layer <= 1:
        return max(round(layer * depth), min(1, depth)) if layer > 0 else 0
    return _check_layer(layer, depth)


def _check_layer(layer: int, depth: int) -> int:
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise UserError(f"a layer is a whole number or a fraction of the depth between 0.0 and 1.0, not {layer!r}")
    if not 0 <= layer <= depth:
        raise UserError(f"layer {layer} is out of range: this stack has the layers 0..{depth - 1} ({depth}: never)")
    return layer
