"""MustDrop's filter in the decoder (arXiv:2411.10803): what neither the text at large nor a word wants."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.evidence import Evidence
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Received:
    """Visual tokens leave that get too little attention of the text, unless the vision tower found them to be key.

    With a_ti the attention (mean over heads) of text token t to visual token i, b_i = sum_t a_ti and g_i = max_t a_ti:
    token i leaves where b_i < ``total`` * sum_j b_j and g_i < ``single``. Under a schedule with numbers those leave
    that have the least b_i; key tokens after all others.

    total, single  the thresholds tau of the whole text and of a single token
    """

    total: float = 0.001
    single: float = 0.001
    among = "visual"
    needs = frozenset({"attention"})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        paid = evidence.attention(evidence.text, tokens.index).cpu()
        whole = paid.sum(0)
        key = torch.isin(tokens.index, key_columns(evidence))
        if leave is None:
            unwanted = (whole < self.total * whole.sum()) & (paid.amax(0) < self.single)
            return (unwanted & ~key).nonzero().squeeze(1)
        order = whole.argsort(descending=True, stable=True)
        order = order[(~key[order]).int().argsort(stable=True)]
        return order[len(order) - leave :]


def key_columns(evidence: Evidence) -> Tensor:
    """(n,) index of the tokens that `thinsight.stages.cls.KeyTokens` noted in the pictures of this prompt."""
    if "images" not in evidence.notes:
        raise UserError(
            "key tokens are known by their picture, and here pictures and image tokens do not match in number"
        )
    found = [torch.empty(0, dtype=torch.int64)]
    for number, notes in enumerate(evidence.notes["images"]):
        found.append((evidence.image == number).nonzero().squeeze(1)[notes["key"]])
    return torch.cat(found)
