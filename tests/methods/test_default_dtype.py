"""Another default type of torch changes nothing: what makes floats names their type, and every method runs the same."""

import ast

import pytest
import torch
from helpers.prompts import BATCHES

from thinsight import load_method, reduce
from thinsight.config.schema import names
from thinsight.paths import ROOT

FOLDERS = ("methods", "reduction", "runtime")
FLOATS = {"ones", "zeros", "eye", "linspace", "logspace", "empty", "rand", "randn", "normal"}
SOURCES = [file for folder in FOLDERS for file in sorted((ROOT / "src" / "thinsight" / folder).rglob("*.py"))]


def makes_floats(call: ast.Call) -> bool:
    """Whether ``torch.NAME(...)`` may make floats, as far as can be read: ``full`` and ``tensor`` may hold integers."""
    name = call.func.attr
    whole = isinstance(call.args[-1], ast.Constant | ast.UnaryOp) if call.args else False
    if name == "full":
        return not (whole and isinstance(ast.literal_eval(call.args[-1]), int))
    constants = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
    return name in FLOATS or (name == "tensor" and any(isinstance(value, float) for value in constants))


@pytest.mark.parametrize("file", SOURCES, ids=[f"{file.parent.name}/{file.name}" for file in SOURCES])
def test_floats_name_their_type(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    made = [
        call
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and makes_floats(call)
    ]
    nameless = [f"line {c.lineno}: {ast.unparse(c)}" for c in made if "dtype" not in {word.arg for word in c.keywords}]
    assert nameless == []


@pytest.mark.parametrize("name", names("method"))
def test_a_method_under_another_default(llava, name):
    method, inputs = load_method(name), BATCHES["two, padded"]
    if {"words", "text_tower"} & method.needs:
        pytest.skip("needs a tokenizer, which the tiny model lacks")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            with reduce(llava, method) as trace:
                found.append((llava(**inputs).logits, trace.kept, trace.weights))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]
