"""PAR (arXiv:2410.07278 v2), reconstructed: clusters of tokens that the prompt asks for, then a redundancy router.

Step A makes queries of the prompt (`prompt_relevance`, `question_parsing`); B joins similar tokens into clusters; C
keeps the clusters relevant to a query; D accepts their tokens greedily, relevant ones first, if r_i >= tau_s and
max cos(f_i, f_accepted) <= tau_r. The method section is not public: every rule and threshold is ours.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import UserError, nearest
from thinsight.methods.prompt_relevance import QueriesAndTokens, Relevance, to_unit_range
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.stages import Compress, Correlate, Discard, WeightedMerge, one_each
from thinsight.reduction.ties import above, at_least, cosines, descending, distances, largest, slack
from thinsight.reduction.tokens import Tokens

RULES = ("components", "mutual_knn", "window", "none")
MEASURES = ("cosine", "quantile")


@dataclass(frozen=True)
class Clusters:
    """Step B: a sparse undirected graph of similar tokens and its connected components.

    The paper's abstract and summaries of it (arXiv:2410.07278) name the graph and the clusters, not the rule.

    rule        components: an edge where the cosine is at least ``threshold``; mutual_knn: and each is among the
                ``neighbours`` tokens most similar to the other; window: and they lie within ``reach`` rows and columns
                of each other in one image; none: each token is its own cluster
    measure     whether ``threshold`` is a cosine or a quantile of the sample's own off-diagonal cosines
    giant       if the largest cluster holds more than this share of the tokens, components have chained: then
                mutual_knn is used instead
    """

    rule: str = "components"
    threshold: float = 0.9
    measure: str = "cosine"
    neighbours: int = 8
    reach: int = 2
    giant: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise nearest("rule for clusters", str(self.rule), RULES)
        if self.measure not in MEASURES:
            raise nearest("measure of the threshold", str(self.measure), MEASURES)
        if self.measure == "quantile" and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold={self.threshold} is no quantile between 0 and 1")

    def __call__(self, similarity: Tensor, cells: Tensor) -> Tensor:
        """(N, N) cosines and (N, 3) image, row, column -> (N,) int64: the number of each token's cluster."""
        count = len(similarity)
        if self.rule == "none" or count < 2:
            return torch.arange(count)
        cosines = similarity.double().numpy()
        least = self._least(cosines)
        near = cosines >= least - slack(least, scale=1.0)
        if self.rule == "mutual_knn":
            return _components(near & _mutual(cosines, self.neighbours))
        if self.rule == "window":
            apart = (cells[:, None] - cells[None]).abs().numpy()
            near &= (apart[..., 0] == 0) & (apart[..., 1:].max(-1) <= self.reach)
        clusters = _components(near)
        if self.rule == "components" and int(clusters.bincount().max()) > self.giant * count:
            clusters = _components(near & _mutual(cosines, self.neighbours))
        return clusters

    def _least(self, cosines: np.ndarray) -> float:
        if self.measure == "cosine":
            return self.threshold
        return float(np.quantile(cosines[np.triu_indices(len(cosines), 1)], self.threshold))


def _mutual(cosines: np.ndarray, neighbours: int) -> np.ndarray:
    """(N, N) bool: each among the other's most similar ones."""
    apart = distances(torch.from_numpy(cosines)).fill_diagonal_(torch.inf)
    mine = torch.zeros(apart.shape, dtype=torch.bool).scatter_(1, descending(-apart, 1.0)[:, :neighbours], True)
    return (mine & mine.T).numpy()


def _components(edges: np.ndarray) -> Tensor:
    """(N,) number of each node's component, counted in the order of first members."""
    _, labels = connected_components(csr_matrix(edges), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[inverse].astype(np.int64))


SCOPES = ("global", "local")
MERGES = ("drop", "mean", "weighted")


