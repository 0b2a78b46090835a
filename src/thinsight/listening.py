"""Hearing what a stage would be told, without removing anything: for sign tests and calibration."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thinsight.attach import reduce
from thinsight.evidence import Evidence
from thinsight.reduction import Method, Projected, Reduction
from thinsight.schedule import Adaptive
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Listener:
    """A filter that no token leaves by; ``ear(tokens, evidence)`` is called with what any filter is shown."""

    ear: Callable[[Tokens, Evidence], Any]
    needs: frozenset[str] = frozenset()
    heard: list[Any] = field(default_factory=list)
    among = "visual"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: None) -> Tensor:
        self.heard.append(self.ear(tokens, evidence))
        return torch.empty(0, dtype=torch.int64)


def listen_to(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    ear: Callable[[Tokens, Evidence], Any],
    needs: frozenset[str] = frozenset(),
) -> list[Any]:
    """What ``ear`` says of every prompt, in order, between projector and decoder."""
    listener = Listener(ear, needs)
    method = Method("listening", (Reduction(listener, site=Projected(), schedule=Adaptive()),))
    with torch.inference_mode(), reduce(model, method):
        for inputs in batches:
            model(**inputs, logits_to_keep=1)
    return listener.heard
