"""The question's words and their tokens, and a CLIP text tower that loads when it is first asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.models.checkpoint import checkpoint_source, folder_hash, resolve_commit
from thinsight.models.load_errors import why_not_loaded
from thinsight.reduction.evidence import Word
from thinsight.reduction.prompt import Prompt

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import CLIPModel, PreTrainedTokenizerBase, ProcessorMixin


WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
SPACE, BYTE_SPACE = "\u2581", "\u0120"
"""How SentencePiece and byte-level BPE write the space that a word begins with."""

PROBE = "Probe7question"
"""A text that no chat template holds: what stands around it is the template's own."""


@dataclass(frozen=True)
class QuestionReader:
    """What `thinsight.load_model` hangs on a model as ``model.question_reader``.

    processor   of the model: its tokenizer tells words
    text_tower  a folder or hub id of a CLIP checkpoint whose vision tower is this model's; None: there is none
    revision    of a text tower on the hub: a commit, a tag or a branch; None: the newest
    text_sign   1 if a patch that shows what a text names has the larger product with it there, -1 if the smaller one
    """

    processor: "ProcessorMixin"
    text_tower: str | None = None
    text_sign: int = 1
    revision: str | None = None

    @cached_property
    def clip(self) -> "TextTower":
        """The text tower, loaded when first asked for."""
        if self.text_tower is None:
            raise UserError(
                "this model names no aligned text tower (text_tower in conf/model), so CLIP's space is closed to it: "
                "take the documented substitute, the language model's own embeddings (space=llm)"
            )
        return TextTower.load(self.text_tower, self.revision)

    def words(self, ids: Tensor, prompt: Prompt, sample: int) -> list[Word]:
        """The words of the question: those of the turn of the sample's last image, in front of the image and behind it,
        up to the answer, without the template's tags. ids (columns,) int64, on the CPU."""
        front, behind = self._parts(prompt, sample)
        return self._front(ids[front], front) + self._words(*self._spelled(ids[behind].tolist()), behind)

    def front(self, ids: Tensor, prompt: Prompt, sample: int) -> Tensor:
        """(n,) int64: columns of the tokens of the question's words in front of the sample's last image."""
        front, _ = self._parts(prompt, sample)
        words = self._front(ids[front], front)
        return torch.cat([word.index for word in words]).unique() if words else front[:0]

    def _parts(self, prompt: Prompt, sample: int) -> tuple[Tensor, Tensor]:
        """Columns of the text in front of the sample's last visual token, and of the text behind it."""
        columns = prompt.alive[sample, : prompt.end].nonzero().squeeze(1)
        shows = prompt.visual[sample, columns]
        text, last = columns[~shows], int(columns[shows][-1]) if bool(shows.any()) else -1
        return text[text < last], text[text > last]

    def _front(self, ids: Tensor, columns: Tensor) -> list[Word]:
        """The words of the turn that has begun and not ended; of all the text, if it has no tags of the template."""
        text, spans = self._spelled(ids.tolist())
        opening = self._tags[0]
        if opening not in text:  # tokens that show no spaces part a special token from what follows it
            for token in self.processor.tokenizer.all_special_tokens:
                opening = opening.replace(token, "")
        start = text.rfind(opening) + len(opening) if opening and opening in text else 0
        words = self._words(" " * start + text[start:], spans, columns)
        return [*words[:-1], replace(words[-1], after="\n")] if words else []

    def _words(self, text: str, spans: list[tuple[int, int]], columns: Tensor) -> list[Word]:
        """The words of a text whose tokens stand at ``spans`` in it and at ``columns`` in the prompt."""
        plain = self._untagged(text)
        matches = list(WORD.finditer(plain))
        words = []
        for word, following in zip_longest(matches, matches[1:]):
            tokens = [i for i, (start, end) in enumerate(spans) if start < word.end() and end > word.start()]
            after = plain[word.end() : following.start() if following else None]
            words.append(Word(word.group(), columns[tokens], after if following else after.rstrip()))
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

        def rendered(*turns: str, answer: bool = False) -> str:
            roles = [("user", "assistant")[i % 2] for i in range(len(turns))]
            talk = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in zip(roles, turns, strict=True)]
            return self.processor.apply_chat_template(talk, add_generation_prompt=answer, tokenize=False)

        try:
            question, prompt = rendered(PROBE), rendered(PROBE, answer=True)
            before, after = rendered(PROBE, "yes"), rendered(PROBE, "yes", PROBE)
        except Exception:  # a template may refuse turns in any way; then nothing is known of its tags
            return "", "", ""
        opening, closing = _around(_added(before, after), PROBE)
        return opening, closing, _added(question, prompt).strip()


