"""Compressions: what the staying tokens become."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.stages.correlate import Routes
from thinsight.tokens import Tokens


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
        own = stay.size if self.sized else torch.ones(len(stay))
        sent = gone.size if self.sized else torch.ones(len(gone))
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
        return after.followed(_fresh(gone, routes, states))


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
        return after.followed(_fresh(gone, routes, states))


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
