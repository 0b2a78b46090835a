"""A picture, a question, a method and a budget: which patches stay, what the model answers, and what that costs.

`Explorer` holds a model and answers; its ``panel`` are widgets that ask it, for a live notebook.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from thinsight.attach import reduce
from thinsight.catalogue import entry
from thinsight.config import load_config, load_method, load_task
from thinsight.cost import kv_bytes, ledger
from thinsight.meta import decoder_shape
from thinsight.models import load_model
from thinsight.plots import overlay
from thinsight.reduction import Method
from thinsight.solve import solve, stage_of
from thinsight.tasks import Row, collate, load_task_rows
from thinsight.trace import Trace

if TYPE_CHECKING:
    from ipywidgets import Widget

CONVENTION = "profiler"


@dataclass(frozen=True)
class Shown:
    """What came of one question: the ``answer`` and the unreduced model's (``whole``), the ``right`` one if known, the
    method's ``fields``, what happened to the tokens, and costs as shares of the whole model's."""

    question: str
    answer: str
    whole: str
    right: str
    fields: dict[str, Any]
    trace: Trace
    pixels: torch.Tensor
    flops: float
    kv: float

    @property
    def tokens(self) -> dict[str, float]:
        """Visual tokens: in the prompt, entering a layer on average, and in the end."""
        lengths, count = self.trace.lengths[0], sum(self.trace.pictures[0])
        return {"picture": count, "layer mean": sum(lengths) / len(lengths), "kept": len(self.trace.kept[0])}

    @property
    def figure(self) -> Figure:
        """The picture, and what every stage left of it."""
        return overlay(self.pixels, self.trace, question=self.question, answer=self.answer)


class Explorer:
    """A model, and questions of the tasks to begin with."""

    def __init__(self, model: str = "pocket", pictures: int = 40) -> None:
        self.config = load_config([f"model={model}"])
        self.model, self.processor = load_model(self.config)
        self.pictures = pictures
        self.whole = load_method("identity")
        self.entry, self.task = cache(entry), cache(load_task)  # composing a config takes longer than an answer

    def row(self, task: str, picture: int, question: str = "") -> Row:
        """A question of ``task``; another ``question`` about its picture has no known answer."""
        row = load_task_rows(self.task(task), picture + 1)[picture]
        return row if question.strip() in ("", row.question) else replace(row, question=question.strip(), answer="")

    def fields(self, method: str, keep: float) -> dict[str, Any]:
        """The knob that brings ``method`` to a budget: its ``keep``; else the layer whose average it is; else none."""
        knobs = self.entry(method).knobs
        if "keep" in knobs:
            return {"keep": keep}
        return solve(method, self.stage, "layer_mean", keep) if "layer" in knobs else {}

    def show(self, task: str, picture: int, method: str, keep: float, question: str = "") -> Shown:
        """Ask, reduced by ``method`` to the share ``keep`` of the visual tokens, and whole."""
        row, settings = self.row(task, picture, question), self.task(task)
        inputs = collate(self.processor, [row], settings).to(self.model.device, self.model.dtype)
        fields = self.fields(method, keep)
        whole, plain = self._ask(self.whole, inputs, settings.max_new_tokens)
        answer, trace = self._ask(load_method(method, **fields), inputs, settings.max_new_tokens)
        shape = decoder_shape(self.model)
        counts = [ledger(shape, t.sequence_lengths[0], visual=t.lengths[0])[CONVENTION] for t in (trace, plain)]
        cached = [kv_bytes(shape, t.sequence_lengths[0]) for t in (trace, plain)]
        costs = {"flops": counts[0] / counts[1], "kv": cached[0] / cached[1]}
        return Shown(row.question, answer, whole, row.answer, fields, trace, inputs["pixel_values"], **costs)

    @cached_property
    def stage(self) -> Any:
        """The model's sizes, for methods that are given a layer."""
        return stage_of(self.config)

    def _ask(self, method: Method, inputs: Any, longest: int) -> tuple[str, Trace]:
        with torch.inference_mode(), reduce(self.model, method) as trace:
            ids = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        said = self.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return said.strip(), trace

    def panel(self, task: str = "read", picture: int = 0, method: str = "fastv", keep: float = 0.2222) -> "Widget":
        """Widgets that begin there; every change of one asks again."""
        from thinsight.panel import Panel

        return Panel(self, task, picture, method, keep).box
