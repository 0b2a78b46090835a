"""The parts of a reduction that many methods share: filters, correlations, compressions and orders."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.sources import Merged, take_at
from thinsight.reduction.ties import above, cosines, descending, distances, double, largest
from thinsight.reduction.tokens import Tokens


def lowest(scores: Tensor, leave: int, scale: float | None = None) -> Tensor:
    """Rows (..., leave) int64 of the lowest scores (..., n), the best of them first; of equal ones the later leaves.

    What counts as equal, and ``scale``: `thinsight.reduction.ties`.
    """
    return descending(scores, scale)[..., max(scores.shape[-1] - leave, 0) :]


class Routes(NamedTuple):
    """Where leavers go, if some of them make new tokens.

    stay    (leaving, staying)   weights to the stayers, in their order
    new     (leaving, new)       weights to the new tokens; None for none
    anchor  (new,) int64         the leaver (a row of the weights) that each new token takes its place and name from;
                                 no two the same
    """

    stay: Tensor
    new: Tensor | None = None
    anchor: Tensor | None = None


class Correlate(Protocol):
    """``correlate(tokens, leaving, evidence)`` -> weights (leaving, staying), stayers in order, or `Routes`.

    Where it makes new tokens it has ``adds(leave, keep)``: how many, if ``leave`` leave and ``keep`` stay. Where it
    sends some leavers nowhere it says so: ``lossy``.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor | Routes: ...


@dataclass(frozen=True)
class ToNearest:
    """Each leaver goes whole to the stayer with the most similar state (cosine), as in ToMe (arXiv:2210.09461)."""

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        staying = tokens.rest(leaving)
        return to_one(cosines(take_at(tokens.states, leaving), take_at(tokens.states, staying))).float()


def to_one(similarity: Tensor) -> Tensor:
    """(leaving, staying) cosines -> weights of the same shape: 1 for each row's largest entry, else 0."""
    if similarity.shape[-1] == 0:
        return similarity  # nobody stays who could receive
    return one_each(largest(-distances(similarity), 1.0), similarity.shape[-1])


def one_each(target: Tensor, count: int) -> Tensor:
    """target (leaving,) int64 -> weights (leaving, ``count``) fp32: 1 for each leaver's target, else 0."""
    none = torch.zeros(*target.shape, count, dtype=torch.float32, device=target.device)
    return none.scatter_(-1, target[..., None], 1.0)


class Blend(NamedTuple):
    """What each survivor is made of; the stayers come first, in their order, then the new tokens.

    parts  (tokens, survivors)  weights, taken as they are; a stayer's own one (1) is among them
    place  (survivors,) int64   the row of the token whose place each takes: a stayer's own, a leaver's for a new one
    named  (survivors,) int64   the row of the token that each is named after; a copy shares its original's. None: that
                                of its place
    """

    parts: Tensor
    place: Tensor
    named: Tensor | None = None


@dataclass(frozen=True)
class Blended:
    """Each survivor becomes the sum that a `Blend` says; nothing is normalised.

    In the books a stayer belongs to itself (and in equal parts to its copies), a leaver to those that it goes to, in
    proportion to its weights.
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | Blend | None) -> Tokens:
        if not isinstance(weights, Blend):
            raise UserError("Blended needs a correlate stage that says what each survivor is made of")
        parts, place, named = weights
        states = tokens.states.float()
        states = (parts.to(states).transpose(-2, -1) @ states).to(tokens.states.dtype)
        share = _booked(parts.float(), leaving, place if named is None else named)
        survivors = tokens.take(place, place.shape[-1] - (len(tokens) - tokens.patches))  # only patches leave
        origin = survivors.origin if named is None else take_at(tokens.origins, named)
        size = _sent(share, tokens.size)
        return replace(survivors, states=states, size=size, made=Merged(tokens.made, None, share), origin=origin)


def _booked(parts: Tensor, leaving: Tensor, named: Tensor) -> Tensor:
    """(tokens, survivors): rows that sum to one, or to zero for a leaver that goes nowhere."""
    share = torch.zeros_like(parts).scatter_(-2, named[..., None, :], 1.0)
    rows = leaving[..., None].expand(*leaving.shape, parts.shape[-1])
    share = share.scatter(-2, rows, parts.gather(-2, rows))
    return share / share.sum(-1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)


def copied(tokens: Tokens, leaving: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, staying) weights of stayers that stay as they are, and their rows."""
    staying = tokens.rest(leaving)
    return copies(staying, len(tokens)), staying