@dataclass(frozen=True)
class Router:
    """Step D: candidates are accepted in the order of their relevance, unless one like them was accepted already.

    Each is accepted if r_i >= ``similar`` and max cos(f_i, f_k) <= ``redundant`` over the accepted k.

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
        keep: this many in any case: the redundancy threshold is searched for, and what it cannot fill is filled up.
        """
        order = descending(relevance, scale=1.0)
        order = order[candidates[order]]
        apart = similarity[order][:, order]
        member, first = clusters[order], torch.zeros(len(order), dtype=torch.bool)
        if self.scope == "local":
            apart = apart.masked_fill(member[:, None] != member, -torch.inf)
            _, once = np.unique(member.numpy(), return_index=True)
            first[once] = True
        asks = at_least(relevance[order], self.similar, scale=1.0) | first
        if len(asks):
            asks[0] = True
        if keep is None:
            rows = order[greedy_accept(apart, asks, self.redundant)][: self.most]
            wanted = min(self.least, len(relevance))
        else:
            rows, wanted = order[lowest_accepting(apart, asks, keep)][:keep], keep
        return self._filled(rows, wanted, relevance, candidates).sort().values

    def _filled(self, rows: Tensor, wanted: int, relevance: Tensor, candidates: Tensor) -> Tensor:
        """``rows`` and the next most relevant ones, candidates first, until there are ``wanted``."""
        if len(rows) >= wanted:
            return rows
        spare = relevance + 2 * candidates  # relevance is at most 1
        spare[rows] = -torch.inf
        return torch.cat([rows, descending(spare, scale=1.0)[: wanted - len(rows)]])


def greedy_accept(apart: Tensor, asks: Tensor, redundant: float) -> Tensor:
    """(n,) bool: the greedy pass over candidates in their order; apart (n, n) similarity, asks (n,) bool."""
    similar, open_ = above(apart, redundant, scale=1.0).numpy(), asks.numpy().copy()
    taken = torch.zeros(len(asks), dtype=torch.bool).numpy()
    for i in range(len(open_)):
        if open_[i]:
            taken[i] = True
            open_ &= ~similar[i]
    return torch.from_numpy(taken)


def lowest_accepting(apart: Tensor, asks: Tensor, keep: int) -> Tensor:
    """(n,) bool: `greedy_accept` at the lowest threshold at which it accepts at least ``keep``; where none does, all
    that ask.

    The number accepted is not monotone in the threshold, so every outcome from the lowest threshold on is visited. From
    one to the next the threshold rises to the smallest similarity for which a candidate is still refused; then, in the
    order of the candidates, each decision that no longer holds is changed, an earlier one being final for later ones.
    """
    similar, asking = apart.double().numpy(), asks.numpy()
    earlier = np.triu(np.ones(similar.shape, dtype=bool), 1)  # a candidate sees those in front of it
    similar = np.where(earlier, similar, -np.inf)
    taken, limit = np.zeros(len(asking), dtype=bool), -np.inf
    closest = np.where(asking, -np.inf, np.inf)  # the largest similarity with what is accepted in front
    while True:
        wrong = np.flatnonzero((closest <= limit) != taken)
        if len(wrong) == 0:
            refused = closest[~taken].min(initial=np.inf)
            if taken.sum() >= keep or refused == np.inf:
                return torch.from_numpy(taken)
            limit = refused + slack(refused, scale=1.0)
            continue
        first = wrong[0]
        taken[first] = not taken[first]
        if taken[first]:
            np.maximum(closest, similar[first], out=closest)
        else:
            freed = np.flatnonzero(similar[first, first + 1 :] == closest[first + 1 :]) + first + 1
            closest[freed] = similar[taken][:, freed].max(axis=0, initial=-np.inf)


@dataclass(frozen=True)
class ToAccepted:
    """Each candidate that was not accepted goes to the accepted one that is most like it; the others go nowhere.

    weighted: with its relevance against that of the accepted one, so that `WeightedMerge` of unit sizes makes the
    relevance-weighted mean of each group; else with weight 1, the plain mean.
    """

    weighted: bool = False
    lossy = True  # what the prompt does not ask for is lost

    def __call__(self, tokens: Tokens, leaving: Tensor, evidence: Evidence) -> Tensor:
        routing = evidence.notes.routing
        staying = tokens.rest(leaving)
        features = routing.features
        nearest_one = largest(-distances(cosines(features[leaving], features[staying])), scale=1.0)
        weight = routing.candidates[leaving].float()
        if self.weighted:
            weight = weight * routing.relevance[leaving] / routing.relevance[staying][nearest_one].clamp(min=1e-6)
        return one_each(nearest_one, len(staying)) * weight[:, None]


def merge_correlate(merge: str) -> Correlate | None:
    """The correlate stage of a field ``merge``: drop, mean or weighted."""
    if merge not in MERGES:
        raise nearest("merge", str(merge), MERGES)
    return None if merge == "drop" else ToAccepted(merge == "weighted")


