"""Seconds on a clock, for benchmarks: three arms, phase by phase, median and quartiles.

A method is compared with the plain model on its fastest attention (the headline) and on the attention that the method
itself runs with (the diagnosis). The second flatters whoever needs slow attention maps, so it is never the headline.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer
from transformers import GenerationConfig, PreTrainedModel

from thinsight.errors import UserError
from thinsight.reduction.method import Method
from thinsight.runtime.attach import reduce

PLAIN = Method("identity")


@dataclass(frozen=True)
class Timing:
    """Seconds of one phase in one arm: ``median`` and inter-quartile range ``iqr`` over ``repeats`` blocks of calls."""

    arm: str
    phase: str
    median: float
    iqr: float
    repeats: int


def time_phases(
    model: PreTrainedModel,
    method: Method,
    inputs: Mapping[str, Any],
    *,
    fastest: str = "sdpa",
    generated: Sequence[int] = (1, 32),
    seconds: float = 2.0,
) -> list[Timing]:
    """Time the plain model on ``fastest`` attention, the plain model as it is, and ``method``, on the same ``inputs``.

    Phases: "vision" (tower and projector), "prefill" (one forward pass, first token), "end to end N" for each number of
    ``generated`` tokens (forced to that length), and "decode" (per token, from the shortest and the longest of them;
    its iqr is that of the difference). ``seconds``: least measuring time of each.
    """
    if len(generated) < 2 or min(generated) < 1:
        raise UserError("time at least two lengths of answer, each of one token or more: their difference is decoding.")
    present = model.config.get_text_config()._attn_implementation
    arms = [(f"plain, {kind}", PLAIN, kind) for kind in (fastest, present)] + [(method.name, method, present)]
    return [timing for arm in arms for timing in _phases(model, *arm, inputs, sorted(generated), seconds)]


def _phases(
    model: PreTrainedModel,
    arm: str,
    method: Method,
    attention: str,
    inputs: Mapping[str, Any],
    generated: Sequence[int],
    seconds: float,
) -> Iterator[Timing]:
    def vision() -> None:
        model.get_image_features(pixel_values=inputs["pixel_values"])

    def prefill() -> None:
        model(**inputs, use_cache=True, logits_to_keep=1)

    def answer(tokens: int) -> Callable[[], None]:
        exact = GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0,
            eos_token_id=model.generation_config.eos_token_id,
        )  # fmt: skip
        return lambda: model.generate(**inputs, generation_config=exact)

    with torch.inference_mode(), _attention(model, attention), reduce(model, method):
        yield time_once(arm, "vision", vision, seconds)
        yield time_once(arm, "prefill", prefill, seconds)
        whole = [time_once(arm, f"end to end {n}", answer(n), seconds) for n in generated]
    yield from whole
    first, last, steps = whole[0], whole[-1], generated[-1] - generated[0]
    spread = (first.iqr**2 + last.iqr**2) ** 0.5
    yield Timing(arm, "decode", (last.median - first.median) / steps, spread / steps, min(first.repeats, last.repeats))


def time_once(arm: str, phase: str, call: Callable[[], None], seconds: float) -> Timing:
    """Time ``call`` for at least ``seconds`` after one call to warm up; a GPU is waited for."""
    call()
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=seconds)
    return Timing(arm, phase, measured.median, measured.iqr, len(measured.times))


@contextmanager
def _attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run the decoder on another attention implementation for a while."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": name})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})
