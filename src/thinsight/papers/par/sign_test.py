"""The sign of a relevance: whether patches that show a thing score higher or lower for its name, on boxed scenes.

In some CLIP towers the features that LLaVA reads respond inversely to a text, so that a method which keeps the highest
products would keep what the question is not about (see `thinsight.methods.prompt_relevance`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from thinsight.analysis.prompt_awareness import training_batches
from thinsight.methods.prompt_relevance import Relevance
from thinsight.papers.par.calibration_set import record_evidence
from thinsight.pocket.questions import pair, shapes_of, unique
from thinsight.pocket.scenes import PATCH, SIDE, TEST_SEEDS, Thing, draw, sample
from thinsight.tasks.rows import Row

SIGNED = Relevance(rewriting="rules", asked=("entities",), phrase="a {}")
"""What the sign test scores patches by, in each space."""

SEEDS = range(TEST_SEEDS, TEST_SEEDS + 64)
"""Scenes of the training range."""


def sign_test(
    model: PreTrainedModel, processor: ProcessorMixin, relevance: Relevance, seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """Score, in each scene, one thing that is the only one of its colour and shape, asked for as in the task exist.

    difference  mean over scenes of (mean score inside - mean score outside the box), scores being plus cosines
    error       its standard error
    positive    share of scenes where it is above zero;  scenes  how many
    sign        1 if patches that show the thing score higher, else -1
    """
    questions = [question for seed in seeds if (question := _question(seed)) is not None]
    rows, boxes = zip(*questions, strict=True)
    batches = (inputs for _, _, inputs in training_batches(model, processor, {"exist": rows}))
    cosines = replace(relevance, sign=1)
    scores = [score.cpu() for score in record_evidence(model, batches, cosines, cosines.needs)]
    gaps = torch.stack([score[box].mean() - score[~box].mean() for score, box in zip(scores, boxes, strict=True)])
    gaps = gaps.double()
    difference, error = float(gaps.mean()), float(gaps.std() / len(gaps) ** 0.5)
    test = {"space": relevance.space, "difference": difference, "error": error}
    test |= {"positive": float((gaps > 0).double().mean()), "scenes": len(gaps)}
    return test | {"sign": 1 if difference > 0 else -1}


def inside(thing: Thing) -> Tensor:
    """(rows, columns) bool: patches whose centre lies in the box around a shape, by the largest radius of its size."""
    radius = 17.0 if thing.size == "large" else 9.5
    centre = torch.arange(SIDE // PATCH) * PATCH + PATCH / 2
    rows, columns = (centre - thing.y).abs() <= radius, (centre - thing.x).abs() <= radius
    return rows[:, None] & columns[None]


def _question(seed: int) -> tuple[Row, Tensor] | None:
    """A scene's row and the patches (patches,) bool that show the thing asked for; None without such a thing."""
    scene = sample(seed)
    things = unique(shapes_of(scene), pair)
    if not things:
        return None
    text = f"Is there a {things[0].color} {things[0].shape} in the image?"
    return Row(str(seed), draw(scene), text, "yes", "sign"), inside(things[0]).flatten()
