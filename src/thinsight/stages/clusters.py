"""Visual tokens that belong together: clusters of a graph of similar ones."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from thinsight.errors import UserError, nearest

RULES = ("components", "mutual_knn", "window", "none")
MEASURES = ("cosine", "quantile")


@dataclass(frozen=True)
class Clusters:
    """PAR's step B, reconstructed: a sparse undirected graph of similar tokens and its connected components.

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
        cosines = similarity.double().cpu().numpy()
        near = cosines >= self._least(cosines)
        if self.rule == "mutual_knn":
            return _components(near & _mutual(cosines, self.neighbours))
        if self.rule == "window":
            apart = (cells[:, None] - cells[None]).abs().numpy()
            near &= (apart[..., 0] == 0) & (apart[..., 1:].max(-1) <= self.reach)
        found = _components(near)
        if self.rule == "components" and int(found.bincount().max()) > self.giant * count:
            found = _components(near & _mutual(cosines, self.neighbours))
        return found

    def _least(self, cosines: np.ndarray) -> float:
        if self.measure == "cosine":
            return self.threshold
        return float(np.quantile(cosines[np.triu_indices(len(cosines), 1)], self.threshold))


def _mutual(cosines: np.ndarray, neighbours: int) -> np.ndarray:
    """(N, N) bool: each among the other's most similar ones; ties by place."""
    others = cosines.copy()
    np.fill_diagonal(others, -np.inf)
    order = np.argsort(-others, axis=1, kind="stable")[:, :neighbours]
    mine = np.zeros(cosines.shape, dtype=bool)
    np.put_along_axis(mine, order, True, axis=1)
    return mine & mine.T


def _components(edges: np.ndarray) -> Tensor:
    """(N,) number of each node's component, counted in the order of first members."""
    _, labels = connected_components(csr_matrix(edges), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[inverse].astype(np.int64))
