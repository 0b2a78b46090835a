"""What a method may need besides the model: the tokenizer, for words, and an aligned text tower, for CLIP's space."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from thinsight.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ProcessorMixin

    from thinsight.prompt import Prompt
    from thinsight.text_tower import TextTower

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
SPACE, BYTE_SPACE = "\u2581", "\u0120"
"""How SentencePiece and byte-level BPE write the space that a word begins with."""

PROBE = "Probe7question"
"""A text that no chat template holds: what stands around it is the template's own."""


@dataclass(frozen=True)
class Word:
    """A word of the question.

    text   as it is written, without punctuation
    index  (n,) int64, the columns of its tokens in the prompt
    after  what stands between it and the next word
    """

    text: str
    index: "Tensor"
    after: str = ""


@dataclass(frozen=True)
class Aids:
    """What `thinsight.load_model` hangs on a model as ``model.aids``.

    processor   of the model: its tokenizer tells words
    text_tower  a folder or hub id of a CLIP checkpoint whose vision tower is this model's; None: there is none
    text_sign   1 if a patch that shows what a text names has the larger product with it there, -1 if the smaller one
    """

    processor: "ProcessorMixin"
    text_tower: str | None = None
    text_sign: int = 1

    @cached_property
    def clip(self) -> "TextTower":
        """The text tower, loaded when first asked for."""
        from thinsight.text_tower import TextTower

        if self.text_tower is None:
            raise UserError(
                "this model names no aligned text tower (text_tower in conf/model), so CLIP's space is closed to it: "
                "take the documented substitute, the language model's own embeddings (space=llm)"
            )
        return TextTower.load(self.text_tower)

    def words(self, ids: "Tensor", prompt: "Prompt", sample: int) -> list[Word]:
        """The words of the question: what stands behind the sample's last image and before the answer, without the
        template's tags. ids (columns,) int64, on the CPU."""
        columns = prompt.alive[sample].nonzero().squeeze(1)
        visual = prompt.visual[sample].nonzero().squeeze(1)
        if len(visual):
            columns = columns[columns > visual[-1]]
        text, spans = self._spelled(ids[columns].tolist())
        plain = self._untagged(text)
        found = list(WORD.finditer(plain))
        words = []
        for word, following in zip(found, [*found[1:], None], strict=True):
            own = [i for i, (start, end) in enumerate(spans) if start < word.end() and end > word.start()]
            after = plain[word.end() : following.start() if following else None]
            words.append(Word(word.group(), columns[own], after if following else after.rstrip()))
        return words

    def _spelled(self, ids: list[int]) -> tuple[str, list[tuple[int, int]]]:
        """The text of the tokens, and where in it each one stands; tokens that share a character share its place."""
        text, spans, open_ = "", [], []
        for piece in self.processor.tokenizer.convert_ids_to_tokens(ids):
            open_.append(piece)
            part = self._text(open_)
            if part.endswith("\ufffd") and len(open_) < 4:  # the first bytes of a character of up to four
                continue
            spans += [(len(text), len(text) + len(part))] * len(open_)
            text, open_ = text + part, []
        return text, spans + [(len(text), len(text))] * len(open_)

    def _text(self, pieces: list[str]) -> str:
        """Tokens as they stand in the text, the space before a word included."""
        if self._marks == BYTE_SPACE:
            return self.processor.tokenizer.convert_tokens_to_string(pieces)
        if self._marks == SPACE:
            raw = [re.fullmatch(r"<0x(..)>", piece) for piece in pieces]
            if all(raw):
                return bytes(int(byte[1], 16) for byte in raw).decode("utf-8", "replace")
            return "".join(pieces).replace(SPACE, " ")
        return " " + " ".join(pieces)  # tokens know no spaces: each is a word

    @cached_property
    def _marks(self) -> str | None:
        vocabulary = self.processor.tokenizer.get_vocab()
        return next((mark for mark in (SPACE, BYTE_SPACE) if any(token.startswith(mark) for token in vocabulary)), None)

    def _untagged(self, text: str) -> str:
        """``text`` up to the answer, as long as before; the template's tags and special tokens are blank in it."""
        opening, closing, answer = self._tags
        end = text.rfind(answer) if answer else text.rfind(closing) if closing else -1
        text = text[:end] if end >= 0 else text
        specials = self.processor.tokenizer.all_special_tokens
        for tag in sorted({opening, closing, answer, *specials} - {""}, key=len, reverse=True):
            text = text.replace(tag, "\n".ljust(len(tag)))
        return text

    @cached_property
    def _tags(self) -> tuple[str, str, str]:
        """What the chat template puts before a user's later turn, behind it, and before the answer."""
        if not getattr(self.processor, "chat_template", None):
            return "", "", ""

        def said(*turns: str, answer: bool = False) -> str:
            roles = [("user", "assistant")[i % 2] for i in range(len(turns))]
            talk = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in zip(roles, turns, strict=True)]
            return self.processor.apply_chat_template(talk, add_generation_prompt=answer, tokenize=False)

        try:
            open_, asked = said(PROBE), said(PROBE, answer=True)
            before, after = said(PROBE, "yes"), said(PROBE, "yes", PROBE)
        except Exception:  # a template may refuse turns in any way; then nothing is known of its tags
            return "", "", ""
        opening, closing = _around(_added(before, after), PROBE)
        return opening, closing, _added(open_, asked).strip()


def sentence(words: Sequence[Word]) -> str:
    """The words as one text, with what stood between them."""
    return "".join(word.text + word.after for word in words).strip()


def _added(before: str, after: str) -> str:
    """What ``after`` has behind what both begin with."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    return after[same:]


def _around(text: str, probe: str) -> tuple[str, str]:
    before, found, after = text.rpartition(probe)
    return (before.strip(), after.strip()) if found else ("", "")
