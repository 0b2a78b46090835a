"""FiCoCo (arXiv:2411.17686): filter by redundancy, correlate by attention, compress by weighted means.

In the vision encoder (FiCoCo-V), in the decoder (FiCoCo-L) or both (FiCoCo-VL). The tokens with the largest score
leave:

    s_i = weight * u_i - (1 - weight) * a_i                                  (equations 1 and 3)

u_i is how much token i shares with the other visual tokens, a_i how much it matters: to the class token (equation 1) or
to the text (equation 3). What "vision-aware redundancy" u_i means is read in three ways:

    row_softmax  the mean attention that i pays to the others: the equation to the letter (nearly constant)
    col_softmax  the mean attention that i receives from the others: the paper's prose
    row_logit    the mean of i's logits, u and a scaled to unit length over the tokens: the released code
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError, nearest
from thinsight.methods.class_attention import ClassScore
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import one_each
from thinsight.reduction.ties import at_least, descending, largest, top
from thinsight.reduction.tokens import Tokens

SCOPES = ("row", "matrix")


@dataclass(frozen=True)
class StrongestPaths:
    """Each leaver is divided among the stayers that it is most attached to.

        C_ij = direct * A_ij + (1 - direct) * 1/M sum_k A_ki A_kj                   (equation 4)

    over the M text tokens k; an edge exists where C_ij is at least the ``quantile`` of row i (token-adaptive K), or of
    the whole matrix, so that of n entries floor((1 - quantile)(n - 1)) + 1 are edges, whatever equals there are
    (`thinsight.reduction.ties`); the edges of a row are scaled to sum to one (equation 2). Under a causal mask of A_ij
    and A_ji one is zero, so their sum stands for A_ij there. ``logits``: C from logits before the mask, by a softmax
    over stayers.

    direct      gamma; 1 in the encoder, which has no text
    quantile    epsilon
    scope       row | matrix
    sums        the indirect term is the sum over text tokens, not the mean (released code)
    count       this many edges for each leaver in place of the quantile (tables 5 and 6: K); 0: pruning; None: epsilon
    even        all edges of a leaver weigh the same (tables 5 and 6: average compression)
    convergent  all leavers go to one stayer, that which they are most attached to together (tables 5 and 6)
    """

    direct: float = 1.0
    quantile: float = 0.998
    scope: str = "row"
    logits: bool = False
    sums: bool = False
    count: int | None = None
    even: bool = False
    convergent: bool = False
    attention_rows = "visual"

    @property
    def needs(self) -> frozenset[str]:
        """Attention, and the text, if paths lead through it."""
        return frozenset({"attention", "text"} if self.direct < 1 else {"attention"})

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise nearest("scope of the quantile", self.scope, SCOPES)
        if not 0 <= self.quantile <= 1:
            raise UserError(f"quantile={self.quantile} is no fraction between 0 and 1")
        if self.count is not None and (type(self.count) is not int or self.count < 0):
            raise UserError(f"edges={self.count} is no number of edges: 0, 1, 2, ... for each leaver, or null")
        if self.convergent and self.count is not None:
            raise UserError("convergent sends every leaver along one edge: leave edges at null")

    @property
    def lossy(self) -> bool:
        """Whether a leaver may be left without an edge."""
        return not self.convergent and (self.count == 0 or (self.count is None and self.scope == "matrix"))

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        leave, stay = (take_at(tokens.index, rows) for rows in (leaving, tokens.rest(leaving)))
        return self.edges(self.strengths(leave, stay, evidence))

    def strengths(self, leave: Tensor, stay: Tensor, evidence: Evidence) -> Tensor:
        """C (leaving, staying) fp32 of the tokens with these indices."""
        text = evidence.behind if self.direct < 1 else leave[..., :0]
        texts = text.shape[-1]
        count = 1 if self.sums else max(texts, 1)
        if self.logits:
            strengths = evidence.logits(leave, stay)
            if texts:
                through = evidence.logits(leave, text) @ evidence.logits(text, stay) / count
                strengths = self.direct * strengths + (1 - self.direct) * through
            return strengths.softmax(-1)
        strengths = evidence.attention(leave, stay)
        if evidence.layer_attention().causal:
            strengths = strengths + evidence.attention(stay, leave).transpose(-2, -1)
        if texts:
            through = evidence.attention(text, leave).transpose(-2, -1) @ evidence.attention(text, stay) / count
            strengths = self.direct * strengths + (1 - self.direct) * through
        return strengths

    def edges(self, strengths: Tensor) -> Tensor:
        """Weights of the same shape: the strongest entries, each row scaled to sum to one (or to zero, if none is)."""
        if strengths.shape[-1] == 0:
            return strengths  # nobody stays who could take anything in
        if self.convergent:
            return one_each(largest(strengths.sum(-2)), strengths.shape[-1])[..., None, :].expand_as(strengths)
        weights = torch.ones_like(strengths) if self.even else strengths
        rows = strengths.flatten(-2)[..., None, :] if self.count is None and self.scope == "matrix" else strengths
        entries = rows.shape[-1]
        count = entries - math.ceil(self.quantile * (entries - 1) - 1e-9) if self.count is None else self.count
        edges = top(rows, count, 0.0).reshape(strengths.shape)
        return _rows_to_one(weights * edges)


def _rows_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


READINGS = ("row_softmax", "col_softmax", "row_logit")


@dataclass(frozen=True)
class EncoderRedundancy:
    """FiCoCo-V: the patches leave that are redundant among patches and matter little to the class token.

    weight   lambda of equation 1
    reading  what redundancy means: one of `READINGS`
    cls      token: the class token's attention; key_mean: cosine of the mean key and each key (equations 9-13),
             negated, so that resembling the mean key makes redundant; for towers without a class token
    penalty  the largest score in every ``window`` x ``window`` cells of the grid is multiplied by it if positive and
             divided by it if negative, so that neighbours do not leave together; 1 for none
    """

    weight: float = 0.35
    reading: str = "col_softmax"
    cls: str = "token"
    penalty: float = 2.0
    window: int = 2
    among = "visual"
    attention_rows = "visual"

    def __post_init__(self) -> None:
        _check_reading(self.reading)
        _check_window(self.window)
        if self.cls not in ("token", "key_mean"):
            raise nearest("substitute for the class token", self.cls, ["token", "key_mean"])

    @property
    def needs(self) -> frozenset[str]:
        """Attention of the block; its class token, unless a substitute is named."""
        return frozenset({"attention", "cls"} if self.cls == "token" else {"attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return _highest(self.scores(tokens, evidence), leave)

    def scores(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """(tokens,) fp32: redundancy with the local penalty."""
        redundant = _redundancy(evidence, tokens.index, self.reading)
        logits = self.reading == "row_logit"
        if self.cls == "token" and logits:
            matters = evidence.logits(evidence.cls, tokens.index)[..., 0, :]
        else:
            matters = ClassScore(self.cls)(evidence, tokens.index)
        if logits:
            redundant, matters = normalize(redundant, dim=-1), normalize(matters, dim=-1)
        scores = self.weight * redundant - (1 - self.weight) * matters
        if self.penalty == 1:
            return scores
        return self.spread(scores, evidence.cells(tokens.index), evidence.counted.pictures)

    def spread(self, scores: Tensor, cells: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """The local penalty: scores (tokens,), cells (tokens, 3) of image, row and column -> scores; ``sizes``: patches
        of each picture."""
        return _spread(scores, cells, self.window, self.penalty, sizes)


@dataclass(frozen=True)
class DecoderRedundancy:
    """FiCoCo-L: the tokens leave that are redundant among visual tokens and matter little to the question.

    Under a causal mask no visual token attends to text behind it, so that equation 3's task term is the attention that
    a visual token receives from the text, except for ``row_logit``, whose logits stand before the mask.

    weight   beta of equation 3
    reading  what redundancy means: one of `READINGS`
    sums     redundancy is the sum over visual tokens, not the mean (released code)
    penalty  as for `EncoderRedundancy`; 1: none, as the paper has it (table 6 tries one)
    """

    weight: float = 0.6
    reading: str = "col_softmax"
    sums: bool = False
    penalty: float = 1.0
    window: int = 2
    among = "visual"
    needs = frozenset({"attention", "text"})
    attention_rows = "visual"

    def __post_init__(self) -> None:
        _check_reading(self.reading)
        _check_window(self.window)

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return _highest(self.scores(tokens, evidence), leave)

    def scores(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        """(tokens,) fp32."""
        text = evidence.behind
        if text.shape[-1] == 0:
            raise UserError("FiCoCo-L scores visual tokens by the text behind them, and this prompt has none")
        if self.reading == "row_logit":
            matters = evidence.logits(tokens.index, text).mean(-1)
        else:
            matters = evidence.attention(text, tokens.index).mean(-2)
        redundant = _redundancy(evidence, tokens.index, self.reading) * (len(tokens) if self.sums else 1)
        scores = self.weight * redundant - (1 - self.weight) * matters
        if self.penalty == 1:
            return scores
        cells = evidence.cells(tokens.index)
        return _spread(scores, cells, self.window, self.penalty, evidence.counted.pictures)


def _spread(scores: Tensor, cells: Tensor, window: int, penalty: float, sizes: Sequence[int] | None = None) -> Tensor:
    """scores (tokens,) with the largest of each window amplified, of equal ones the first; cells (tokens, 3): image,
    row and column; ``sizes``: how many patches each picture has, if that is known."""
    image, row, column = cells.unbind(-1)
    if sizes is None:
        sizes = [(int(cells[..., 1:].max()) + 1) ** 2] * (int(image.max()) + 1)
    across = -(-math.isqrt(max(sizes)) // window)
    group, tokens = (image * across + row // window) * across + column // window, scores.shape[-1]
    windows = (*scores.shape[:-1], len(sizes) * across**2)
    best = scores.new_full(windows, -torch.inf).scatter_reduce(-1, group, scores, "amax")
    equal = at_least(scores, best.gather(-1, group))
    place = torch.arange(tokens, device=scores.device).expand_as(group)
    first = place.new_full(windows, tokens).scatter_reduce(-1, group, torch.where(equal, place, tokens), "amin")
    amplified = torch.where(scores > 0, scores * penalty, scores / penalty)
    return torch.where(first.gather(-1, group) == place, amplified, scores)


def _redundancy(evidence: Evidence, index: Tensor, reading: str) -> Tensor:
    """(tokens,) vision-aware redundancy."""
    if reading == "row_logit":
        return evidence.logits(index, index).mean(-1)
    return evidence.attention(index, index).mean(-1 if reading == "row_softmax" else -2)


def _highest(scores: Tensor, leave: int) -> Tensor:
    """Rows of the ``leave`` largest scores."""
    return descending(scores)[..., :leave]


def _check_reading(reading: str) -> None:
    if reading not in READINGS:
        raise nearest("reading of redundancy", reading, READINGS)


def _check_window(window: int) -> None:
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise UserError(f"window={window} is no side of a window: 1, 2, ... patches")
