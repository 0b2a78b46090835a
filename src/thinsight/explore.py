"""The explorer: ask one question about one picture under one method.

`Explorer` holds a model and answers; its ``panel`` is a set of widgets that ask it, for a live notebook.
"""

import html
import io
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure

from thinsight.config.catalogue import method_entry
from thinsight.config.compose import load_config, load_task
from thinsight.config.methods import load_method
from thinsight.config.schema import names
from thinsight.costs.budgets import PrefillSizes, prefill_sizes, solve_budget
from thinsight.costs.flops import decoder_shape, flops_by_convention, kv_bytes
from thinsight.errors import UserError
from thinsight.models.loading import load_model, model_config
from thinsight.reduction.method import Method
from thinsight.report.overlay import overlay, pixels
from thinsight.runtime.attach import reduce
from thinsight.runtime.trace import Trace
from thinsight.tasks.rows import Row, collate, load_rows

CONVENTION = "profiler"  # in which FLOPs are counted


@dataclass(frozen=True)
class Shown:
    """One question: the reduced model's ``answer``, the whole model's (``whole``) and the ``right`` one if known, the
    method's ``fields``, the trace of its tokens, the picture's ``pixels``, and costs as shares of the whole model's."""

    question: str
    answer: str
    whole: str
    right: str
    fields: dict[str, Any]
    trace: Trace
    pixels: list[np.ndarray]
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
        self.config = load_config()
        self.config.model = model_config(model)
        self.model, self.processor = load_model(self.config)
        self.pictures = pictures
        self.whole = load_method("identity")
        self.entry, self.task = cache(method_entry), cache(load_task)  # composing a config takes longer than an answer
        self.rows = lru_cache(maxsize=8)(lambda task, count: load_rows(self.task(task), count))
        self._asked: tuple[Row, str, Any, tuple[str, Trace]] | None = None  # the last question, its inputs, its answer

    def row(self, task: str, picture: int, question: str = "") -> Row:
        """A question of ``task``; another ``question`` about its picture has no known answer."""
        row = self.rows(task, picture + 1)[picture]
        return row if question.strip() in ("", row.question) else replace(row, question=question.strip(), answer="")

    def fields(self, method: str, keep: float | None) -> dict[str, Any]:
        """The knob that brings ``method`` to a budget: its ``keep``; else the layer whose average it is; else none.

        No budget leaves the number of tokens to a method that decides it by itself.
        """
        knobs = self.entry(method).knobs
        if "keep" in knobs:
            return {"keep": None if keep is None else float(keep)}  # 1 is the whole here, not one token
        return solve_budget(method, self.prefill, "layer_mean", keep) if "layer" in knobs else {}

    def show(self, task: str, picture: int, method: str, keep: float | None, question: str = "") -> Shown:
        """Ask, reduced by ``method`` to the share ``keep`` of the visual tokens, and whole."""
        row, settings = self.row(task, picture, question), self.task(task)
        fields = self.fields(method, keep)
        if self._asked is None or self._asked[:2] != (row, task):  # the whole model answers each question once
            inputs = collate(self.processor, [row], settings).to(self.model.device, self.model.dtype)
            self._asked = row, task, inputs, self._ask(self.whole, inputs, settings.max_new_tokens)
        _, _, inputs, (whole, plain) = self._asked
        answer, trace = self._ask(load_method(method, **fields), inputs, settings.max_new_tokens)
        shape = decoder_shape(self.model)
        counts = [
            flops_by_convention(shape, t.sequence_lengths[0], visual=t.lengths[0])[CONVENTION] for t in (trace, plain)
        ]
        cached = [kv_bytes(shape, t.sequence_lengths[0]) for t in (trace, plain)]
        costs = {"flops": counts[0] / counts[1], "kv": cached[0] / cached[1]}
        picture_pixels = pixels(inputs["pixel_values"], self.processor)
        return Shown(row.question, answer, whole, row.answer, fields, trace, picture_pixels, **costs)

    @cached_property
    def prefill(self) -> PrefillSizes:
        """The model's sizes, to find the layer that meets a budget."""
        return prefill_sizes(self.config)

    def _ask(self, method: Method, inputs: Any, longest: int) -> tuple[str, Trace]:
        with torch.inference_mode(), reduce(self.model, method) as trace:
            ids = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        text = self.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.strip(), trace

    def panel(
        self, task: str = "read", picture: int = 0, method: str = "fastv", keep: float = 0.2222
    ) -> widgets.Widget:
        """Widgets that begin there; every change of one asks again."""
        return Panel(self, task, picture, method, keep).box


class Panel:
    """Choices on top; below them the picture stage by stage (``image``), the answers and the costs (``words``)."""

    def __init__(self, explorer: Explorer, task: str, picture: int, method: str, keep: float) -> None:
        self.explorer = explorer
        on_release = {"continuous_update": False}
        self.task = widgets.Dropdown(options=names("task"), value=task, description="task")
        self.picture = widgets.IntSlider(picture, 0, explorer.pictures - 1, description="picture", **on_release)
        self.question = widgets.Text(description="question", layout={"width": "38rem"}, **on_release)
        self.method = widgets.Dropdown(options=names("method"), value=method, description="method")
        self.keep = widgets.FloatSlider(keep, min=0.02, max=1.0, step=0.0001, readout_format=".0%", **on_release)
        self.keep.description = "budget"
        self.about, self.words, self.image = widgets.HTML(), widgets.HTML(), widgets.Image(format="png")
        choices = [widgets.HBox([self.task, self.picture]), self.question, widgets.HBox([self.method, self.keep])]
        self.box = widgets.VBox([*choices, self.about, self.image, self.words])
        for widget in (self.task, self.picture):
            widget.observe(self.ask_about_picture, "value")
        for widget in (self.question, self.method, self.keep):
            widget.observe(self.ask, "value")
        self.ask_about_picture()

    def ask_about_picture(self, _: object = None) -> None:
        """Another picture, with its own question."""
        question = self.explorer.row(self.task.value, self.picture.value).question
        if question == self.question.value:
            self.ask()
        else:
            self.question.value = question  # which asks

    def ask(self, _: object = None) -> None:
        """Show what comes of the choices, or the sentence that says why nothing does."""
        name, entry = self.method.value, self.explorer.entry(self.method.value)
        self.keep.disabled = not {"keep", "layer"} & set(entry.knobs)
        self.about.value = f"<em>{html.escape(entry.about)}</em>"
        try:
            shown = self.explorer.show(self.task.value, self.picture.value, name, self.keep.value, self.question.value)
        except UserError as error:
            self.image.layout.display, self.words.value = "none", f"<strong>{html.escape(str(error))}</strong>"
            return
        file = io.BytesIO()
        shown.figure.savefig(file, dpi=130)
        self.image.layout.display, self.image.value, self.words.value = "", file.getvalue(), describe_reduction(shown)


def describe_reduction(shown: Shown) -> str:
    """Answers, tokens and costs in HTML."""
    known = f", right is <strong>{html.escape(shown.right)}</strong>" if shown.right else ""
    tokens = ", ".join(f"{count:.4g} {what}" for what, count in shown.tokens.items())
    fields = ", ".join(f"{key}={value}" for key, value in shown.fields.items()) or "no budget"
    return (
        f"Answer <strong>{html.escape(shown.answer)}</strong>; "
        f"whole model <strong>{html.escape(shown.whole)}</strong>{known}.<br>"
        f"{fields}: visual tokens {tokens}; {shown.flops:.0%} of the prefill FLOPs, {shown.kv:.0%} of the cache."
    )
