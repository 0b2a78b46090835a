"""What a stage may ask for: attention rows, keys, features, the words of the question, and notes of earlier stages.

`NEEDS` lists what a stage can name in its ``needs``; a model or site that does not offer it is refused in one sentence.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.attention import LayerAttention
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class Word:
    """A word of the question.

    text   as it is written, without punctuation
    index  (n,) int64, the columns of its tokens in the prompt
    after  what stands between it and the next word
    """

    text: str
    index: Tensor
    after: str = ""


def sentence(words: Sequence[Word]) -> str:
    """The words as one text, with what stood between them."""
    return "".join(word.text + word.after for word in words).strip()


class Reader(Protocol):
    """Reads the question for stages: its words, and a text tower aligned with the vision tower.

    `thinsight.models.text.QuestionReader` is one for transformers models. ``text_sign``: 1 where a patch that shows
    what a text names has the larger cosine with it, -1 where it has the smaller one.
    """

    text_sign: int

    @property
    def clip(self) -> Any:
        """The text tower; a `UserError` if the model names none."""

    def words(self, ids: Tensor, prompt: Any, sample: int) -> list[Word]:
        """The words of the question in the sample's ``ids`` (columns,) int64."""


NEEDS = {
    "attention": "queries and keys of the layer before (inside a layer: its own)",
    "next": "the weights of the layer to come",
    "cls": "a class token in the vision tower",
    "features": "the picture's features before the projector, one for each visual token",
    "projector": "the projector, as a function of features",
    "embeddings": "the prompt as it entered the decoder",
    "norm": "the decoder's final norm",
    "words": "the words of the question",
    "text_tower": "an aligned text tower (CLIP)",
}
"""What a stage can name in its ``needs``, and what it means."""


@dataclass
class StageNotes:
    """What one stage leaves for a later one of the same sample (in the vision tower: image). None: nothing was left.

    ranked   (n,) int64     index of the tokens that come first, in this order (read by `stages.ScoreOrder`)
    key      (n,) int64     numbers of MustDrop's key patches, see `Evidence.place`
    raters   (n,) int64     index of SparseVLM's text raters
    routing                 PAR's intermediate results, a `methods.par.Routing`
    images   list of notes  what the vision tower's stages left of each image of the prompt, in its order; None where
                            images and image tokens do not match in number
    """

    ranked: Tensor | None = None
    key: Tensor | None = None
    raters: Tensor | None = None
    routing: Any = None
    images: "list[StageNotes] | None" = None


