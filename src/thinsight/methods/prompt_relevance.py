"""Similarity of image patches to the question, in the decoder's or in CLIP's space.

Shared by PAR, TRSM, TRIM and CDPruner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError, nearest
from thinsight.methods.controls import Grid
from thinsight.methods.question_parsing import parse_question, phrase
from thinsight.reduction.evidence import Evidence, Word, sentence
from thinsight.reduction.sources import take_at
from thinsight.reduction.ties import above
from thinsight.reduction.tokens import Tokens

SPACES = ("llm", "clip")
REWRITINGS = ("none", "words", "rules")
AGGREGATES = ("max", "mean", "top2", "pooled")
ASKED = ("entities", "actions", "whole")


class QueriesAndTokens(NamedTuple):
    """queries (M, d) times the sign, tokens (N, d), both fp32; ``blank``: the prompt names nothing to look for;
    ``wordless``: it has not even a word (or, where tokens are queries, no token), and the only query is zero.

    Several samples have an axis in front, and both flags one value for each; ``there`` (samples, M) bool says which
    queries are a sample's own, and which only fill up the axis (with its first one again); None: all.
    """

    queries: Tensor
    tokens: Tensor
    blank: bool | tuple[bool, ...] = False
    wordless: bool | tuple[bool, ...] = False
    there: Tensor | None = None


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
        return frozenset({"text"}) if self.rewriting == "none" else frozenset({"words"})

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """(N,) fp32: relevance of each token."""
        return self.scores(self.embed(tokens, evidence))

    def scores(self, embedded: QueriesAndTokens) -> Tensor:
        """(N,) the queries' products with each token, aggregated."""
        return self.aggregated(self.products(embedded), embedded)

    def products(self, embedded: QueriesAndTokens) -> Tensor:
        """(M, N) of queries and tokens."""
        return embedded.queries @ embedded.tokens.transpose(-2, -1)

    def aggregated(self, products: Tensor, embedded: QueriesAndTokens) -> Tensor:
        """(M, N) products of queries and tokens -> (N,)."""
        if self.aggregate == "max":
            return products.amax(-2)
        there = embedded.there
        if there is None:
            best = min(2, products.shape[-2]) if self.aggregate == "top2" else products.shape[-2]
            return products.topk(best, -2).values.mean(-2)
        if self.aggregate == "top2":
            best = products.masked_fill(~there[..., None], -torch.inf).topk(min(2, products.shape[-2]), -2).values
            return best.masked_fill(best == -torch.inf, 0).sum(-2) / there.sum(-1, keepdim=True).clamp(max=2)
        return _mean(products, there)

    def embed(self, tokens: Tokens, evidence: Evidence) -> QueriesAndTokens:
        """Queries and tokens in the space."""
        several = tokens.index.dim() > 1
        samples = len(tokens.index) if several else 1
        blank, patches = (False,) * samples, tokens.states.float()
        if self.space == "llm" and self.rewriting == "none":
            question = evidence.question if evidence.question.shape[-1] else evidence.text
            made = list(evidence.states(question).float().reshape(samples, -1, patches.shape[-1]))
        else:
            words = evidence.words if several else [evidence.words]
            if self.space == "clip":
                tower = _reader(evidence).clip
                patches = tower.patches(take_at(evidence.get("features"), evidence.place(tokens.index)))
                texts, blank = zip(*map(self._texts, words), strict=True)
                made = _embedded(texts, tower, patches)
            else:
                groups, blank = zip(*map(self._groups, words), strict=True)
                made = _means(groups, evidence, samples)
        counts = [len(own) for own in made]
        queries = torch.stack([_filled(own, max(1, *counts)) for own in made])
        there = torch.arange(queries.shape[1]) < torch.tensor(counts).clamp(min=1)[:, None]
        there = there.to(queries.device)
        if self.unit:
            queries, patches = normalize(queries, dim=-1), normalize(patches, dim=-1)
        if self.aggregate == "pooled":
            queries, there = _mean(queries, there)[:, None], there[:, :1]
            queries = normalize(queries, dim=-1) if self.unit else queries
        queries, wordless = queries * self._sign(evidence), tuple(count == 0 for count in counts)
        blank = tuple(unnamed or silent for unnamed, silent in zip(blank, wordless, strict=True))
        if several:
            return QueriesAndTokens(queries, patches, blank, wordless, there)
        return QueriesAndTokens(queries[0], patches, blank[0], wordless[0])

    def _texts(self, words: Sequence[Word]) -> tuple[list[str], bool]:
        """The queries as texts, none without a word; whether they name nothing."""
        if self.rewriting == "none":
            return [sentence(words)] if words else [], False
        parsed = parse_question(words)
        if self.rewriting == "words" or not parsed.words:
            return [word.text for word in parsed.words], False
        entities = [self.phrase.format(phrase(group)) for group in parsed.entities]
        parts = {"entities": entities, "actions": [phrase(group) for group in parsed.actions], "whole": [parsed.text]}
        return [text for name in self.asked for text in parts[name]] or [parsed.text], parsed.empty

    def _groups(self, words: Sequence[Word]) -> tuple[list[Tensor], bool]:
        """The queries as groups of prompt tokens, by index, none without a word; whether they name nothing."""
        parsed = parse_question(words)
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


