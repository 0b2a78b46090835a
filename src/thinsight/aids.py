"""What a method may need besides the model: the tokenizer, for words, and an aligned text tower, for CLIP's space."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import ProcessorMixin


@dataclass(frozen=True)
class Word:
    """A word of the question: its ``text``, and the ``index`` (n,) of its tokens in the prompt."""

    text: str
    index: Tensor


@dataclass(frozen=True)
class Aids:
    """What `thinsight.load_model` hangs on a model as ``model.aids``.

    processor   of the model: its tokenizer tells words
    text_tower  a folder or hub id of a CLIP checkpoint whose vision tower is this model's; None: there is none
    """

    processor: "ProcessorMixin"
    text_tower: str | None = None
