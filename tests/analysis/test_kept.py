"""Choices without what the model does after them."""

import pytest
import torch

import thinsight
from thinsight.analysis.kept import kept_patches, layers_needed
from thinsight.config.compose import load_task
from thinsight.models.families import find_parts
from thinsight.tasks.rows import collate, load_rows

FIELDS = {
    "visionzip": {"keep": 32}, "tome": {"keep": 32}, "par": {"keep": 32}, "fastv": {"keep": 32},
    "pyramiddrop": {"keep": 0.2222}, "ficoco_l": {"keep": 32}, "vtw": {"layer": 4}, "identity": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def pocket():
    model, processor = thinsight.load_model("pocket", device="cpu")
    task = load_task("read")
    return model, collate(processor, load_rows(task, 2), task)


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_kept_is_what_a_whole_pass_keeps(pocket, name):
    model, inputs = pocket
    method = thinsight.load_method(name, **FIELDS[name])
    with torch.inference_mode():
        before = model(**inputs, logits_to_keep=1).logits
        with thinsight.reduce(model, method) as trace:
            model(**inputs, logits_to_keep=1)
        assert kept_patches(model, method, inputs) == trace.kept
        assert torch.equal(model(**inputs, logits_to_keep=1).logits, before)  # nothing is left on the model


def test_the_decoder_runs_as_far_as_the_choice(pocket):
    model, inputs = pocket
    ran = []
    layers = find_parts(model).layers
    handles = [layer.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, layer in enumerate(layers)]
    for name, most in {"par": 0, "fastv": 3, "ficoco_l": len(layers)}.items():
        method = thinsight.load_method(name, **FIELDS[name])
        ran.clear()
        kept_patches(model, method, inputs)
        assert len(ran) == layers_needed(method, len(layers)) == most
    for handle in handles:
        handle.remove()
