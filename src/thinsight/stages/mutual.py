"""Tokens that have to do with the other modality stay (arXiv:2409.01162, second stage)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError
from thinsight.evidence import Evidence
from thinsight.stages.attended import lowest
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Mutual:
    """The visual tokens with the lowest mean correlation to the text leave, and text tokens with the lowest to them.

    With C_it the cosine of the states of visual token i and text token t behind the picture: visual tokens are ranked
    by the mean of C over t, text tokens by its mean over i.

    text  the fraction that stays of the text tokens between picture and last token, rounded up; 1: none leaves. The
          last token always stays, and so does what stands before the picture
    """

    text: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.text <= 1:
            raise UserError(f"text={self.text} is no fraction between 0 and 1")

    @property
    def among(self) -> str:
        """Text is looked at only if some of it has to leave."""
        return "visual" if self.text == 1 else "prompt"

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        image = tokens.visual.nonzero().squeeze(1)
        question = evidence.question if len(evidence.question) else evidence.last
        found = correlation(tokens.index[image], question, evidence)
        leaving = image[lowest(found.mean(1), leave)]
        text = torch.searchsorted(tokens.index, question[question != evidence.last])
        if self.text == 1 or len(text) == 0:
            return leaving
        least = lowest(found.mean(0)[: len(text)], len(text) - math.ceil(self.text * len(text)))
        return torch.cat([leaving, text[least]])


def correlation(visual: Tensor, text: Tensor, evidence: Evidence) -> Tensor:
    """(visual, text) fp32: cosines of the states of the tokens with these indices."""
    of_image, of_text = (normalize(evidence.states(index).float(), dim=-1) for index in (visual, text))
    return of_image @ of_text.T
