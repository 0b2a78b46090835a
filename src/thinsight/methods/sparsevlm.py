"""SparseVLM (arXiv:2410.04417): text raters score visual tokens, and the best of those that leave are recycled.

Raters are the text tokens with m_t above the mean (section 3.2); the visual tokens with the lowest attention from them
leave at three decoder layers; the best rated 30 % of the leavers make new tokens by density-peak clustering. The second
version divides the attention by a rotary prior, counts some heads only and recycles nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.reduction.attention import LayerAttention, at_columns, rotate
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.schedules import Fixed, check_keep
from thinsight.reduction.sources import take_at
from thinsight.reduction.stages import Routes, lowest, one_each
from thinsight.reduction.ties import above, descending, double, largest
from thinsight.reduction.tokens import Tokens


@dataclass(frozen=True)
class SparseVlmTable:
    """Published counts for published budgets, and straight lines between them.

    keep    the budget: a count, or a fraction of the visual tokens (the paper's is a mean over layers)
    table   rows (budget, counts after each stage), of ``size`` visual tokens; nothing stays for a budget of 0 and
            everything for one of ``size``
    counts  what is left after each stage, instead of the table's: counts, or fractions of the visual tokens
    always  at least one token leaves at every stage, whatever the budget (released code)

    New tokens come on top. For pictures of other sizes the table is stretched.
    """

    keep: int | float
    table: Sequence[Sequence[int]]
    size: int
    counts: Sequence[int | float] | None = None
    always: bool = False
    inclusive = False

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.counts is not None:
            Fixed(self.counts)
        if len({len(row) for row in self.table}) != 1 or any(max(row) > self.size for row in self.table):
            raise UserError(f"a table has rows of a budget and a count for each layer, none above size={self.size}")

    def __call__(self, present: int, stage: int, stages: int, total: int) -> int:
        if self.counts is not None:
            keep = Fixed(self.counts)(present, stage, stages, total)
        else:
            if len(self.table[0]) - 1 != stages:
                raise UserError(f"the table has {len(self.table[0]) - 1} stages, not {stages}: give counts instead")
            keep = min(round(self._between(stage, total) * total / self.size), present)
        return min(keep, max(present - 1, 0)) if self.always else keep

    def _between(self, stage: int, total: int) -> float:
        """The count at the budget, of ``size`` tokens."""
        budget = self.keep * (self.size if isinstance(self.keep, float) else self.size / max(total, 1))
        points = [(0, 0), *sorted((row[0], row[1 + stage]) for row in self.table), (self.size, self.size)]
        for (low, less), (high, more) in pairwise(points):
            if budget <= high:
                return less + (more - less) * (budget - low) / (high - low) if high > low else more
        return self.size


@dataclass(frozen=True)
class TextRaters:
    """The visual tokens leave to which the text raters attend least: phi_i = mean over raters t and heads h of A_hti.

    A is the attention of the layer before. The two other fields are those of SparseVLM's second version:

    prior  A is divided by what rotary distance alone would give (`rotary_prior`)
    guard  the prior is taken for no less than this share of its value at distance 0, beyond which it passes through
           zero in narrow heads; None: as it is (released code)
    heads  only this many heads count, those with most of (divided) attention from raters to the picture; None: all
    """

    prior: bool = False
    guard: float | None = None
    heads: int | None = None
    among = "visual"
    needs = frozenset({"attention", "embeddings", "text"})
    attention_rows = "question"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return lowest(self.scores(tokens.index, evidence), leave)

    def scores(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(n,) fp32: phi of the visual tokens ``index``."""
        if self.heads is not None:
            attention = self.attention(index, evidence)
            return take_at(attention, self.chosen(attention)).mean(-2)
        rows, votes = raters(index, evidence)
        attention = self.divided(evidence.attention(rows, index), rows, index, evidence)
        return (votes[..., None, :] @ attention).squeeze(-2) / votes.sum(-1, keepdim=True)

    def attention(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(heads, n) fp32: the raters' mean attention to the visual tokens ``index``."""
        rows, votes = raters(index, evidence)
        attention = self.divided(evidence.attention(rows, index, heads=True), rows, index, evidence)
        votes = votes[..., None, None, :]
        return (votes @ attention).squeeze(-2) / votes.sum(-1)

    def divided(self, attention: Tensor, rows: Tensor, index: Tensor, evidence: Evidence) -> Tensor:
        """attention (rows, n) or (heads, rows, n), divided by the prior if there is one."""
        if not self.prior:
            return attention
        prior = rotary_prior(evidence.layer_attention(), rows, index)
        if self.guard is not None:
            prior = prior.clamp(min=self.guard * evidence.layer_attention().keys.shape[-1] ** 0.5)
        return attention / (prior[..., None, :, :] if attention.dim() > prior.dim() else prior)

    def chosen(self, attention: Tensor) -> Tensor:
        """The numbers of the heads that count, ascending, by the raters' mean attention (heads, n); of equal ones the
        earlier."""
        return descending(attention.sum(-1))[..., : self.heads].sort(dim=-1).values


def raters(visual: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """(n,) index of the text tokens behind the picture, and (n,) fp32 their votes: 1 for those that are more relevant
    to it than the average one, 0 for the others.

        m_t = mean over visual i of softmax over t of <v_i, t>;  raters = {t: m_t > mean of m}   (section 3.2)

    v and t are what entered the decoder, the product is not scaled. They are the same in every layer, so they are
    computed where the first reduction happens and left in ``evidence.notes``. Where nobody is above the average (a
    single text token) all of the text votes; where no text follows the picture, the last token.
    """
    text = evidence.behind
    if text.shape[-1] == 0:
        return evidence.last, torch.ones_like(evidence.last, dtype=torch.float32)
    if evidence.notes.raters is None:
        scores = rater_relevance(evidence.get("embeddings"), visual, text)
        chosen = above(scores, scores.mean(-1, keepdim=True))
        evidence.notes.raters = (chosen | ~chosen.any(-1, keepdim=True)).float()
    return text, evidence.notes.raters


def rater_relevance(embeddings: Tensor, visual: Tensor, text: Tensor) -> Tensor:
    """(text,) fp32: m of the tokens ``text``; both given as rows of ``embeddings`` (columns, width)."""
    of_image, of_text = (take_at(embeddings, rows).float() for rows in (visual, text))
    return (of_image @ of_text.transpose(-2, -1)).softmax(-1).mean(-2)


def rotary_prior(layer: LayerAttention, rows: Tensor, columns: Tensor) -> Tensor:
    """(rows, columns) fp32: the scaled product of an all-ones query and an all-ones key after rotation.

    With d the head's width and theta its d / 2 frequencies: 2 / sqrt(d) * sum over theta of cos((p_row - p_col) theta).
    """
    cos, sin = (table.float() for table in layer.tables)
    ones = rotate(torch.ones_like(cos), cos, sin)
    of_rows, of_columns = (take_at(ones, layer.rows(index)) for index in (rows, columns))
    return of_rows @ of_columns.transpose(-2, -1) * layer.scaling


@dataclass(frozen=True)
class Recycle:
    """The first q = floor(share * leaving) + 1 leavers make floor(q / members) + 1 new tokens; the rest goes nowhere.
    With ``share`` 0 nothing is recycled.

    ``leaving`` has to name the best one first, as the filters do that rank by a score. Clusters are found by density
    peaks (`density_peaks`) among the states, and a new token stands where its cluster's centre stood. Where nothing
    stays nothing is recycled, so that a budget of zero is one.
    """

    share: float = 0.3
    members: int = 10
    lossy = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.members < 1:
            raise UserError(
                f"recycling takes a share between 0 and 1 and at least 1 member, not {self.share} and {self.members}"
            )

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Routes:
        leave = leaving.shape[-1]
        keep, count = len(tokens) - leave, self.pool(leave)
        stay = torch.zeros(*leaving.shape, keep, dtype=torch.float32, device=leaving.device)
        if keep == 0 or count == 0:
            return Routes(stay)
        new = self.adds(leave, keep)
        centre, cluster = density_peaks(take_at(tokens.states, leaving[..., :count]), new)
        pool = torch.nn.functional.pad(one_each(cluster, new), (0, 0, 0, leave - count))
        return Routes(stay, pool, centre)

    def pool(self, leave: int) -> int:
        """How many of ``leave`` leavers are recycled."""
        return min(int(self.share * leave) + 1, leave) if self.share > 0 else 0

    def adds(self, leave: int, keep: int) -> int:
        """How many new tokens that makes."""
        pool = self.pool(leave)
        return min(pool // self.members + 1, pool) if keep else 0  # none of an empty pool


def density_peaks(states: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``count`` clusters of states (n, width) by density peaks -> centres (count,) and each state's cluster (n,).

        D = L2 / sqrt(width);  rho_i = exp(-mean of the count smallest D_ij^2, its own 0 among them)
        delta_i = distance to the nearest denser state (of the densest: the largest distance there is)

    The centres are those with the largest rho * delta, in that order; all others go to the nearest centre. Of states
    that are equally dense the earlier counts as denser; the released code adds random noise to tell them apart.
    """
    points = double(states)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / states.shape[-1] ** 0.5
    density = torch.exp(-distance.topk(count, largest=False).values.square().mean(-1))
    place = descending(density, scale=0.0).argsort(dim=-1)  # the densest is number 0
    denser = place[..., None, :] < place[..., :, None]
    scale = states.float().square().mean((-2, -1)).sqrt()[..., None]  # what distances are differences of
    peak = torch.where(denser, distance, distance.amax((-2, -1), keepdim=True)).amin(-1)
    centre = descending(density * peak, scale)[..., :count]
    cluster = largest(-at_columns(distance, centre), scale[..., None])
    numbers = torch.arange(count, device=states.device).expand_as(centre)
    return centre, cluster.scatter(-1, centre, numbers)  # a centre that coincides with an earlier one stays its own