@dataclass(frozen=True)
class Evidence:
    """Facts about the sample (behind the projector) or the image (in front of it) that a stage works on.

    layer         the layer that the tokens are about to enter, or that they are inside of, 0-based
    depth         number of layers of the stack that it is in
    image         (columns,) int64: which of the sample's images each column shows, -1 for what is no picture
    content       the sample's own input as bytes (token ids of the prompt and pixels, no padding), read when asked for
    stage         which of the ``stages`` layers of the site this is, counted from 0
    sequence      all tokens of the sample as they are now, text and class token included, but none that was generated
                  or guessed behind the prompt; a stage is shown some of them
    attention_at  "attention" (the layer before, or the own one inside) or "next" -> makes its `LayerAttention`
    providers     name in `NEEDS` -> makes it, when asked for
    notes         what earlier stages of the same sample left; empty at the start of every prompt
    reader        reads the question: tokenizer and text tower of the model; None for a bare one
    """

    layer: int
    depth: int
    image: Tensor
    content: Callable[[], bytes]
    stage: int = 0
    stages: int = 1
    sequence: Tokens | None = None
    attention_at: Mapping[str, Callable[[], LayerAttention]] = field(default_factory=dict)
    providers: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    notes: StageNotes = field(default_factory=StageNotes)
    reader: Reader | None = None

    def generator(self, seed: int) -> torch.Generator:
        """A random source that depends on ``seed`` and the sample's content alone, so not on its batch or device."""
        digest = hashlib.blake2b(self.content(), digest_size=8, key=str(seed).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    @property
    def total(self) -> int:
        """Visual tokens that the picture or prompt came with."""
        return int((self.image >= 0).sum())

    @property
    def last(self) -> Tensor:
        """(1,) index of the last token of the prompt."""
        return self.sequence.index[-1:]

    @property
    def cls(self) -> Tensor:
        """(1,) index of the class token in the vision tower; (0,) if the tower has none."""
        return self.sequence.index[~self.sequence.visual]

    @property
    def behind(self) -> Tensor:
        """(n,) index of the text tokens behind the last visual token, the template's included: those that see all of
        the picture."""
        at = (self.image >= 0).nonzero()
        return self.text[self.text > (int(at[-1]) if len(at) else -1)]

    @property
    def question(self) -> Tensor:
        """(n,) index of the question's text tokens: those of `behind`, and the words of the same turn in front of the
        picture, where the model has a tokenizer to tell them from the template."""
        text, front = self.text, self.providers.get("front")
        behind = self.behind
        return behind if front is None else torch.cat([text[torch.isin(text, front())], behind])

    @property
    def text(self) -> Tensor:
        """(n,) index of all text tokens."""
        return self.sequence.index[~self.sequence.visual]

    def layer_attention(self, source: str = "attention") -> LayerAttention:
        """Queries and keys: of the layer before (inside a layer: its own), or of the "next" one."""
        if source not in self.attention_at:
            missing = (
                "no further layer"
                if source == "next" and self.layer
                else "no layer before this that could be looked at"
            )
            raise UserError(f"there is {missing}, at layer {self.layer}: choose another layer")
        return self.attention_at[source]()

    def attention(self, rows: Tensor, columns: Tensor, source: str = "attention", heads: bool = False) -> Tensor:
        """(rows, columns) fp32, the mean over heads, or (heads, rows, columns): softmax attention of the tokens
        ``rows`` to ``columns``, both given by index; the softmax is over all tokens."""
        attention = self.layer_attention(source).attention(rows, columns)
        return attention if heads else attention.mean(0)

    def logits(self, rows: Tensor, columns: Tensor, source: str = "attention", heads: bool = False) -> Tensor:
        """The same before mask and softmax."""
        logits = self.layer_attention(source).logits(rows, columns)
        return logits if heads else logits.mean(0)

    def keys(self, index: Tensor, source: str = "attention") -> Tensor:
        """(heads, n, head width): keys of the tokens ``index``, rotated in the decoder."""
        layer = self.layer_attention(source)
        return layer.keys[:, layer.rows(index).to(layer.keys.device)]

    def states(self, index: Tensor) -> Tensor:
        """(n, width): states of any tokens of the sample, by index."""
        rows = torch.searchsorted(self.sequence.index, index)
        return self.sequence.states[rows.to(self.sequence.states.device)]

    def place(self, index: Tensor) -> Tensor:
        """(n,) number of each visual token among all that the picture or prompt came with, counted from 0."""
        return ((self.image >= 0).cumsum(0) - 1)[index]

    def cells(self, index: Tensor) -> Tensor:
        """(n, 3) image, row and column of visual tokens on their image's square grid of patches."""
        cells = []
        for column in index.tolist():
            number = int(self.image[column])
            columns = (self.image == number).nonzero().squeeze(1)
            side = math.isqrt(len(columns))
            if side * side != len(columns):
                raise UserError(f"{len(columns)} visual tokens of an image are no square grid of patches")
            contiguous = columns[-1] - columns[0] + 1 == len(columns)
            patch = column - int(columns[0]) if contiguous else int((columns < column).sum())
            cells.append((number, patch // side, patch % side))
        return torch.tensor(cells, dtype=torch.int64).reshape(-1, 3)

    def get(self, name: str) -> Any:
        """One of the things in `NEEDS` that are made on demand.

        features    (total, width)   features before the projector, in the order of `place`
        projector   features (n, width) -> (n, the decoder's width)
        embeddings  (columns, width) what entered the decoder's first layer, by index
        norm        (n, width) -> (n, width): the decoder's final norm
        words       list of `Word` of the question, the template's own left out
        """
        if name not in self.providers:
            raise UserError(f"this model or place does not offer {NEEDS[name]}")
        return self.providers[name]()

    @property
    def words(self) -> Sequence[Word]:
        """The words of the question with the index of their tokens."""
        return self.get("words")