def merge_compress(merge: str) -> Compress:
    """The compress stage that goes with it."""
    return Discard() if merge == "drop" else WeightedMerge(sized=False)


PROTOTYPES = ("max", "mean", "members")
GRAPHS = ("x", "v")


class Routing(NamedTuple):
    """What the filter leaves for the correlate stage, by row of the tokens it was shown."""

    features: Tensor
    relevance: Tensor
    candidates: Tensor
    clusters: Tensor


def on_host(*parts: Tensor) -> list[Tensor]:
    """fp32 tensors on the CPU, fetched as one."""
    every = torch.cat([part.flatten() for part in parts]).cpu()
    sizes = [part.numel() for part in parts]
    return [own.reshape(part.shape) for own, part in zip(every.split(sizes), parts, strict=True)]


@dataclass(frozen=True)
class PromptAware:
    """Clusters of tokens stay that the prompt asks for, and of their members those that a router accepts.

    relevance  step A and the space: the queries made of the prompt
    graph      what the graph and the router compare: features before the projector (x), or projected tokens (v)
    clusters   step B
    prototype  step C, how relevant a cluster is: max or mean over queries of the cosine with its normalised mean
               member, or the largest over queries and members
    tau_e      clusters stay whose relevance, scaled to 0..1 within the sample, is at least this; the best one always
    router     step D

    A question that names nothing keeps all clusters and refuses no token for its relevance: it must not prune by noise.
    """

    relevance: Relevance = field(default_factory=lambda: Relevance(rewriting="rules"))
    graph: str = "x"
    clusters: Clusters = field(default_factory=Clusters)
    prototype: str = "max"
    tau_e: float = 0.3
    router: Router = field(default_factory=Router)
    among = "visual"
    adaptive = True
    alone = True

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise nearest("graph feature", str(self.graph), GRAPHS)
        if self.prototype not in PROTOTYPES:
            raise nearest("cluster relevance", str(self.prototype), PROTOTYPES)

    @property
    def needs(self) -> frozenset[str]:
        """What the relevance needs, and the features if the graph is made of them."""
        return self.relevance.needs | ({"features"} if self.graph == "x" else set())

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int | None) -> Tensor:
        embedded = self.relevance.embed(tokens, evidence)
        compared, device = tokens.states, tokens.index.device
        if self.graph == "x":
            compared = evidence.get("features")[evidence.place(tokens.index)]
        placed = self.clusters.rule == "window"
        cells = evidence.cells(tokens.index) if placed else tokens.index.new_zeros(len(tokens), 3)
        queries, visual, compared = on_host(embedded.queries, embedded.tokens, compared.float())
        own = QueriesAndTokens(queries, visual, embedded.blank)
        routing, similarity = self.retrieve(own, compared, cells)
        evidence.notes.routing = Routing(*(part.to(device) for part in routing))
        keep = None if leave is None else len(tokens) - leave
        rows = self.router(routing.relevance, similarity, routing.clusters, routing.candidates, keep)
        return tokens.rest(rows.to(device))

    def retrieve(self, embedded: QueriesAndTokens, features: Tensor, cells: Tensor) -> tuple[Routing, Tensor]:
        """Steps B and C: what the router works on, and the similarities (N, N) of ``features`` (N, width)."""
        similarity = cosines(features)
        groups = self.clusters(similarity, cells)
        relevance = torch.ones(len(features), dtype=torch.float32)
        chosen = torch.ones(int(groups.max()) + 1, dtype=torch.bool)
        if not embedded.blank:
            relevance = to_unit_range(self.relevance.scores(embedded))
            score = to_unit_range(self.score(embedded, groups))
            chosen = at_least(score, self.tau_e, scale=1.0)
            chosen[largest(score, scale=1.0)] = True
        return Routing(features, relevance, chosen[groups], groups), similarity

    def score(self, embedded: QueriesAndTokens, groups: Tensor) -> Tensor:
        """(clusters,) relevance of each cluster, not scaled."""
        count = int(groups.max()) + 1
        if self.prototype == "members":
            products = (embedded.queries @ embedded.tokens.T).amax(0)
            return products.new_full((count,), -torch.inf).scatter_reduce(0, groups, products, "amax")
        sums = embedded.tokens.new_zeros(count, embedded.tokens.shape[1]).index_add_(0, groups, embedded.tokens)
        products = embedded.queries @ normalize(sums, dim=-1).T
        return products.amax(0) if self.prototype == "max" else products.mean(0)
