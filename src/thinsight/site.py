"""Where in the model a reduction happens, and what becomes of the position numbers there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from thinsight.errors import UserError
from thinsight.evidence import Evidence

POSITIONS = ("keep", "pack")
"""keep: survivors go by their original numbers, with gaps. pack: re-indexed without gaps from the reducing layer on."""


@dataclass(frozen=True)
class Projected:
    """Between projector and decoder: the first layer already sees the shortened prompt."""

    positions: str = "keep"

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
    """Before the decoder layers ``layers`` (0-based); None stands for half the depth, the depth itself for never."""

    layers: Sequence[int | None] = (None,)
    positions: str = "keep"

    def __post_init__(self) -> None:
        _check_positions(self.positions)
        object.__setattr__(self, "layers", tuple(self.layers))

    def resolve(self, depth: int) -> "Decoder":
        """The same with numbers for None; a layer that the decoder does not have is a `UserError`."""
        layers = tuple(depth // 2 if layer is None else _check_layer(layer, depth) for layer in self.layers)
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

    def __post_init__(self) -> None:
        _check_positions(self.positions)

    def resolve(self, depth: int) -> "RandomDecoder":
        """The same with numbers for None."""
        low = depth // 4 if self.low is None else _check_layer(self.low, depth)
        high = 3 * depth // 4 if self.high is None else _check_layer(self.high, depth)
        if low > high:
            raise UserError(f"no layer lies between low={low} and high={high}")
        return replace(self, low=low, high=high)

    def where(self, evidence: Evidence) -> tuple[int, ...]:
        """The layer drawn for this sample."""
        generator = evidence.generator(self.seed)
        return (int(torch.randint(self.low, self.high + 1, (), generator=generator)),)


Site = Projected | Decoder | RandomDecoder


def _check_positions(positions: str) -> None:
    if positions not in POSITIONS:
        raise UserError(f"positions is keep or pack, not {positions!r}")


def _check_layer(layer: int, depth: int) -> int:
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise UserError(f"a layer is a whole number, not {layer!r}")
    if not 0 <= layer <= depth:
        raise UserError(f"layer {layer} is out of range: this decoder has the layers 0..{depth - 1} ({depth}: never)")
    return layer
