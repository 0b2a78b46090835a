"""What one call of the model, or of ``generate``, leaves for its later parts."""

import threading
from dataclasses import dataclass

from torch import Tensor

from thinsight.reduction.attention import CapturedQK
from thinsight.reduction.prompt import PromptInputs
from thinsight.runtime.decoder_inputs import DecoderCall


@dataclass
class Generation:
    """A call of ``generate`` that is under way: how many columns its prompt has, and how many samples."""

    columns: int
    samples: int


class CallState(threading.local):
    """What one call leaves for its later parts; every thread has its own.

    generation     the call of ``generate`` that it belongs to
    prompt_inputs  what the assembler was given, until the decoder is called
    pictures       one tensor per picture that was encoded, its pixels or its features, until the prompt is done with
    tokens         how many visual tokens each has become, likewise
    decoder        the decoder's call that is under way
    captured       queries and keys of the layers of this call that a stage asks for
    """

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self.prompt_inputs: PromptInputs | None = None
        self.pictures: list[Tensor] | None = None
        self.tokens: list[int] | None = None
        self.decoder: DecoderCall | None = None
        self.captured: dict[int, CapturedQK] = {}
