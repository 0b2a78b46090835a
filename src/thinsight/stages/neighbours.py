"""PruMerge's merging (arXiv:2403.15388): survivors collect what is like them, and the rest makes one."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError
from thinsight.evidence import Evidence
from thinsight.stages.blend import Blend, copied
from thinsight.stages.cls import Interested
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Neighbours(Interested):
    """With p the class token's attention, all heads as one: a survivor becomes x_i + sum of p_j x_j over the ``count``
    patches whose keys are most like its own (cosine), whether they stay or leave; one new token becomes the sum of
    p_j x_j over those that leave, and stands where the most attended of them stood. No weight is scaled.

    Goes with `thinsight.stages.blend.Blended`, and with `thinsight.stages.outliers.Outliers`, which notes who stays. A
    patch that it notes twice is handed on twice, and is a neighbour twice, of itself too: its copy takes the first free
    place, and as many leavers, the first ones in raster order, are neither neighbours nor in the extra token (released
    code, whose complement does not expect duplicates).

    cls   token | received, and ``of``: see `Interest`
    """

    count: int = 32
    cls: str = "token"
    of: str = "next"
    single = True

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 0:
            raise UserError(f"neighbours={self.count} is no number of tokens")

    def adds(self, leave: int, keep: int) -> int:
        """The extra token, if any leaves; also where none stays, so that at least one is left."""
        return int(leave > 0)

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Blend:
        weights = self.interest.weights(evidence, tokens.index)
        parts, staying = copied(tokens, leaving)
        ranked = torch.searchsorted(tokens.index, evidence.notes["ranked"])
        twice = _again(ranked)
        leaving = leaving.sort().values
        if len(twice) >= len(leaving):
            raise UserError("there are more duplicates than free places for them: take a lower ratio")
        survivors = torch.cat([staying, ranked[twice]])
        gone = leaving[len(twice) :]
        near = alike(self.interest.keys(evidence, tokens.index), survivors, gone, self.count)
        parts = torch.cat([parts, torch.eye(len(tokens))[:, ranked[twice]]], 1) + near.T * weights[:, None]
        extra = torch.zeros(len(tokens), 1)
        extra[gone, 0] = weights[gone]
        best = extra.argmax()[None]
        free = leaving[leaving != best][: len(twice)]
        place = torch.cat([staying, free, best])
        noted = evidence.notes["ranked"].clone()
        noted[twice] = tokens.index[free]
        evidence.notes["ranked"] = noted
        return Blend(torch.cat([parts, extra], 1), place, torch.cat([survivors, best]))


def alike(keys: Tensor, survivors: Tensor, gone: Tensor, count: int) -> Tensor:
    """keys (n, width), rows (s,) and (g,) -> (s, n) on the CPU: how often each row is among the ``count`` survivors and
    leavers whose keys are most similar to each survivor's."""
    units, pool = normalize(keys, dim=-1).cpu(), torch.cat([survivors, gone])
    similarity = (units[survivors] @ units[pool].T).fill_diagonal_(-torch.inf)
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, : min(count, len(pool) - 1)]
    return torch.zeros(len(survivors), len(keys)).scatter_add_(1, pool[order], torch.ones(order.shape))


def _again(rows: Tensor) -> Tensor:
    """Where in ``rows`` a row stands that has stood before."""
    seen, found = set(), []
    for at, row in enumerate(rows.tolist()):
        if row in seen:
            found.append(at)
        seen.add(row)
    return torch.tensor(found, dtype=torch.int64)
