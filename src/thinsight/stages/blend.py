"""Survivors as sums over any of the tokens, where stayers give as well as leavers."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.stages.correlate import Routes
from thinsight.tokens import Tokens


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
            origin=None if torch.equal(place, named) and tokens.origin is None else tokens.named[named],
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
    return torch.eye(len(tokens))[:, staying], staying