def grid_if_wordless(leaving: Tensor, embedded: QueriesAndTokens, tokens: Tokens, evidence: Evidence) -> Tensor:
    """``leaving``, or, where the question has no word, what leaves so that an even grid stays
    (`thinsight.methods.controls.Grid`)."""
    several = isinstance(embedded.wordless, tuple)
    wordless = embedded.wordless if several else (embedded.wordless,)
    if not any(wordless):
        return leaving
    grid = Grid()(tokens, evidence, leaving.shape[-1])
    return torch.where(torch.tensor(wordless, device=grid.device)[:, None], grid, leaving) if several else grid


def to_unit_range(values: Tensor) -> Tensor:
    """(..., n) the same between 0 and 1, the least and the largest of the sample; all ones where they are equal."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    return torch.where(above(values, low).any(-1, keepdim=True), (values - low) / (high - low), 1.0)


def _embedded(texts: Sequence[Sequence[str]], tower: Any, patches: Tensor) -> list[Tensor]:
    """For each sample (M, d): the chunks of its texts, in the text tower, which reads all of them at once."""
    every = [text for own in texts for text in own]
    made = iter(tower.texts(every, patches.device) if every else [])
    none = patches.new_zeros(0, patches.shape[-1])
    return [torch.cat([none, *(next(made).to(none) for _ in own)]) for own in texts]


def _means(groups: Sequence[Sequence[Tensor]], evidence: Evidence, samples: int) -> list[Tensor]:
    """For each sample (M, d): the mean states of its groups of columns, which the host knows."""
    width = max((len(columns) for own in groups for columns in own), default=1)
    most = max(1, *(len(own) for own in groups))
    index = torch.zeros(samples, most, width, dtype=torch.int64)
    share = torch.zeros(samples, most, width, dtype=torch.float32)
    for sample, own in enumerate(groups):
        for number, columns in enumerate(own):
            index[sample, number, : len(columns)] = columns
            share[sample, number, : len(columns)] = 1 / len(columns)
    device = evidence.sequence.index.device
    index, share = index.to(device), share.to(device)
    rows = index.flatten(1) if evidence.sequence.index.dim() > 1 else index.flatten()
    states = evidence.states(rows).float().reshape(samples, most, width, -1)
    means = (states * share[..., None]).sum(-2)
    return [means[sample, : len(own)] for sample, own in enumerate(groups)]


def _filled(queries: Tensor, count: int) -> Tensor:
    """(M, d) -> (count, d), filled up with the first; with zeros where there is none."""
    first = queries[:1] if len(queries) else queries.new_zeros(1, queries.shape[-1])
    return torch.cat([queries, first.expand(count - len(queries), -1)])


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """values (samples, M, d) -> (samples, d): the mean of those that are there."""
    return (values * there[..., None]).sum(-2) / there.sum(-1, keepdim=True)


def _columns(words: tuple) -> Tensor:
    return torch.cat([word.index for word in words])


def _reader(evidence: Evidence):
    if evidence.reader is None:
        raise UserError(
            "CLIP's space needs a text tower, which comes with thinsight.load_model: a bare model takes the documented "
            "substitute, the language model's own embeddings (space=llm, rewriting=none)"
        )
    return evidence.reader
