"""What one call of the model, or of ``generate``, leaves for its later parts."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thinsight.reduction.attention import CapturedQK
from thinsight.reduction.prompt import PromptInputs
from thinsight.runtime.decoder_inputs import DecoderCall
from thinsight.runtime.vision import EncodedImages


@dataclass(frozen=True, eq=False)
class Generation:
    """A call of ``generate`` that is under way: how many columns its prompt has, how many samples, and what they are
    (ids or embeddings)."""

    columns: int
    samples: int
    given: Tensor

    def holds(self, inputs: PromptInputs) -> bool:
        """Whether ``inputs`` are this prompt, in as many rows as it may be, with whatever was generated behind it."""
        data = inputs.embeds if self.given.is_floating_point() else inputs.ids
        rows = 0 if data is None else len(data)
        if rows == 0 or rows % self.samples or data.shape[1] < self.columns:
            return False
        begun = data[:: rows // self.samples, : self.columns]
        return begun.is_meta or torch.equal(begun, self.given.to(begun.device))


@dataclass(frozen=True, eq=False)
class Encoded:
    """What is known of pictures that were encoded ahead of their prompt, in one ``context``.

    A copy of the pictures, which ``generate`` makes for an assistant, shares it; a pickled one has lost it.
    """

    context: Any
    pictures: list[Tensor] | None
    tokens: list[int] | None
    images: EncodedImages | None

    def __deepcopy__(self, memo: dict) -> "Encoded":
        return self

    def __reduce__(self) -> tuple:
        return type(None), ()


class CallState(threading.local):
    """What one call leaves for its later parts; every thread has its own.

    generation     the call of ``generate`` that it belongs to
    prompt_inputs  what the assembler was given, until the decoder is called
    pictures       one tensor per picture that was encoded, its pixels or its features, until the prompt is done with
    tokens         how many visual tokens each has become, likewise
    ahead          how many calls have encoded pictures since the last prompt
    decoder        the decoder's call that is under way
    unread         whether pictures are being encoded of which only the projected features are wanted
    captured       queries and keys of the layers of this call that a stage asks for
    """

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self.prompt_inputs: PromptInputs | None = None
        self.pictures: list[Tensor] | None = None
        self.tokens: list[int] | None = None
        self.ahead = 0
        self.decoder: DecoderCall | None = None
        self.unread = False
        self.captured: dict[int, CapturedQK] = {}