def copies(rows: Tensor, tokens: int) -> Tensor:
    """(``tokens``, n) weights of n survivors that are what the tokens at ``rows`` (n,) are."""
    return one_each(rows, tokens).transpose(-2, -1)


class Compress(Protocol):
    """``compress(tokens, leaving, weights)`` -> the stayers in the order they were in, then the new tokens."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens: ...


@dataclass(frozen=True)
class Discard:
    """Stayers stay as they are; what leaves is lost."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens:
        return tokens.stayers(leaving)


@dataclass(frozen=True)
class WeightedMerge:
    """Each stayer becomes the weighted mean of itself and of what is sent to it; a new token the mean of its members.

    With sizes s (ToMe, arXiv:2210.09461) and weights w: s_j' = s_j + sum_i w_ij s_i and x_j' = (s_j x_j +
    sum_i w_ij s_i x_i) / s_j', so both sum(s) and sum(s x) are conserved when the rows of w sum to one. ``sized=False``
    takes all sizes for one in the mean: FiCoCo's self-preserving x_j' = (x_j + sum_i w_ij x_i) / (1 + sum_i w_ij)
    (arXiv:2411.17686, equation 2). ``most``: no more than this weight is received besides the own one (None: no limit).
    ``divide=False``: the sum instead of the mean (the released FiCoCo-L).
    """

    sized: bool = True
    most: float | None = None
    divide: bool = True

    def __post_init__(self) -> None:
        if self.most is not None and not (isinstance(self.most, int | float) and self.most >= 0):
            raise UserError(f"most={self.most} is no weight: a number from 0 on, or null for no limit")

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens:
        routes = _routes(self, weights)
        stay, gone = tokens.stayers(leaving), tokens.take(leaving, leaving.shape[-1])
        own = stay.size if self.sized else torch.ones_like(stay.size)
        sent = gone.size if self.sized else torch.ones_like(gone.size)
        share = routes.stay.float() * sent[..., None]  # (leaving, staying)
        received = share.sum(-2)
        if self.most is not None:
            least = max(self.most, torch.finfo(received.dtype).tiny)
            share = share * (self.most / received.clamp(min=least))[..., None, :]
            received = share.sum(-2)
        device = stay.states.device  # that of the books, too, but for states without data (meta)
        mass = stay.states.float() * own[..., None].to(device)
        mass = mass + share.transpose(-2, -1).to(device) @ gone.states.float()
        states = (mass / (own + received)[..., None].to(device) if self.divide else mass).to(stay.states.dtype)
        if routes.new is None:
            return _kept(tokens, leaving, stay, gone, routes, states)
        share = routes.new.float() * sent[..., None]
        made = share.transpose(-2, -1) @ gone.states.float() / share.sum(-2)[..., None]
        return _kept(tokens, leaving, stay, gone, routes, states, made.to(states.dtype))


