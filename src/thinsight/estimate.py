"""Bytes, FLOPs and hours of a run that has not started, from shapes and schedules."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from thinsight.budgets import Budget
from thinsight.conventions import PROFILER_LAST
from thinsight.cost import decode_steps, flops, kv_bytes
from thinsight.errors import UserError
from thinsight.models import torch_dtype
from thinsight.sharing import shareable
from thinsight.solve import Stage, measured, play

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Estimate:
    """What there is to do, in sizes.

    stage    sizes of the model and of a prompt;  lengths  tokens entering each decoder layer, under each budget
    tasks    (rows, most tokens of an answer) of each task
    weights  parameters;  vision  FLOPs of one picture in front of the decoder;  looks  how often each is looked at
    batch    rows at a time;  element  bytes of a number
    """

    stage: Stage
    lengths: Sequence[Sequence[int]]
    tasks: Sequence[tuple[int, int]]
    weights: int
    vision: int
    looks: int
    batch: int
    element: int

    @classmethod
    def of(
        cls, config: DictConfig, model: "nn.Module", points: Sequence[Budget], tasks: Sequence[tuple[DictConfig, int]]
    ) -> "Estimate":
        """Of a config, its model on the meta device, its budgets and its tasks with their rows."""
        from thinsight.meta import tower_flops
        from thinsight.picture import largest

        stage = measured(model, config)
        return cls(
            stage=stage,
            lengths=[_lengths(point, stage) for point in points],
            tasks=[(rows, task.max_new_tokens) for task, rows in tasks],
            weights=sum(p.numel() for p in model.parameters()),
            vision=sum(tower_flops(model, largest(model.config, config.model.processor)).values()),
            looks=1 if shareable([point.method for point in points]) else len(points),
            batch=config.batch_size,
            element=torch_dtype(config.model.dtype).itemsize,
        )

    @cached_property
    def rows(self) -> int:
        """Of all tasks."""
        return sum(rows for rows, _ in self.tasks)

    def need(self) -> dict[str, float]:
        """Gigabytes of memory; of activations those of one decoder layer for one batch, unreduced."""
        shape, tokens = self.stage.shape, self.stage.total + self.stage.text
        longest = max(most for _, most in self.tasks)
        weights = self.weights * self.element
        cache = self.batch * kv_bytes(shape, [tokens] * self.stage.depth, longest, self.element)
        states = self.batch * tokens * (3 * shape.ffn + 6 * shape.width) * self.element
        parts = {"weights": weights, "kv_cache": cache, "activations": states, "memory": weights + cache + states}
        return {f"{name}_gb": _short(size / 1e9) for name, size in parts.items()}

    def take(self, tflops: float) -> dict[str, Any]:
        """Answers, tokens, petaFLOP and hours at ``tflops`` teraFLOP per second."""
        prefill = self.rows * sum(self._flops(lengths) for lengths in self.lengths)
        whole = sum(rows * self._flops(lengths, most) for rows, most in self.tasks for lengths in self.lengths)
        vision = self.rows * self.looks * self.vision
        counts = {"prefill": prefill, "vision": vision, "decoding_at_most": whole - prefill}
        return {
            "rows": self.rows,
            "answers": self.rows * len(self.lengths),
            "generated_tokens_at_most": sum(rows * most for rows, most in self.tasks) * len(self.lengths),
            "pflop": {name: _short(count / 1e15) for name, count in counts.items()},
            "pflop_at_most": _short((whole + vision) / 1e15),
            "hours_at_most": _short((whole + vision) / (tflops * 1e12) / 3600),
        }

    def _flops(self, lengths: Sequence[int], tokens: int = 1) -> int:
        return flops(self.stage.shape, lengths, PROFILER_LAST, steps=decode_steps(lengths, tokens))


def assumptions(config: DictConfig, tflops: float) -> list[str]:
    """What the numbers of an `Estimate` take for granted, in sentences."""
    return [
        f"the device sustains {tflops:g} TFLOP/s (--tflops): not measured, so hours are a guess",
        f"prompts have {config.text_tokens} tokens of text (text_tokens), pictures are the largest that there are",
        "every answer takes all the tokens that it may; most end after a few",
        f"FLOPs are counted as {PROFILER_LAST.name} does: {PROFILER_LAST.sentence}",
        "activations are those of one decoder layer for one batch; what a method computes to choose is not counted",
    ]


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def _lengths(point: Budget, stage: Stage) -> list[int]:
    """Tokens entering each decoder layer; of a method that decides that by the picture, those of the whole model."""
    try:
        visual = play(point.method, stage).visual
    except UserError:
        visual = [stage.total] * stage.depth
    return [n + stage.text for n in visual]
