"""Exploring on the model in the box: choices come through, mistakes are a sentence."""

import io

import pytest
import torch
from PIL import Image

from thinsight import load_method, reduce
from thinsight.config.compose import load_task
from thinsight.config.schema import names
from thinsight.explore import Explorer, Panel
from thinsight.tasks.rows import collate, load_rows


@pytest.fixture(scope="module")
def explorer():
    torch.set_num_threads(1)
    return Explorer("pocket", pictures=5)


def test_the_answer_is_the_reduced_models(explorer):
    shown = explorer.show("read", 2, "fastv", 0.25)
    task = load_task("read")
    row = load_rows(task, 3)[2]
    inputs = collate(explorer.processor, [row], task)
    with reduce(explorer.model, load_method("fastv", keep=0.25)) as trace:
        ids = explorer.model.generate(**inputs, max_new_tokens=task.max_new_tokens, do_sample=False)
    said = explorer.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert shown.answer == said.strip()
    assert shown.trace.kept == trace.kept
    assert (shown.question, shown.right) == (row.question, row.answer)
    assert shown.tokens["picture"] == 144
    assert shown.tokens["kept"] == 36
    assert 0 < shown.flops < 1
    assert len(shown.figure.axes) == 2


def test_nothing_is_saved_where_nothing_leaves(explorer):
    shown = explorer.show("exist", 0, "identity", 0.5)
    assert (shown.flops, shown.kv, shown.answer) == (1, 1, shown.whole)


def test_a_budget_goes_to_the_methods_own_knob(explorer):
    assert explorer.fields("fastv", 0.25) == {"keep": 0.25}
    assert isinstance(explorer.fields("fastv", 1)["keep"], float)  # papermill gives 1 for 1.0: all tokens, not one
    assert explorer.fields("par", None) == {"keep": None}
    assert explorer.fields("vtw", 0.5) == {"layer": 6}
    assert explorer.fields("blind", 0.5) == {}


def test_another_question_has_no_known_answer(explorer):
    assert explorer.row("read", 1).answer
    asked = explorer.row("read", 1, " What is it? ")
    assert (asked.question, asked.answer) == ("What is it?", "")
    assert explorer.row("read", 1, explorer.row("read", 1).question).answer


def test_the_panel_follows_every_choice(explorer):
    panel = Panel(explorer, "read", 2, "fastv", 0.25)
    assert explorer.entry("fastv").about in panel.about.value
    first, size = panel.image.value, Image.open(io.BytesIO(panel.image.value)).size
    assert "keep=0.25" in panel.words.value
    assert "right is" in panel.words.value
    panel.keep.value = 0.5
    assert "keep=0.5" in panel.words.value
    assert panel.image.value != first
    panel.method.value = "ficoco_v"
    assert Image.open(io.BytesIO(panel.image.value)).size > size  # more stages
    panel.question.value = "How many stars are there?"
    assert "right is" not in panel.words.value
    panel.picture.value = 3
    assert panel.question.value == explorer.row("read", 3).question
    panel.task.value = "count"
    assert panel.question.value == explorer.row("count", 3).question
    panel.method.value = "blind"
    assert panel.keep.disabled
    assert "no budget" in panel.words.value
    assert list(panel.method.options) == names("method")


def test_what_cannot_be_done_is_said(explorer):
    panel = Panel(explorer, "read", 2, "fastv", 0.25)
    panel.question.value = f"What is {explorer.processor.image_token}?"
    assert panel.image.layout.display == "none"
    assert "<strong>" in panel.words.value
    panel.picture.value = 1
    assert panel.image.layout.display != "none"
