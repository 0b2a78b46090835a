"""What a stage may ask for: attention rows, keys, features, the words of the question, and notes of earlier stages.

`NEEDS` lists what a stage can name in its ``needs``; a model or site that does not offer it is refused in one sentence.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.attention import LayerAttention, of_heads
from thinsight.reduction.sources import take_at
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
    "content": "the sample's own input as bytes",
    "text": "text tokens besides the last one",
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
    repeated (n,) int64     where in ``ranked`` a token stands that has stood there before (PruMerge's training)
    key      (n,) int64     numbers of patches chosen in the tower (MustDrop, VScan), see `Evidence.place`
    raters   (n,) float     which of the text tokens behind the picture are SparseVLM's raters: 1, else 0
    routing                 PAR's intermediate results, a `methods.par.Routing`
    images   list of notes  what the vision tower's stages left of each image of the prompt, in its order; None where
                            images and image tokens do not match in number
    """

    ranked: Tensor | None = None
    repeated: Tensor | None = None
    key: Tensor | None = None
    raters: Tensor | None = None
    routing: Any = None
    images: "list[StageNotes] | None" = None

    @classmethod
    def side_by_side(cls, samples: "Sequence[StageNotes]") -> "StageNotes":
        """Notes of several samples, an axis in front; what not all of them have alike is left out."""
        notes = cls()
        for part in fields(cls):
            values = [getattr(own, part.name) for own in samples]
            if any(value is None for value in values):
                continue
            if part.name == "images":
                if len(set(map(len, values))) == 1:
                    notes.images = [cls.side_by_side(each) for each in zip(*values, strict=True)]
            elif part.name == "routing":
                notes.routing = values
            elif len({value.shape for value in values}) == 1:
                setattr(notes, part.name, torch.stack(values))
        return notes

    @property
    def alike(self) -> tuple:
        """What has to be the same in samples that go side by side."""
        shapes = tuple(None if part is None else tuple(part.shape) for part in (self.ranked, self.key, self.raters))
        return shapes, None if self.images is None else tuple(image.alike for image in self.images)

    def of_samples(self, count: int = 1) -> "list[StageNotes]":
        """The notes of each of ``count`` samples."""
        every = [StageNotes() for _ in range(count)]
        for name in ("ranked", "repeated", "key", "raters", "routing"):
            value = getattr(self, name)
            for number, own in enumerate(every if value is not None else ()):
                setattr(own, name, value[number])
        for number, own in enumerate(every if self.images is not None else ()):
            own.images = [image.of_samples(count)[number] for image in self.images]
        return every

    def update(self, other: "StageNotes") -> None:
        """Take over what the other has."""
        for part in fields(self):
            value = getattr(other, part.name)
            if value is not None:
                setattr(self, part.name, value)


