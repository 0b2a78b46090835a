"""PAR's token router: of what is relevant, what is distinctive; and where the rest of it goes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError, nearest
from thinsight.evidence import Evidence
from thinsight.stages.compress import Compress, Discard, WeightedMerge
from thinsight.stages.correlate import Correlate
from thinsight.tokens import Tokens

SCOPES = ("global", "local")
MERGES = ("drop", "mean", "weighted")


@dataclass(frozen=True)
class Router:
    """Step D, reconstructed: candidates in the order of their relevance, each accepted if it is relevant enough,
    r_i >= ``similar``, and no accepted one is too like it, max cos(f_i, f_k) <= ``redundant``.

    That a similarity and a redundancy threshold decide is what a survey says of PAR (arXiv:2410.07278); the greedy
    order is ours.

    scope      global: one list; local: inside each cluster, which keeps its most relevant candidate in any case
    least, most  floor and ceiling of how many are accepted; the floor is filled by relevance, candidates first
    """

    similar: float = 0.2
    redundant: float = 0.8
    scope: str = "global"
    least: int = 8
    most: int | None = None

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise nearest("scope of the router", str(self.scope), SCOPES)
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise UserError(
                f"k_min={self.least} and k_max={self.most}: one token or more stays, and no more than k_max"
            )

    def __call__(
        self, relevance: Tensor, similarity: Tensor, clusters: Tensor, candidates: Tensor, keep: int | None
    ) -> Tensor:
        """(accepted,) rows, ascending.

        relevance (N,) between 0 and 1; similarity (N, N); clusters (N,); candidates (N,) bool; all on the CPU.
        keep: so many in any case: the redundancy threshold is searched for, and what it cannot fill is filled up.
        """
        order = relevance.argsort(descending=True, stable=True)
        order = order[candidates[order]]
        apart = similarity[order][:, order]
        member, first = clusters[order], torch.zeros(len(order), dtype=torch.bool)
        if self.scope == "local":
            apart = apart.masked_fill(member[:, None] != member, -torch.inf)
            first = torch.tensor([i == 0 or bool((member[:i] != member[i]).all()) for i in range(len(order))])
        asks = (relevance[order] >= self.similar) | first
        if len(asks):
            asks[0] = True
        if keep is None:
            rows = order[accepted(apart, asks, self.redundant)][: self.most]
            wanted = min(self.least, len(relevance))
        else:
            rows, wanted = order[self._search(apart, asks, keep)][:keep], keep
        return self._filled(rows, wanted, relevance, candidates).sort().values

    def _search(self, apart: Tensor, asks: Tensor, keep: int) -> Tensor:
        """What the lowest redundancy threshold accepts that accepts at least ``keep``, of all that change anything."""
        levels = torch.cat([apart[torch.triu(torch.ones_like(apart), 1).bool()].unique(), torch.tensor([torch.inf])])
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            if int(accepted(apart, asks, float(levels[middle])).sum()) >= keep:
                high = middle
            else:
                low = middle + 1
        return accepted(apart, asks, float(levels[high]))

    def _filled(self, rows: Tensor, wanted: int, relevance: Tensor, candidates: Tensor) -> Tensor:
        """``rows`` and the next most relevant ones, candidates first, until there are ``wanted``."""
        if len(rows) >= wanted:
            return rows
        spare = relevance + 2 * candidates  # relevance is at most 1
        spare[rows] = -torch.inf
        return torch.cat([rows, spare.argsort(descending=True, stable=True)[: wanted - len(rows)]])


def accepted(apart: Tensor, asks: Tensor, redundant: float) -> Tensor:
    """(n,) bool: the greedy pass over candidates in their order; apart (n, n) similarity, asks (n,) bool."""
    similar, open_ = (apart > redundant).numpy(), asks.numpy().copy()
    taken = torch.zeros(len(asks), dtype=torch.bool).numpy()
    for i in range(len(open_)):
        if open_[i]:
            taken[i] = True
            open_ &= ~similar[i]
    return torch.from_numpy(taken)


@dataclass(frozen=True)
class Routed:
    """Each candidate that was not accepted goes to the accepted one that is most like it; the others go nowhere.

    weighted: with its relevance against that of the accepted one, so that `WeightedMerge` of unit sizes makes the
    relevance-weighted mean of each group; else with weight 1, the plain mean.
    """

    weighted: bool = False
    lossy = True  # what the prompt does not ask for is lost

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        found = evidence.notes["routing"]
        staying = tokens.rest(leaving)
        units = normalize(found.features.float(), dim=-1)
        nearest_one = (units[leaving] @ units[staying].T).argmax(1)
        weight = found.candidates[leaving].float()
        if self.weighted:
            weight = weight * found.relevance[leaving] / found.relevance[staying][nearest_one].clamp(min=1e-6)
        return torch.zeros(len(leaving), len(staying)).scatter_(1, nearest_one[:, None], weight[:, None])


def routes(merge: str) -> Correlate | None:
    """The correlate stage of a field ``merge``: drop, mean or weighted."""
    if merge not in MERGES:
        raise nearest("merge", str(merge), MERGES)
    return None if merge == "drop" else Routed(merge == "weighted")


def merged(merge: str) -> Compress:
    """The compress stage that goes with it."""
    return Discard() if merge == "drop" else WeightedMerge(sized=False)
