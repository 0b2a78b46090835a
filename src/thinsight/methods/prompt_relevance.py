"""Similarity of image patches to the question, in the decoder's or in CLIP's space.

Shared by PAR, TRSM, TRIM and CDPruner.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError, nearest
from thinsight.methods.question_parsing import parse_question, phrase
from thinsight.reduction.evidence import Evidence, sentence
from thinsight.reduction.ties import above
from thinsight.reduction.tokens import Tokens

SPACES = ("llm", "clip")
REWRITINGS = ("none", "words", "rules")
AGGREGATES = ("max", "mean", "top2", "pooled")
ASKED = ("entities", "actions", "whole")


class QueriesAndTokens(NamedTuple):
    """queries (M, d) times the sign, tokens (N, d), both fp32; ``blank``: the prompt names nothing to look for;
    ``wordless``: it has not even a word (or, where tokens are queries, no token), and the only query is zero."""

    queries: Tensor
    tokens: Tensor
    blank: bool = False
    wordless: bool = False


@dataclass(frozen=True)
class Relevance:
    """Similarity of visual tokens and queries made of the prompt.

    space      llm: the decoder's input embeddings against projected tokens, which takes no more weights; clip: the text
               tower against visual_projection(post_layernorm(x)) of the features before the projector
    sign       1, -1, or auto: of the model's text tower (``text_sign`` in conf/model), 1 in the space llm. The released
               codes of TRIM and CDPruner take -1: in OpenAI's ViT-L/14-336 patches respond inversely to a text
    rewriting  none: each token behind the image (llm) or the question as it is, in chunks (clip); words: each word of
               the cleaned question; rules: entities, actions and a template filled with them (see `question_parsing`)
    asked      which of the three parts of rules become queries
    phrase     what an entity is put into before the text tower reads it
    aggregate  over queries: max, mean, top2 (mean of the two largest), or pooled (one mean query of unit length)
    unit       cosines; False: plain products

    A question without a word ("???", nothing at all) makes no query, unless its tokens are queries themselves (llm
    without rewriting): every patch then has the relevance 0, and each filter says what it keeps of equals.
    """

    space: str = "llm"
    sign: int | str = "auto"
    rewriting: str = "none"
    asked: tuple[str, ...] = ASKED
    phrase: str = "{}"
    aggregate: str = "max"
    unit: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", tuple(self.asked))
        choices = [("space", self.space, SPACES), ("rewriting", self.rewriting, REWRITINGS)]
        choices += [("aggregate", self.aggregate, AGGREGATES), *(("query", query, ASKED) for query in self.asked)]
        for what, choice, known in choices:
            if choice not in known:
                raise nearest(what, str(choice), known)
        if self.sign not in ("auto", 1, -1):
            raise UserError(f"sign is 1, -1 or auto, not {self.sign!r}")
        if not self.asked:
            raise UserError(f"no query is asked for: name at least one of {', '.join(ASKED)}")

    @property
    def needs(self) -> frozenset[str]:
        """What the space and the rewriting need of the model."""
        if self.space == "clip":
            return frozenset({"words", "text_tower", "features"})
        return frozenset() if self.rewriting == "none" else frozenset({"words"})

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """(N,) fp32: relevance of each token."""
        return self.scores(self.embed(tokens, evidence))

    def scores(self, embedded: QueriesAndTokens) -> Tensor:
        """(N,) the queries' products with each token, aggregated."""
        return self.aggregated(embedded.queries @ embedded.tokens.T)

    def aggregated(self, products: Tensor) -> Tensor:
        """(M, N) products of queries and tokens -> (N,)."""
        if self.aggregate == "max":
            return products.amax(0)
        if self.aggregate == "top2":
            return products.topk(min(2, len(products)), dim=0).values.mean(0)
        return products.mean(0)

    def embed(self, tokens: Tokens, evidence: Evidence) -> QueriesAndTokens:
        """Queries and tokens in the space."""
        if self.space == "clip":
            texts, blank = self._texts(evidence)
            tower = _reader(evidence).clip
            patches = tower.patches(evidence.get("features")[evidence.place(tokens.index)])
            made = tower.texts(texts, patches.device) if texts else []
        else:
            groups, blank = self._groups(evidence)
            patches = tokens.states.float()
            made = [evidence.states(group).float().mean(0, keepdim=True) for group in groups]
        queries = torch.cat(made) if made else patches.new_zeros(1, patches.shape[-1])
        if self.unit:
            queries, patches = normalize(queries, dim=-1), normalize(patches, dim=-1)
        if self.aggregate == "pooled":
            queries = queries.mean(0, keepdim=True)
            queries = normalize(queries, dim=-1) if self.unit else queries
        return QueriesAndTokens(queries * self._sign(evidence), patches, blank or not made, not made)

    def _texts(self, evidence: Evidence) -> tuple[list[str], bool]:
        """The queries as texts, none without a word; whether they name nothing."""
        words = evidence.words
        if self.rewriting == "none":
            return [sentence(words)] if words else [], False
        parsed = parse_question(words)
        if self.rewriting == "words" or not parsed.words:
            return [word.text for word in parsed.words], False
        entities = [self.phrase.format(phrase(group)) for group in parsed.entities]
        parts = {"entities": entities, "actions": [phrase(group) for group in parsed.actions], "whole": [parsed.text]}
        return [text for name in self.asked for text in parts[name]] or [parsed.text], parsed.empty

    def _groups(self, evidence: Evidence) -> tuple[list[Tensor], bool]:
        """The queries as groups of prompt tokens, by index, none without a word; whether they name nothing."""
        if self.rewriting == "none":
            question = evidence.question if len(evidence.question) else evidence.text
            return list(question.split(1)) if len(question) else [], False
        parsed = parse_question(evidence.words)
        if self.rewriting == "words" or not parsed.words:
            return [word.index for word in parsed.words], False
        entities, actions = ([_columns(g) for g in groups] for groups in (parsed.entities, parsed.actions))
        whole = [torch.cat([*entities, *actions, _columns(parsed.words)])]
        parts = {"entities": entities, "actions": actions, "whole": whole}
        return [group for name in self.asked for group in parts[name]] or whole, parsed.empty

    def _sign(self, evidence: Evidence) -> int:
        if self.sign != "auto":
            return self.sign
        return _reader(evidence).text_sign if self.space == "clip" else 1


def to_unit_range(values: Tensor) -> Tensor:
    """The same between 0 and 1, the least and the largest of the sample; all ones where they are equal."""
    low, high = values.amin(), values.amax()
    return (values - low) / (high - low) if bool(above(values, low).any()) else torch.ones_like(values)


def _columns(words: tuple) -> Tensor:
    return torch.cat([word.index for word in words])


def _reader(evidence: Evidence):
    if evidence.reader is None:
        raise UserError(
            "CLIP's space needs a text tower, which comes with thinsight.load_model: a bare model takes the documented "
            "substitute, the language model's own embeddings (space=llm, rewriting=none)"
        )
    return evidence.reader