@dataclass(frozen=True)
class WeightedSum:
    """Each stayer becomes itself plus the weighted sum of what is sent to it; a new token the sum of its members.

    The weights are taken as they are (attention, say): nothing is normalised. EViT's fused token (arXiv:2202.07800),
    VisionZip's contextual ones (arXiv:2412.04467), PruMerge's extra one (arXiv:2403.15388).
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens:
        routes = _routes(self, weights)
        stay, dtype = tokens.stayers(leaving), tokens.states.dtype
        gone = tokens.take(leaving, leaving.shape[-1])
        sums = [None if part is None else _sent(part.float(), gone.states.float()) for part in routes[:2]]
        states = (stay.states.float() + sums[0]).to(dtype)
        return _kept(tokens, leaving, stay, gone, routes, states, None if sums[1] is None else sums[1].to(dtype))


def _routes(compress: Compress, weights: Tensor | Routes | None) -> Routes:
    if weights is None:
        raise UserError(f"{type(compress).__name__} needs a correlate stage that says where the leavers go")
    return weights if isinstance(weights, Routes) else Routes(weights)


def _sent(share: Tensor, values: Tensor) -> Tensor:
    """share (from, to), values (from,) or (from, width) -> what arrives, (to,) or (to, width)."""
    if values.dim() < share.dim():
        return (values[..., None] * share).sum(-2)
    return share.transpose(-2, -1) @ values


def _kept(
    before: Tokens,
    leaving: Tensor,
    stay: Tokens,
    gone: Tokens,
    routes: Routes,
    states: Tensor,
    new: Tensor | None = None,
) -> Tokens:
    """The stayers with ``states``, then new tokens with states ``new``, each at the place of the leaver that it is
    named after. Originals behind each leaver are booked by rows over stayers and new tokens that sum to one, or to zero
    for a leaver that is sent nowhere."""
    parts = [routes.stay.float()] + ([] if routes.new is None else [routes.new.float()])
    every = torch.cat(parts, -1)
    every = every / every.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    share, made = every.split([part.shape[-1] for part in parts], -1) if len(parts) == 2 else (every, None)
    merged = None if before.made is None else Merged(before.made, leaving, share, before.rest(leaving))
    after = replace(stay, states=states, size=stay.size + _sent(share, gone.size), made=merged)
    if made is None:
        return after
    named = gone.take(routes.anchor)
    merged = None if before.made is None else Merged(before.made, leaving, made)
    return after.concat(replace(named, states=new, size=_sent(made, gone.size), made=merged))


class Filter(Protocol):
    """``filter(tokens, evidence, leave)`` -> rows (samples, leave) of the tokens that leave, int64, any order.

    ``among`` says what it is shown: "visual" tokens, or all of the "prompt" but its last token, which has to answer, or
    "all". A filter with ``adaptive = True`` also takes None for ``leave``, and finds out by itself how many leave. It
    is shown one sample at a time then, without the axis of samples, unless it ``spares`` all of them or has a function
    ``decides(tokens, evidence)`` -> (samples,) int64, how many leave of each: the numbers of all samples are read off
    the device at once, and those with equal ones go side by side. Where it reads attention, ``attention_rows`` says
    how many rows of a layer it asks for at most, for the page on costs: "one" (or a few), those of the "question", or
    all "visual" ones.
    """

    among: str

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor: ...


class Order(Protocol):
    """``order(tokens, evidence)`` -> (tokens,) int64: the rows of ``tokens``, first one first.

    ``tokens``: the stayers in the order they were in, then the new ones; their ``index`` is where they came from.
    """

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor: ...


@dataclass(frozen=True)
class Raster:
    """By place in the picture; a new token stands where the one stood that it is named after."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return tokens.index.argsort(dim=-1)


@dataclass(frozen=True)
class Appended:
    """As they are: the stayers, then the new tokens."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return torch.arange(len(tokens), device=tokens.index.device).expand_as(tokens.index)


ORDERS = ("raster", "official")


@dataclass(frozen=True)
class OfficialOrder:
    """By place in the picture, or as the released code does it.

    order     raster | official
    official  what the latter means
    """

    order: str = "raster"
    official: Order = field(default_factory=Appended)

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise nearest("order", self.order, ORDERS)

    @property
    def needs(self) -> frozenset[str]:
        """What the chosen one needs."""
        return frozenset(getattr(self.official, "needs", ()) if self.order == "official" else ())

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return (Raster() if self.order == "raster" else self.official)(tokens, evidence)


@dataclass(frozen=True)
class ScoreOrder:
    """First the tokens that an earlier stage of this reduction noted by index as ``ranked``, in that order; then the
    others as they are."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        ranked = evidence.notes.ranked
        same = tokens.index[..., :, None] == ranked[..., None, :]  # (tokens, ranked)
        early = torch.arange(ranked.shape[-1], 0, -1, device=ranked.device)
        return (same * early).sum(-1).argsort(dim=-1, descending=True, stable=True)


def count_outliers(scores: Tensor, reach: float = 1.5) -> int:
    """How many ``scores`` (any shape) lie above Q3 + ``reach`` (Q3 - Q1), quartiles interpolated linearly."""
    return int(outliers(scores.flatten(), reach))


def outliers(scores: Tensor, reach: float = 1.5) -> Tensor:
    """(...,) int64: the same for each row of scores (..., n)."""
    scores = double(scores)
    quartiles = torch.tensor([0.25, 0.75], dtype=scores.dtype, device=scores.device)
    first, third = scores.quantile(quartiles, dim=-1, keepdim=True)
    return above(scores, third + reach * (third - first)).sum(-1)
