"""Nothing is read off the device while a prompt goes through: counted without a GPU, by the calls that would wait.

The prompt itself (which columns are visual, its words) is read by the host before anything is computed, with NumPy.
"""

from collections import Counter
from functools import cache, wraps
from pathlib import Path
from traceback import extract_stack

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from thinsight import load_method, load_model, reduce
from thinsight.config.compose import load_task
from thinsight.config.schema import names
from thinsight.models.text import QuestionReader
from thinsight.reduction import prompt, ties
from thinsight.runtime import attach
from thinsight.runtime.decoder import DecoderState
from thinsight.tasks.rows import collate, load_rows

SIZED = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave")
TORCH = str(Path(torch.__file__).parent)
WAITS = {*SIZED, "item", "_local_scalar_dense", "is_nonzero", "equal"}
"""Operations whose result, or its size, the host has to know."""

FETCHES = {torch.Tensor.cpu, torch.Tensor.tolist}
"""What moves numbers to the host; on the CPU no operation is seen of it. (NumPy takes tensors of the host only.)"""

HOST = [(attach, "read_prompt"), (QuestionReader, "words"), (QuestionReader, "front"), (prompt, "as_bytes")]
"""What reads the prompt on the host, before anything is computed: ids, words, and bytes that a draw depends on."""

BUDGETED = [name for name in names("method") if "keep" in load_method(name).fields]
OPEN = {"interaction": 1, "mustdrop": 5, "par": 1, "prumerge": 1, "trim": 1}
"""Methods that find out by themselves how many leave, and their places: so often one sample may be asked for it."""

DEPENDS = {"mustdrop": 1, "par": 3, "vtw_random_tokens": 3}
"""How often those ask that do so under a fixed budget: MustDrop once for the windows of all pictures; PAR, whose graph
is SciPy's, once a sample for all that it works on; a draw among text and patches once a sample: how many are text."""


class Waits:
    """What waits, by name and by the line of the package it comes from; nothing while ``reading`` the prompt."""

    def __init__(self) -> None:
        self.found, self.reading = Counter(), False

    def note(self, name: str) -> None:
        if self.reading:
            return
        frames = [frame for frame in extract_stack() if not frame.filename.startswith((TORCH, __file__))]
        last = frames[-1]
        if "transformers/" not in last.filename:  # which looks at its masks in the plain model, too
            self.found[name, f"{Path(last.filename).name}:{last.lineno}"] += 1

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
    return load_model("pocket", device="cpu")


@pytest.fixture(scope="module")
def questions(pocket):
    """So many samples as one batch."""
    task = load_task("count")
    return cache(lambda samples: collate(pocket[1], load_rows(task, samples), task))


def waiting(pocket, questions, method, monkeypatch, samples=3) -> Counter:
    """What one prefill waits for, the plain model's own waits and the reading of the prompt left out."""
    model, inputs = pocket[0], questions(samples)
    monkeypatch.setattr(ties, "_at_hand", lambda values: False)  # as on another device
    waits = Waits()
    for owner, name in HOST:
        monkeypatch.setattr(owner, name, waits.unnoted(getattr(owner, name)))
    with torch.inference_mode(), reduce(model, method) as trace:
        with Operations(waits), Calls(waits):
            model(**inputs, logits_to_keep=1)
        assert len(trace.kept) == samples
    return waits.found


@pytest.mark.parametrize("name", names("method"))
def test_fixed_budgets(pocket, questions, name, monkeypatch):
    method = load_method(name, **({"keep": 0.3333} if name in BUDGETED else {}))
    found = waiting(pocket, questions, method, monkeypatch)
    if name == "par":  # goes on on the host
        found = Counter({key: n for key, n in found.items() if key[0] == "cpu"})
    assert found.total() == DEPENDS.get(name, 0), found


@pytest.mark.parametrize("name", OPEN)
def test_open_budgets(pocket, questions, name, monkeypatch):
    found = waiting(pocket, questions, load_method(name, keep=None), monkeypatch, samples=1)
    if name == "par":
        found = Counter({key: n for key, n in found.items() if key[0] == "cpu"})
    assert found.total() <= OPEN[name], found


def test_what_is_counted():
    """Each kind of waiting is seen, and a rank or a gather is none."""
    values, waits = torch.rand(2, 9), Waits()
    with Operations(waits), Calls(waits):
        for wait in (
            lambda: int(values.sum()),
            lambda: bool(values.any()),
            values.nonzero,
            lambda: values[values > 0.5],
        ):
            before = waits.found.total()
            wait()
            assert waits.found.total() > before
        before = waits.found.total()
        values.cpu()
        values.tolist()
        assert waits.found.total() == before + 2
        values.gather(1, values.argsort(dim=1)[:, :3])
        assert waits.found.total() == before + 2


@pytest.mark.parametrize("name", names("method"))
def test_decoder_methods_without_data(name, monkeypatch):
    """On the meta device there is nothing to read, and no mixing with the host's tensors."""
    method, own = load_method(name), DecoderState.__init__
    if method.before_projector or {"words", "text_tower", "features"} & method.needs or name == "vtw_random_tokens":
        pytest.skip("acts elsewhere, reads words, or asks how many of a draw are text")

    def there(self, method, prompt, depth, start, trace):
        start.device = "meta"
        own(self, method, prompt, depth, start, trace)

    monkeypatch.setattr(DecoderState, "__init__", there)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=8, num_attention_heads=4, vocab_size=101
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    visual = torch.zeros(3, 30, dtype=torch.bool)
    visual[:, 4:20] = True
    with torch.inference_mode(), reduce(model, method, visual=visual) as trace:
        model(inputs_embeds=torch.empty(3, 30, 32, device="meta"))
    assert all(len(lengths) == 8 for lengths in trace.lengths)
    if method.reductions:
        assert trace.lengths[0][-1] < 16