class Counts(NamedTuple):
    """Numbers that the host knows of a sample, and by which samples go side by side.

    pictures  how many visual tokens each picture came with
    text      text tokens (class tokens, in the vision tower) that are there now
    behind    how many of them stand behind the last visual token
    front     how many words' tokens of the question stand in front of it (see `Evidence.question`)
    cut       whether text has left
    """

    pictures: tuple[int, ...]
    text: int = 0
    behind: int = 0
    front: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Evidence:
    """Facts about the samples (behind the projector) or the images (in front of it) that a stage works on.

    Several samples have an axis in front, and are alike in `Counts`: those of the pictures always, those of the text
    only where a stage names "text" among its ``needs``.

    layer         the layer that the tokens are about to enter, or that they are inside of, 0-based
    depth         number of layers of the stack that it is in
    image         (columns,) int64: which of the sample's images each column shows, -1 for what is no picture
    content       the sample's own input as bytes (token ids of the prompt and pixels, no padding), read when asked for;
                  of several samples a list
    stage         which of the ``stages`` layers of the site this is, counted from 0
    sequence      all tokens of the sample as they are now, text and class token included, but none that was generated
                  or guessed behind the prompt; a stage is shown some of them
    attention_at  "attention" (the layer before, or the own one inside) or "next" -> makes its `LayerAttention`
    providers     name in `NEEDS` -> makes it, when asked for
    notes         what earlier stages of the same sample left; empty at the start of every prompt
    reader        reads the question: tokenizer and text tower of the model; None for a bare one
    counts        what the host knows; None: it is counted when asked for
    """

    layer: int
    depth: int
    image: Tensor
    content: Callable[[], bytes | list[bytes]]
    stage: int = 0
    stages: int = 1
    sequence: Tokens | None = None
    attention_at: Mapping[str, Callable[[], LayerAttention]] = field(default_factory=dict)
    providers: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    notes: StageNotes = field(default_factory=StageNotes)
    reader: Reader | None = None
    counts: Counts | None = None

    def only(self) -> "Evidence":
        """The same of one sample, without the axis of samples."""

        def first(make: Callable[[], Any]) -> Callable[[], Any]:
            def made() -> Any:
                value = make()
                return value if callable(value) else value[0]

            return made

        return replace(
            self,
            image=self.image[0],
            content=lambda: self.content()[0],
            sequence=self.sequence.first(),
            attention_at={name: cache(lambda make=make: make().only()) for name, make in self.attention_at.items()},
            providers={name: first(make) for name, make in self.providers.items()},
            notes=self.notes.of_samples()[0],
        )

    def generators(self, seed: int) -> list[torch.Generator]:
        """For each sample a random source that depends on ``seed`` and its content alone, not on batch or device."""
        content = self.content()
        digests = [
            hashlib.blake2b(each, digest_size=8, key=str(seed).encode()).digest()
            for each in ([content] if isinstance(content, bytes) else content)
        ]
        return [torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1) for digest in digests]

    @property
    def counted(self) -> Counts:
        """The counts, counted where nobody has said them."""
        if self.counts is not None:
            return self.counts
        image, sequence = self.image, self.sequence
        if image.dim() > 1:  # all samples are alike
            image, sequence = image[0], None if sequence is None else sequence.first()
        pictures = tuple(torch.bincount(image[image >= 0]).tolist())
        if sequence is None:
            return Counts(pictures)
        text, last = sequence.index[~sequence.visual], (image >= 0).nonzero().max() if pictures else -1
        return Counts(pictures, len(text), int((text > last).sum()), cut=True)

    @property
    def total(self) -> int:
        """Visual tokens that the picture or prompt came with."""
        return sum(self.counted.pictures)

    @property
    def last(self) -> Tensor:
        """(1,) index of the last token of the prompt."""
        return self.sequence.index[..., -1:]

    @property
    def cls(self) -> Tensor:
        """(1,) index of the class token in the vision tower; (0,) if the tower has none."""
        return self.text

    @property
    def behind(self) -> Tensor:
        """(n,) index of the text tokens behind the last visual token, the template's included: those that see all of
        the picture."""
        text = self.text
        return text[..., text.shape[-1] - self.counted.behind :]

    @property
    def question(self) -> Tensor:
        """(n,) index of the question's text tokens: those of `behind`, and the words of the same turn in front of the
        picture, where the model has a tokenizer to tell them from the template."""
        front = self.providers.get("front")
        behind = self.behind
        if front is None:
            return behind
        words = front()
        if self.counted.cut:  # some may have left
            words = self.text[..., torch.isin(self.text, words).reshape(-1, self.text.shape[-1])[0]]
        return torch.cat([words, behind], -1)

    @property
    def text(self) -> Tensor:
        """(n,) index of all text tokens."""
        return self.sequence.index if self.sequence.patches == 0 else take_at(self.sequence.index, self._text_rows)

    @property
    def _text_rows(self) -> Tensor:
        return self.sequence.rows(visual=False)

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
        layer = self.layer_attention(source)
        return layer.attention(rows, columns) if heads else layer.mean_attention(rows, columns)

    def logits(self, rows: Tensor, columns: Tensor, source: str = "attention", heads: bool = False) -> Tensor:
        """The same before mask and softmax."""
        layer = self.layer_attention(source)
        return layer.logits(rows, columns) if heads else layer.mean_logits(rows, columns)

    def keys(self, index: Tensor, source: str = "attention") -> Tensor:
        """(heads, n, head width): keys of the tokens ``index``, rotated in the decoder."""
        layer = self.layer_attention(source)
        return of_heads(layer.keys, layer.rows(index))

    def states(self, index: Tensor) -> Tensor:
        """(n, width): states of any tokens of the sample, by index."""
        rows = torch.searchsorted(self.sequence.index, index.contiguous())
        return take_at(self.sequence.states, rows)

    def place(self, index: Tensor) -> Tensor:
        """(n,) number of each visual token among all that the picture or prompt came with, counted from 0."""
        return ((self.image >= 0).cumsum(-1) - 1).gather(-1, index)

    def picture(self, index: Tensor) -> Tensor:
        """(n,) which of the sample's images each token shows, -1 for none."""
        return self.image.gather(-1, index)

    def cells(self, index: Tensor) -> Tensor:
        """(n, 3) image, row and column of visual tokens on their image's square grid of patches."""
        pictures = self.counted.pictures
        sides = [math.isqrt(patches) for patches in pictures]
        for side, patches in zip(sides, pictures, strict=True):
            if side * side != patches:
                raise UserError(f"{patches} visual tokens of an image are no square grid of patches")
        return self.grid(index, sides)

    def grid(self, index: Tensor, sides: Sequence[int]) -> Tensor:
        """The same on grids that have ``sides[i]`` columns."""
        pictures = self.counted.pictures
        number, patch = self.picture(index), self.place(index)
        if len(pictures) == 1:
            (side,) = sides
        else:
            side, before = torch.tensor(
                [sides, [sum(pictures[:at]) for at in range(len(pictures))]], device=index.device
            )[:, number]
            patch = patch - before
        return torch.stack([number, patch // side, patch % side], -1)

    def get(self, name: str) -> Any:
        """One of the things in `NEEDS` that are made on demand; of several samples side by side.

        features    (total, width)   features before the projector, in the order of `place`
        projector   features (n, width) -> (n, the decoder's width)
        embeddings  (columns, width) what entered the decoder's first layer, by index
        norm        (n, width) -> (n, width): the decoder's final norm
        words       list of `Word` of the question, the template's own left out; of several samples a list of lists
        """
        if name not in self.providers:
            raise UserError(f"this model or place does not offer {NEEDS[name]}")
        return self.providers[name]()

    @property
    def words(self) -> Sequence[Word]:
        """The words of the question with the index of their tokens."""
        return self.get("words")
