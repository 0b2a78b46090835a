"""PAR's choice: clusters of tokens, those that the prompt asks for, and of their members the distinctive ones."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from thinsight.errors import nearest
from thinsight.evidence import Evidence
from thinsight.stages.clusters import Clusters
from thinsight.stages.relevance import Relevance, Sides, span
from thinsight.stages.router import Router
from thinsight.tokens import Tokens

PROTOTYPES = ("max", "mean", "members")
GRAPHS = ("x", "v")


class Routing(NamedTuple):
    """What the filter leaves for the correlate stage, all on the CPU and by row of the tokens it was shown."""

    features: Tensor
    relevance: Tensor
    candidates: Tensor
    clusters: Tensor


@dataclass(frozen=True)
class PromptAware:
    """PAR-R: our reconstruction of PAR (arXiv:2410.07278 v2), whose method section is not public.

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
        sides = self.relevance.sides(tokens, evidence)
        sides = Sides(sides.queries.cpu(), sides.tokens.cpu(), sides.blank)
        seen = tokens.states
        if self.graph == "x":
            seen = evidence.get("features")[evidence.place(tokens.index)]
        cells = evidence.cells(tokens.index) if self.clusters.rule == "window" else torch.zeros(len(tokens), 3)
        routing, similarity = self.retrieve(sides, seen.float().cpu(), cells)
        evidence.notes["routing"] = routing
        keep = None if leave is None else len(tokens) - leave
        rows = self.router(routing.relevance, similarity, routing.clusters, routing.candidates, keep)
        return tokens.rest(rows)

    def retrieve(self, sides: Sides, features: Tensor, cells: Tensor) -> tuple[Routing, Tensor]:
        """Steps B and C: what the router works on, and the similarities (N, N) of ``features`` (N, width)."""
        units = normalize(features, dim=-1)
        similarity = units @ units.T
        groups = self.clusters(similarity, cells)
        relevance, chosen = torch.ones(len(features)), torch.ones(int(groups.max()) + 1, dtype=torch.bool)
        if not sides.blank:
            relevance = span(self.relevance.of(sides))
            score = span(self.score(sides, groups))
            chosen = score >= self.tau_e
            chosen[score.argmax()] = True
        return Routing(features, relevance, chosen[groups], groups), similarity

    def score(self, sides: Sides, groups: Tensor) -> Tensor:
        """(clusters,) relevance of each cluster, not scaled."""
        count = int(groups.max()) + 1
        if self.prototype == "members":
            products = (sides.queries @ sides.tokens.T).amax(0)
            return torch.full((count,), -torch.inf).scatter_reduce(0, groups, products, "amax")
        sums = torch.zeros(count, sides.tokens.shape[1]).index_add_(0, groups, sides.tokens)
        products = sides.queries @ normalize(sums, dim=-1).T
        return products.amax(0) if self.prototype == "max" else products.mean(0)
