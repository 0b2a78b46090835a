"""SparseVLM's filter: only those text tokens vote on the picture that have to do with it (arXiv:2410.04417)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from thinsight.evidence import Evidence
from thinsight.look import Look, rotate
from thinsight.stages.attended import lowest
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Raters:
    """The visual tokens leave to which the raters attend least: phi_i = mean over raters t and heads h of A_hti.

    A is the attention of the layer before. The two other fields are those of SparseVLM's second version:

    prior  A is divided by what rotary distance alone would give (`rotary_prior`)
    guard  the prior is taken for no less than this share of its value at distance 0, beyond which it passes through
           zero in narrow heads; None: as it is (released code)
    heads  only so many heads count, those with most of (divided) attention from raters to the picture; None: all
    """

    prior: bool = False
    guard: float | None = None
    heads: int | None = None
    among = "visual"
    needs = frozenset({"attention", "embeddings"})

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        return lowest(self.scores(tokens.index, evidence), leave)

    def scores(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(n,) fp32: phi of the visual tokens ``index``."""
        attention = self.attention(index, evidence)
        return attention[self.chosen(attention)].mean((0, 1))

    def attention(self, index: Tensor, evidence: Evidence) -> Tensor:
        """(heads, raters, n) fp32, divided by the prior if there is one."""
        rows = raters(index, evidence)
        attention = evidence.attention(rows, index, heads=True)
        if not self.prior:
            return attention
        prior = rotary_prior(evidence.look(), rows, index)
        if self.guard is not None:
            prior = prior.clamp(min=self.guard * evidence.look().keys.shape[-1] ** 0.5)
        return attention / prior

    def chosen(self, attention: Tensor) -> Tensor:
        """The numbers of the heads that count, ascending; of equal ones the earlier."""
        most = attention.sum((1, 2)).argsort(descending=True, stable=True)
        return most[: self.heads].sort().values


def raters(visual: Tensor, evidence: Evidence) -> Tensor:
    """(n,) index of the text tokens behind the picture that are more relevant to it than the average one.

        m_t = mean over visual i of softmax over t of <v_i, t>;  raters = {t: m_t > mean of m}   (section 3.2)

    v and t are what entered the decoder, the product is not scaled. They are the same in every layer, so they are
    computed where the first reduction happens and left in ``evidence.notes``. Where nobody is above the average (a
    single text token) all of the text votes; where no text follows the picture, the last token.
    """
    if len(evidence.question) == 0:
        return evidence.last
    if "raters" not in evidence.notes:
        text = evidence.question
        scores = relevance(evidence.get("embeddings"), visual, text).cpu()
        some = text[scores > scores.mean()]
        evidence.notes["raters"] = some if len(some) else text
    return evidence.notes["raters"]


def relevance(embeddings: Tensor, visual: Tensor, text: Tensor) -> Tensor:
    """(text,) fp32: m of the tokens ``text``; both given as rows of ``embeddings`` (columns, width)."""
    of_image, of_text = (embeddings[rows.to(embeddings.device)].float() for rows in (visual, text))
    return (of_image @ of_text.T).softmax(-1).mean(0)


def rotary_prior(look: Look, rows: Tensor, columns: Tensor) -> Tensor:
    """(rows, columns) fp32: the scaled product of an all-ones query and an all-ones key after rotation.

    With d the head's width and theta its d / 2 frequencies: 2 / sqrt(d) * sum over theta of cos((p_row - p_col) theta).
    """
    cos, sin = (table.float() for table in look.tables)
    ones = rotate(torch.ones_like(cos), cos, sin)
    return ones[look.rows(rows)] @ ones[look.rows(columns)].T * look.scaling
