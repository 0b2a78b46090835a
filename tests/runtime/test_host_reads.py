"""Nothing is read off the device while a prompt goes through: counted without a GPU, by the calls that would wait.

The prompt itself (which columns are visual, its words) is read by the host before anything is computed, with NumPy.
"""

from collections import Counter
from functools import wraps
from pathlib import Path
from traceback import extract_stack

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from thinsight import load_method, load_model, reduce
from thinsight.config.compose import load_task
from thinsight.config.schema import names
from thinsight.models.text import QuestionReader
from thinsight.reduction import prompt, ties
from thinsight.runtime import attach
from thinsight.tasks.rows import collate, load_rows

SIZED = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave")
WAITS = {*SIZED, "item", "_local_scalar_dense", "is_nonzero", "equal"}
"""Operations whose result, or its size, the host has to know."""

FETCHES = {torch.Tensor.cpu, torch.Tensor.tolist}
"""What moves numbers to the host; on the CPU no operation is seen of it."""

HOST = [(attach, "read_prompt"), (QuestionReader, "words"), (QuestionReader, "front"), (prompt, "as_bytes")]
"""What reads the prompt on the host, before anything is computed: ids, words, and bytes that a draw depends on."""

ADAPTIVE = {"interaction": 1, "mustdrop": 1, "par": 1, "prumerge": 0, "prumerge_plus": 0, "trim": 1}


class Waits:
    """What waits, by name and by the line of the package it comes from; nothing while ``reading`` the prompt."""

    def __init__(self) -> None:
        self.found, self.reading = Counter(), False

    def note(self, name: str) -> None:
        if not self.reading:
            files = [
                frame
                for frame in extract_stack()
                if "thinsight/" in frame.filename or "transformers/" in frame.filename
            ]
            last = files[-1]
            ours = "thinsight/" in last.filename
            self.found[name, f"{Path(last.filename).name}:{last.lineno}" if ours else "transformers"] += 1

    def unnoted(self, function):
        """The same function, in which nothing is noted: it reads the prompt."""

        @wraps(function)
        def read(*args, **kwargs):
            before, self.reading = self.reading, True
            try:
                return function(*args, **kwargs)
            finally:
                self.reading = before

        return read


class Operations(TorchDispatchMode):
    """Notes operations that wait for the device."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        sized = name == "repeat_interleave" and (func._overloadname != "Tensor" or "output_size" in (kwargs or {}))
        if (name in WAITS and not sized) or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.waits.note(name)
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Notes calls that fetch numbers."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in FETCHES:
            self.waits.note(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def pocket():
    model, processor = load_model("pocket", device="cpu")
    task = load_task("count")
    return model, collate(processor, load_rows(task, 3), task)


def waiting(pocket, method, monkeypatch) -> Counter:
    """What one prefill waits for, the plain model's own waits and the reading of the prompt left out."""
    model, inputs = pocket
    monkeypatch.setattr(ties, "_at_hand", lambda values: False)  # as on another device
    plain, waits = Waits(), Waits()
    with torch.inference_mode(), Operations(plain), Calls(plain):
        model(**inputs, logits_to_keep=1)
    for owner, name in HOST:
        monkeypatch.setattr(owner, name, waits.unnoted(getattr(owner, name)))
    with torch.inference_mode(), reduce(model, method) as trace:
        with Operations(waits), Calls(waits):
            model(**inputs, logits_to_keep=1)
        assert len(trace.kept) == 3
    return waits.found - plain.found


@pytest.mark.parametrize("name", names("method"))
def test_nothing_waits(pocket, name, monkeypatch):
    fields = {"keep": 0.3333} if "keep" in load_method(name).fields else {}
    found = waiting(pocket, load_method(name, **fields), monkeypatch)
    assert not found, found
