"""The parts of a reduction that many methods share: filters, correlations, compressions and orders."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from thinsight.errors import UserError, nearest
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.ties import above, cosines, descending, distances, double, largest
from thinsight.reduction.tokens import Tokens


def lowest(scores: Tensor, leave: int, scale: float | None = None) -> Tensor:
    """Rows (leave,) int64 of the lowest scores (n,), the best of them first; of equal ones the later leaves.

    What counts as equal, and ``scale``: `thinsight.reduction.ties`.
    """
    return descending(scores, scale)[max(len(scores) - leave, 0) :].cpu()


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
        states, staying = tokens.states, tokens.rest(leaving)
        return to_one(cosines(states[leaving.to(states.device)], states[staying.to(states.device)])).float()


def to_one(similarity: Tensor) -> Tensor:
    """(leaving, staying) cosines -> weights of the same shape: 1 for each row's largest entry, else 0."""
    return torch.zeros_like(similarity).scatter_(1, largest(-distances(similarity), 1.0)[:, None], 1.0)


class Blend(NamedTuple):
    """What each survivor is made of; the stayers come first, in their order, then the new tokens.

    parts  (tokens, survivors)  weights, taken as they are; a stayer's own one (1) is among them
    place  (survivors,) int64   the row of the token whose place each takes: a stayer's own, a leaver's for a new one
    named  (survivors,) int64   the row of the token that each is named after; a copy shares its original's
    """

    parts: Tensor
    place: Tensor
    named: Tensor


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
        states = (parts.to(states).T @ states).to(tokens.states.dtype)
        share = _booked(parts.cpu().float(), leaving, named)
        return replace(
            tokens.take(place),
            states=states,
            size=share.T @ tokens.size,
            sources=share.T @ tokens.sources,
            origin=None if torch.equal(place, named) and tokens.origin is None else tokens.origins[named],
        )


def _booked(parts: Tensor, leaving: Tensor, named: Tensor) -> Tensor:
    """(tokens, survivors): rows that sum to one, or to zero for a leaver that goes nowhere."""
    share = torch.zeros_like(parts)
    share[named, torch.arange(len(named))] = 1.0
    share[leaving] = parts[leaving]
    return share / share.sum(1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)


def copied(tokens: Tokens, leaving: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, staying) weights of stayers that stay as they are, and their rows."""
    staying = tokens.rest(leaving)
    return torch.eye(len(tokens), dtype=torch.float32)[:, staying], staying


class Compress(Protocol):
    """``compress(tokens, leaving, weights)`` -> the stayers in the order they were in, then the new tokens."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens: ...


@dataclass(frozen=True)
class Discard:
    """Stayers stay as they are; what leaves is lost."""

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens:
        return tokens.take(tokens.rest(leaving))


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
        stay, gone = tokens.take(tokens.rest(leaving)), tokens.take(leaving)
        own = stay.size if self.sized else torch.ones_like(stay.size)
        sent = gone.size if self.sized else torch.ones_like(gone.size)
        share = routes.stay.cpu().float() * sent[:, None]  # (leaving, staying)
        received = share.sum(0)
        if self.most is not None:
            share = share * (self.most / received.clamp(min=max(self.most, torch.finfo(received.dtype).tiny)))
            received = share.sum(0)
        device, dtype = stay.states.device, stay.states.dtype
        mass = stay.states.float() * own[:, None].to(device) + share.T.to(device) @ gone.states.float()
        states = (mass / (own + received)[:, None].to(device) if self.divide else mass).to(dtype)
        after = _kept(stay, gone, routes, states)
        if routes.new is None:
            return after
        share = (routes.new.cpu().float() * sent[:, None]).to(device)
        states = (share.T @ gone.states.float() / share.sum(0)[:, None]).to(dtype)
        return after.concat(_fresh(gone, routes, states))


@dataclass(frozen=True)
class WeightedSum:
    """Each stayer becomes itself plus the weighted sum of what is sent to it; a new token the sum of its members.

    The weights are taken as they are (attention, say): nothing is normalised. EViT's fused token (arXiv:2202.07800),
    VisionZip's contextual ones (arXiv:2412.04467), PruMerge's extra one (arXiv:2403.15388).
    """

    def __call__(self, tokens: Tokens, leaving: Tensor, weights: Tensor | Routes | None) -> Tokens:
        routes = _routes(self, weights)
        stay, gone = tokens.take(tokens.rest(leaving)), tokens.take(leaving)
        device, dtype = stay.states.device, stay.states.dtype
        states = (stay.states.float() + routes.stay.to(device).float().T @ gone.states.float()).to(dtype)
        after = _kept(stay, gone, routes, states)
        if routes.new is None:
            return after
        states = (routes.new.to(device).float().T @ gone.states.float()).to(dtype)
        return after.concat(_fresh(gone, routes, states))


def _routes(compress: Compress, weights: Tensor | Routes | None) -> Routes:
    if weights is None:
        raise UserError(f"{type(compress).__name__} needs a correlate stage that says where the leavers go")
    return weights if isinstance(weights, Routes) else Routes(weights)


def _shares(routes: Routes) -> tuple[Tensor, Tensor | None]:
    """Where the originals behind each leaver are booked: rows over stayers and new tokens that sum to one, or to zero
    for a leaver that is sent nowhere."""
    parts = [routes.stay.cpu().float()] + ([] if routes.new is None else [routes.new.cpu().float()])
    every = torch.cat(parts, 1)
    every = every / every.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return every[:, : parts[0].shape[1]], None if routes.new is None else every[:, parts[0].shape[1] :]


def _kept(stay: Tokens, gone: Tokens, routes: Routes, states: Tensor) -> Tokens:
    share, _ = _shares(routes)
    sources = stay.sources + share.T @ gone.sources
    return replace(stay, states=states, size=stay.size + share.T @ gone.size, sources=sources)


def _fresh(gone: Tokens, routes: Routes, states: Tensor) -> Tokens:
    """The new tokens, each at the place of the leaver that it is named after."""
    _, share = _shares(routes)
    named = gone.take(routes.anchor)
    return replace(named, states=states, size=share.T @ gone.size, sources=share.T @ gone.sources)


class Filter(Protocol):
    """``filter(tokens, evidence, leave)`` -> rows (leave,) of the tokens that leave, int64, any order.

    ``among`` says what it is shown: "visual" tokens, or all of the "prompt" but its last token, which has to answer, or
    "all". A filter with ``adaptive = True`` also takes None for ``leave``, and decides by itself how many leave. Where
    it reads attention, ``attention_rows`` says how many rows of a layer it asks for at most, for the page on costs:
    "one" (or a few), those of the "question", or all "visual" ones.
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
        return tokens.index.argsort()


@dataclass(frozen=True)
class Appended:
    """As they are: the stayers, then the new tokens."""

    def __call__(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        return torch.arange(len(tokens))


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
        rank = {index: rank for rank, index in enumerate(evidence.notes.ranked.tolist())}
        places = [rank.get(index, len(rank)) for index in tokens.index.tolist()]
        return torch.tensor(places, dtype=torch.int64).argsort(stable=True)


def count_outliers(scores: Tensor, reach: float = 1.5) -> int:
    """How many ``scores`` (any shape) lie above Q3 + ``reach`` (Q3 - Q1), quartiles interpolated linearly."""
    scores = double(scores.flatten())
    first, third = scores.quantile(torch.tensor([0.25, 0.75], dtype=scores.dtype, device=scores.device))
    return int(above(scores, third + reach * (third - first)).sum())
