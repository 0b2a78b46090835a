"""PriorTR (arXiv:2606.24156): the visual tokens stay whose attention by the question exceeds what they get anyway.

With P the attention that the question pays to the visual tokens, and Q that of the token right behind the picture,
which cannot see the question, both of sum one, a token's score is its part of the divergence of P from Q: P log(P / Q).
"""

from dataclasses import dataclass

from torch import Tensor

from thinsight.errors import nearest
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.stages import lowest
from thinsight.reduction.ties import double
from thinsight.reduction.tokens import Tokens

QUESTIONS = ("mean", "last")
LEAST = 1e-10
"""Added to both before the quotient."""


@dataclass(frozen=True)
class Surprise:
    """The tokens with the lowest P log(P / Q) leave.

    question  mean: P is the mean row of the text tokens behind the one that gives Q; last: the last prompt token's
    """

    question: str = "mean"
    among = "visual"
    attention_rows = "question"
    needs = frozenset({"attention", "text"})

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise nearest("row of the question", self.question, QUESTIONS)

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> Tensor:
        behind = evidence.behind
        paid = double(evidence.attention(behind, tokens.index))
        prior = _normalised(paid[..., 0, :])
        rows = paid[..., 1:, :] if self.question == "mean" and behind.shape[-1] > 1 else paid[..., -1:, :]
        asked = _normalised(rows.mean(-2))
        return lowest(asked * ((asked + LEAST) / (prior + LEAST)).log(), leave)


def _normalised(row: Tensor) -> Tensor:
    return row / row.sum(-1, keepdim=True).clamp(min=LEAST)
