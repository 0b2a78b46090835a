"""The sign of a relevance: whether patches that show a thing score higher or lower for its name, on boxed scenes.

In some CLIP towers the features that LLaVA reads respond inversely to a text, so that a method which keeps the highest
products would keep what the question is not about (see `thinsight.methods.prompt_relevance`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import Tensor

from thinsight.methods.prompt_relevance import Relevance
from thinsight.papers.par.calibration_set import record_evidence
from thinsight.pocket.questions import pair, shapes_of, unique
from thinsight.pocket.scenes import PATCH, SIDE, TEST_SEEDS, Thing, draw, sample
from thinsight.tasks.rows import Row, collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

SIGNED = Relevance(rewriting="rules", asked=("entities",), phrase="a {}")
"""What the sign test scores patches by, in each space."""

SEEDS = range(TEST_SEEDS, TEST_SEEDS + 64)
"""Scenes of the training range."""


@dataclass(frozen=True)
class SignTest:
    """What the test found in one space.

    difference  mean over scenes of (mean score inside - mean score outside the box), scores being plus cosines
    error       its standard error
    positive    share of scenes where it is above zero
    scenes      how many
    """

    space: str
    difference: float
    error: float
    positive: float
    scenes: int

    @property
    def sign(self) -> int:
        """1 if patches that show the thing score higher, else -1."""
        return 1 if self.difference > 0 else -1

    def plain(self) -> dict:
        """As plain data."""
        return asdict(self) | {"sign": self.sign}


def sign_test(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    relevance: Relevance,
    task: DictConfig,
    seeds: Sequence[int] = SEEDS,
) -> SignTest:
    """Score, in each scene, one thing that is the only one of its colour and shape, asked for as in the task exist."""
    questions = [question for seed in seeds if (question := _question(seed)) is not None]
    batches = [
        collate(processor, [row for row, _ in questions[start : start + 32]], task).to(model.device, model.dtype)
        for start in range(0, len(questions), 32)
    ]
    cosines = replace(relevance, sign=1)
    scores = record_evidence(model, batches, cosines, cosines.needs)
    gaps = torch.stack([_gap(score.cpu(), box) for score, (_, box) in zip(scores, questions, strict=True)]).double()
    error = float(gaps.std() / len(gaps) ** 0.5)
    return SignTest(relevance.space, float(gaps.mean()), error, float((gaps > 0).double().mean()), len(gaps))


def inside(thing: Thing) -> Tensor:
    """(rows, columns) bool: patches whose centre lies in the box around a shape, by the largest radius of its size."""
    radius = 17.0 if thing.size == "large" else 9.5
    centre = torch.arange(SIDE // PATCH) * PATCH + PATCH / 2
    rows, columns = (centre - thing.y).abs() <= radius, (centre - thing.x).abs() <= radius
    return rows[:, None] & columns[None]


def _question(seed: int) -> tuple[Row, Tensor] | None:
    scene = sample(seed)
    things = unique(shapes_of(scene), pair)
    if not things:
        return None
    text = f"Is there a {things[0].color} {things[0].shape} in the image?"
    return Row(str(seed), draw(scene), text, "yes", "sign"), inside(things[0]).flatten()


def _gap(score: Tensor, box: Tensor) -> Tensor:
    return score[box].mean() - score[~box].mean()