def _added(before: str, after: str) -> str:
    """What ``after`` has behind what both begin with."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    return after[same:]


def _around(text: str, probe: str) -> tuple[str, str]:
    before, separator, after = text.rpartition(probe)
    return (before.strip(), after.strip()) if separator else ("", "")


@dataclass(frozen=True, eq=False)
class TextTower:
    """A CLIP checkpoint whose vision tower is the model's own, in float32; its vision blocks are not kept.

    ``card``: for a run's protocol card, where it came from: its name, and its commit on the hub or its files' hash.
    """

    clip: "CLIPModel"
    tokenizer: "PreTrainedTokenizerBase"
    card: Mapping[str, str | None]

    @classmethod
    def load(cls, name: str, revision: str | None = None) -> "TextTower":
        """From a folder (relative to the project's root) or the hub; what cannot be loaded is a `UserError`."""
        from transformers import AutoTokenizer, CLIPModel

        source = checkpoint_source(name)
        if source is None:
            raise UserError(f"there is no text tower at {name}: check the folder out again, or take space=llm")
        try:
            commit = resolve_commit(source, revision)
            where = {"revision": commit or revision}
            clip, info = CLIPModel.from_pretrained(str(source), dtype=torch.float32, output_loading_info=True, **where)
            tokenizer = AutoTokenizer.from_pretrained(str(source), **where)
        except Exception as error:  # transformers, safetensors and the hub share no base class
            reason = why_not_loaded(f"the text tower {name}", source, error)
            raise UserError(f"{reason}; space=llm does without one") from error
        if info["missing_keys"]:
            raise UserError(f"the weights in {name} are no whole CLIP: {sorted(info['missing_keys'])[0]} is missing")
        clip.vision_model.encoder = torch.nn.Identity()
        files = folder_hash(source) if isinstance(source, Path) else None
        card = {"checkpoint": name, "revision": commit, "weights_sha256": files}
        return cls(clip.eval().requires_grad_(False), tokenizer, card)

    def texts(self, texts: list[str], device: torch.device) -> list[Tensor]:
        """For each text (chunks, width): embeddings, not normalised, of its chunks of as many tokens as the tower takes
        (77 for CLIP, begin and end included)."""
        clip, chunks = self.clip.to(device), []
        counts = []
        for text in texts:
            # a space in front, as behind a template's words: SentencePiece-like vocabularies write it into the token
            ids = self.tokenizer(f" {text.strip()}", add_special_tokens=False).input_ids
            size = clip.config.text_config.max_position_embeddings - 2
            parts = [ids[start : start + size] for start in range(0, max(len(ids), 1), size)]
            chunks += [[self.tokenizer.bos_token_id, *part, self.tokenizer.eos_token_id] for part in parts]
            counts.append(len(parts))
        width = max(map(len, chunks))
        fill = self.tokenizer.pad_token_id
        ids = torch.tensor([chunk + [fill] * (width - len(chunk)) for chunk in chunks], device=device)
        # no mask: what fills up stands behind the last token, which is what is taken, and attention is causal
        pooled = clip.text_model(input_ids=ids).pooler_output
        return list(clip.text_projection(pooled).split(counts))

    def patches(self, features: Tensor) -> Tensor:
        """(n, width) features in front of a projector -> (n, width of the space), not normalised."""
        tower, project = self.clip.vision_model, self.clip.visual_projection
        if features.shape[-1] != project.in_features:
            raise UserError(
                f"features of width {features.shape[-1]} are not those of this text tower, which takes "
                f"{project.in_features}: take the tower that belongs to the model, or space=llm"
            )
        self.clip.to(features.device)
        return project(tower.post_layernorm(features.float()))
