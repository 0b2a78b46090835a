"""Ways of generating, each run inside ``reduce`` and compared with greedy decoding by the same method."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from queue import Queue

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, QuantizedCache

from helpers.model_family import IMAGE, VIDEO
from thinsight import reduce
from thinsight.reduction.method import Method

GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE, VIDEO], "max_new_tokens": 3}
DETAILS = {"output_logits": True, "return_dict_in_generate": True}
CLOSE = {"atol": 1e-4, "rtol": 0}


@dataclass
class Trial:
    """One method on one model: ``inputs`` are two prompts with padding, ``single`` is the first one alone."""

    model: nn.Module
    method: Method
    inputs: dict[str, Tensor]
    single: dict[str, Tensor]
    assistant: nn.Module

    def generate(self, inputs: dict[str, Tensor] | None = None, **options: object) -> tuple:
        """(generated ids, logits of the first step, kept) inside ``reduce``."""
        inputs = self.inputs if inputs is None else inputs
        with reduce(self.model, self.method) as trace:
            out = self.model.generate(**inputs, **{**GREEDY, **DETAILS, **options})
        return out.sequences[:, inputs["input_ids"].shape[1] :], out.logits[0], trace.kept

    @cached_property
    def greedy(self) -> tuple:
        """What greedy decoding of both gives."""
        return self.generate()

    @cached_property
    def greedy_single(self) -> tuple:
        """What greedy decoding of the first one gives."""
        return self.generate(self.single)

    def forward(self, model: nn.Module | None = None) -> Tensor:
        """(batch, vocabulary) logits after the prompts."""
        with torch.no_grad():
            model = self.model if model is None else model
            return model(**self.inputs, logits_to_keep=1).logits[:, 0]

    @cached_property
    def expected(self) -> Tensor:
        """The same inside ``reduce``."""
        with reduce(self.model, self.method):
            return self.forward()


def equal(out: tuple, expected: tuple, repeats: int = 1, ids: bool = True) -> None:
    """``out`` is what was expected, every sample ``repeats`` times."""
    torch.testing.assert_close(out[1], expected[1].repeat_interleave(repeats, 0), **CLOSE)
    assert out[2] == [kept for kept in expected[2] for _ in range(repeats)]
    if ids:
        assert torch.equal(out[0], expected[0])


def sampling(trial: Trial) -> None:
    equal(trial.generate(do_sample=True), trial.greedy, ids=False)


def beams(trial: Trial) -> None:
    out = trial.generate(num_beams=2)
    equal(out, trial.greedy, repeats=2, ids=False)
    # a beam's score is the sum of its log-probabilities: recompute it token by token along the best beam
    with reduce(trial.model, trial.method):
        full = trial.model.generate(**trial.inputs, **{**GREEDY, **DETAILS}, num_beams=2, output_scores=True)
    steps = trial.model.compute_transition_scores(full.sequences, full.scores, full.beam_indices)
    torch.testing.assert_close(steps.sum(1) / GREEDY["max_new_tokens"], full.sequences_scores, **CLOSE)
    torch.testing.assert_close(steps, forced(trial, full.sequences), **CLOSE)


def forced(trial: Trial, sequences: Tensor) -> Tensor:
    """(batch, new) log-probabilities of generated tokens, each fed by hand into a cache."""
    prompt, mask, scores = trial.inputs["input_ids"].shape[1], trial.inputs["attention_mask"], []
    with reduce(trial.model, trial.method), torch.no_grad():
        out = trial.model(**trial.inputs, **numbers(trial, mask, mask.shape[1]), use_cache=True)
        for token in sequences[:, prompt:].T:
            scores.append(out.logits[:, -1].float().log_softmax(-1).gather(1, token[:, None]))
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = step(trial, token[:, None], mask, out.past_key_values)
    return torch.cat(scores, 1)


def numbers(trial: Trial, mask: Tensor, new: int) -> dict[str, Tensor]:
    """Positions of the last ``new`` columns as generate makes them."""
    position, deltas = (mask.cumsum(1) - 1).clamp(min=0)[:, -new:], getattr(trial.model.model, "rope_deltas", None)
    if not hasattr(trial.model.model, "rope_deltas"):
        return {"position_ids": position}
    if new == mask.shape[1]:
        return {}  # Qwen-VL counts the prompt along three axes by itself
    return {"position_ids": (position + deltas[: len(position)]).expand(3, -1, -1)}


def step(trial: Trial, ids: Tensor, mask: Tensor, cache: DynamicCache):
    """One more call of the model on a cache."""
    return trial.model(input_ids=ids, attention_mask=mask, past_key_values=cache, **numbers(trial, mask, ids.shape[1]))


def returns(trial: Trial) -> None:
    equal(trial.generate(do_sample=True, num_return_sequences=3), trial.greedy, repeats=3, ids=False)


def assisted(trial: Trial) -> None:
    equal(trial.generate(trial.single, assistant_model=trial.assistant), trial.greedy_single)


def prompt_lookup(trial: Trial) -> None:
    class Wrong:  # drafts that are never right, so that all of them are taken back
        requires_model_outputs = False

        def get_candidates(self, ids: Tensor) -> tuple:
            return torch.cat([ids, torch.full((1, 3), trial.model.config.text_config.bos_token_id)], 1), None

        def update_candidate_strategy(self, *_) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trial.model), "_get_candidate_generator", lambda *_, **__: Wrong())
        equal(trial.generate(trial.single, prompt_lookup_num_tokens=3), trial.greedy_single)


def no_cache(trial: Trial) -> None:
    equal(trial.generate(use_cache=False), trial.greedy)


def static_cache(trial: Trial) -> None:
    equal(trial.generate(cache_implementation="static"), trial.greedy)


def quantised_cache(trial: Trial) -> None:
    cache = QuantizedCache("fp8", trial.model.config.text_config)
    equal(trial.generate(past_key_values=cache), trial.greedy, ids=False)


def chunked_prefill(trial: Trial) -> None:
    ids, logits, _ = trial.generate(prefill_chunk_size=8)
    equal((ids, logits, trial.greedy[2]), trial.greedy)  # the places are those of the first part


def cached_turn(trial: Trial, change: Callable, rows: int = 1) -> None:
    """A turn of three tokens on a cache that ``change`` has done something to, against the same turn on the cache."""
    ids = torch.arange(3)[None] + VIDEO + 5
    mask = torch.ones(1, trial.single["input_ids"].shape[1] + 3, dtype=torch.long)
    with reduce(trial.model, trial.method), torch.no_grad():
        first, second = (trial.model(**trial.single, use_cache=True).past_key_values for _ in range(2))
        expected = step(trial, ids, mask, first).logits
        cache = change(second, lambda cache: step(trial, ids, mask, cache))
        out = step(trial, ids.expand(rows, -1), mask.expand(rows, -1), cache).logits
    torch.testing.assert_close(out, expected.expand(rows, -1, -1), **CLOSE)


def cache_continued(trial: Trial) -> None:
    """Fed token by token by hand, as greedy decoding goes."""
    sequence = torch.cat([trial.inputs["input_ids"], trial.greedy[0]], 1)
    with reduce(trial.model, trial.method):
        out = trial.model.generate(**trial.inputs, **{**GREEDY, **DETAILS})
    expected = torch.stack(out.logits, 1).log_softmax(-1).gather(2, trial.greedy[0][..., None])[..., 0]
    torch.testing.assert_close(forced(trial, sequence), expected, **CLOSE)


def cache_copied(trial: Trial) -> None:
    def change(cache, turn):
        copied = copy.deepcopy(cache)
        turn(cache)
        return copied

    cached_turn(trial, change)


def cache_cropped(trial: Trial) -> None:
    def change(cache, turn):
        turn(cache)
        cache.crop(-3)
        return cache

    cached_turn(trial, change)


def cache_repeated(trial: Trial) -> None:
    def change(cache, turn):
        cache.batch_repeat_interleave(3)
        return cache

    cached_turn(trial, change, rows=3)


def cache_outside(trial: Trial) -> None:
    with reduce(trial.model, trial.method), torch.no_grad():
        cache = trial.model(**trial.single, use_cache=True).past_key_values
    with torch.no_grad():
        trial.model(input_ids=torch.tensor([[VIDEO + 5]]), past_key_values=cache)


class Words(Queue):
    """A streamer that hands tokens on as ids."""

    end = staticmethod(lambda: None)


def streaming(trial: Trial) -> None:
    words = Words()
    with reduce(trial.model, trial.method):
        options = {**trial.single, **GREEDY, "streamer": words}
        thread = threading.Thread(target=trial.model.generate, kwargs=options)
        thread.start()
        thread.join()
    ids = torch.cat([words.get().flatten() for _ in range(words.qsize())])
    assert torch.equal(ids[-GREEDY["max_new_tokens"] :], trial.greedy_single[0][0])


def streaming_on(trial: Trial) -> None:
    """The context is left while a thread generates."""
    begun, left, failed = threading.Event(), threading.Event(), []

    class Slow(Words):
        def put(self, value: Tensor) -> None:
            if value.numel() == 1:  # not the prompt: the first step is done
                begun.set()
                left.wait(10)

    def work() -> None:
        try:
            trial.model.generate(**trial.single, **GREEDY, streamer=Slow())
        except Exception as error:
            failed.append(error)
        finally:
            begun.set()

    with reduce(trial.model, trial.method):
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait(10)
    left.set()
    thread.join()
    for error in failed:
        raise error


def threads(trial: Trial) -> None:
    out: dict[int, Tensor] = {}

    def work(number: int) -> None:
        out[number] = trial.model.generate(**(trial.inputs if number % 2 else trial.single), **GREEDY)

    with reduce(trial.model, trial.method):
        workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(out) == 3
    for number, ids in out.items():
        expected, _, _ = trial.greedy if number % 2 else trial.greedy_single
        assert torch.equal(ids[:, -GREEDY["max_new_tokens"] :], expected)


def compiled_before(trial: Trial) -> None:
    compiled, expected = torch.compile(trial.model, backend="eager"), trial.expected
    trial.forward(compiled)
    with reduce(trial.model, trial.method):
        torch.testing.assert_close(trial.forward(compiled), expected, **CLOSE)


def compiled_inside(trial: Trial) -> None:
    expected = trial.expected
    with reduce(trial.model, trial.method):
        compiled = torch.compile(trial.model, backend="eager")
        torch.testing.assert_close(trial.forward(compiled), expected, **CLOSE)


def autocast(trial: Trial) -> None:
    with torch.autocast("cpu", torch.bfloat16), reduce(trial.model, trial.method) as trace:
        logits = trial.forward()
    assert logits.isfinite().all()
    assert len(trace.kept) == len(logits)


def default_dtype(trial: Trial) -> None:
    expected = trial.expected
    torch.set_default_dtype(torch.bfloat16)
    try:
        with reduce(trial.model, trial.method):
            logits = trial.forward()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(logits, expected, **CLOSE)


def gradients(trial: Trial) -> None:
    with reduce(trial.model, trial.method), torch.enable_grad():
        logits = trial.model(**trial.inputs, logits_to_keep=1).logits[:, 0]
    torch.testing.assert_close(logits.detach(), trial.expected, **CLOSE)


def train_mode(trial: Trial) -> None:
    trial.model.train()
    try:
        trial.generate()
    finally:
        trial.model.eval()


def model_copied(trial: Trial) -> None:
    expected = trial.expected
    with reduce(trial.model, trial.method):
        other = copy.deepcopy(trial.model)
        assert torch.equal(trial.forward(other), trial.forward(trial.assistant))
        with reduce(other, trial.method):
            torch.testing.assert_close(trial.forward(other), expected, **CLOSE)


FEATURES = {
    "sampling": ("`do_sample=True`: the first step's logits of greedy decoding", sampling),
    "beams": ("`num_beams=2`: the same logits and places for each beam, scores that add up token by token", beams),
    "several returns": ("`num_return_sequences=3`: the same logits and places for each", returns),
    "assisted": ("`assistant_model=` a copy: greedy decoding's answer", assisted),
    "assisted, all drafts wrong": ("drafts that are all taken back: greedy decoding's answer", prompt_lookup),
    "no cache": ("`use_cache=False`: greedy decoding's answer, the same places at every step", no_cache),
    "static cache": ('`cache_implementation="static"`: greedy decoding\'s answer', static_cache),
    "quantised cache": ('`QuantizedCache("fp8")`: the first step\'s logits', quantised_cache),
    "chunked prefill": ("`prefill_chunk_size=8`", chunked_prefill),
    "cache, continued inside": ("tokens fed by hand: greedy decoding's probabilities", cache_continued),
    "cache, deep-copied": ("a turn on the copy: what it gives on the original", cache_copied),
    "cache, cropped": ("a turn taken back by `crop(-3)` and made again", cache_cropped),
    "cache, repeated": ("`batch_repeat_interleave(3)`: the same turn in three rows", cache_repeated),
    "cache, continued outside": ("the context has been left", cache_outside),
    "streaming thread": ("inside the context: greedy decoding's answer", streaming),
    "streaming thread that goes on": ("the context is left while it generates", streaming_on),
    "three threads": ("two kinds of prompts at once: greedy decoding's answers", threads),
    "compiled before": ("`torch.compile`, called, then `reduce`: the reduced logits, uncompiled", compiled_before),
    "compiled inside": ("`torch.compile` inside the context: the reduced logits, uncompiled", compiled_inside),
    "autocast": ("bfloat16: finite logits", autocast),
    "default dtype": ("`torch.set_default_dtype(torch.bfloat16)`: the same logits", default_dtype),
    "gradients on": ("outside `no_grad`: the same logits", gradients),
    "train mode": ("`model.train()`", train_mode),
    "model deep-copied inside": ("the copy is the plain model, and can be reduced by itself", model_copied),
}
"""Name -> what is called and has to come out, and the function that tries it."""
