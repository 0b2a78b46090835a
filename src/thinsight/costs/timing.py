"""Seconds on a clock: arms side by side, phase by phase, median and quartiles.

A method is compared with the plain model on its fastest attention (the headline) and on the attention that the method
itself runs with (the diagnosis). The second flatters whoever needs slow attention maps, so it is never the headline.

Arms are interleaved: in every repeat each of them runs once, so that a machine that slows down slows all of them, and a
speed-up is the median of what single repeats give. On a GPU the clock is made of events on its stream, which is waited
for after each pass.

    vision tower        the tower, with what a method does in it, without the projector
    projector           alone
    decoder             the rest of a prefill: the decoder with the first token, and all choosing in front of it
    own work            what the method's hooks and what stands between the halves of split blocks take, wherever it is
    prefill             one pass from pixels to the first token
    end to end N        ``generate`` until the N-th token is there
    decode              per token, from the first to the last one of an answer
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import GenerationConfig, PreTrainedModel

from thinsight.costs.live_bytes import Alive
from thinsight.errors import UserError
from thinsight.models.families import find_parts
from thinsight.reduction.method import Method
from thinsight.runtime.attach import reduce
from thinsight.runtime.hooks import listeners

PREFILL = ("vision tower", "projector", "decoder", "own work", "prefill")
"""The phases of a pass through the model."""

Samples = dict[str, dict[str, list[float]]]
"""Arm -> phase -> seconds, one number for each repeat."""


@dataclass(frozen=True)
class Arm:
    """One way to run the model: without any hook (``method`` None) or inside `reduce`; ``attention``: that of the
    decoder (sdpa, eager, flash_attention_2)."""

    name: str
    method: Method | None = None
    attention: str = "sdpa"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``repeats`` numbers."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Quartiles as numpy has them, between neighbours."""
        low, median, high = torch.tensor(numbers, dtype=torch.float64).quantile(
            torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        )
        return cls(float(median), float(low), float(high), len(numbers))


class DeviceClock:
    """Marks in the work of one device: events on a GPU's stream, times on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"

    def mark(self) -> Any:
        """Now, in the order of the work."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Until all that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks that are reached."""
        return start.elapsed_time(end) / 1000 if self.cuda else end - start


class FlopClock(DeviceClock):
    """Marks in FLOPs in place of seconds, two for each multiply-add: those of matrix products, convolutions and torch's
    own attention, as it counts them inside ``counter``."""

    def __init__(self) -> None:
        on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}  # torch leaves it out
        self.counter, self.cuda = FlopCounterMode(display=False, custom_mapping=on_cpu), False

    def mark(self) -> int:
        """So many until now."""
        return self.counter.get_total_flops()


def _attention_flops(queries: torch.Size, keys: torch.Size, values: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(queries, keys, values)


def prefill_flops(model: PreTrainedModel, method: Method, inputs: Mapping[str, Any]) -> dict[str, int]:
    """FLOPs of one pass under ``method`` (see `FlopClock`), in three parts.

    vision   all in front of the decoder, tower and projector, less for what has left there
    choice   what the method computes to choose and to merge, wherever that is
    decoder  its layers, and the head on the last row
    """
    clock, decoder = FlopClock(), []
    with torch.inference_mode(), reduce(model, method), watched(model, clock) as spans, ExitStack() as stack:
        _watch(find_parts(model).decoder, clock, decoder, stack, whole=True)
        with clock.counter:
            whole = _prefill(model, inputs, clock)
    own, (start, _) = spans["own work"], decoder[0]
    choice = sum(last - first for first, last in own)
    vision = start - sum(last - first for first, last in own if last <= start)
    return {"vision": vision, "choice": choice, "decoder": whole - vision - choice}


def plain_and(method: Method, attention: str, fastest: str) -> list[Arm]:
    """The arms that a method is held against, the headline first; the second is left out where it is the same."""
    arms = [Arm(f"plain, {fastest}", attention=fastest)]
    if attention != fastest:
        arms.append(Arm(f"plain, {attention}", attention=attention))
    return [*arms, Arm(method.name, method, attention)]


def interleaved(
    model: PreTrainedModel,
    arms: Sequence[Arm],
    inputs: Mapping[str, Any],
    *,
    answers: Sequence[int] = (),
    repeats: int = 5,
    seconds: float = float("inf"),
    projector: nn.Module | None = None,
) -> Samples:
    """Each arm once to warm up, then ``repeats`` rounds of all arms in their order, fewer when ``seconds`` are over.

    answers    lengths of answer, forced: "end to end N" for each, and "decode" from two tokens on; none: prefill only
    projector  the module that is the phase of that name; None: it counts as what stands around it
    """
    if any(length < 1 for length in answers):
        raise UserError(f"an answer has at least one token, not {min(answers)}")
    if repeats < 1:
        raise UserError(f"at least one repeat is needed, not {repeats}")
    end, samples = time.monotonic() + seconds, {arm.name: defaultdict(list) for arm in arms}
    for repeat in range(-1, repeats):
        if repeat > 0 and time.monotonic() > end:
            break
        for arm in arms:
            for phase, taken in time_pass(model, arm, inputs, answers, projector).items():
                if repeat >= 0:
                    samples[arm.name][phase].append(taken)
    return samples


def time_pass(
    model: PreTrainedModel,
    arm: Arm,
    inputs: Mapping[str, Any],
    answers: Sequence[int] = (),
    projector: nn.Module | None = None,
) -> dict[str, float]:
    """Seconds of every phase, each once."""
    clock = DeviceClock(model.device)
    with torch.inference_mode(), running(model, arm):
        if clock.cuda:  # events take time of their own, so phases are told apart in another pass
            whole = _prefill(model, inputs, clock)
        with watched(model, clock, projector) as spans:
            watched_whole = _prefill(model, inputs, clock)
        found = {name: sum(clock.seconds(*span) for span in marks) for name, marks in spans.items()}
        if _inside(model, projector):  # Qwen-VL's merger
            found["vision tower"] -= found["projector"]
        found["decoder"] = watched_whole - found["vision tower"] - found["projector"]
        found["prefill"] = whole if clock.cuda else watched_whole
        if answers:
            found |= _answer(model, inputs, sorted(answers), clock)
    return found


def speedups(samples: Samples, against: str, arm: str) -> dict[str, Spread]:
    """Phase -> how many times faster ``arm`` is than the arm ``against``: repeat by repeat."""
    pairs = {phase: zip(samples[against][phase], taken, strict=True) for phase, taken in samples[arm].items()}
    return {phase: Spread.of([a / b for a, b in both]) for phase, both in pairs.items() if phase != "own work"}


def peak_bytes(model: PreTrainedModel, arm: Arm, inputs: Mapping[str, Any]) -> int:
    """The most bytes besides weights and inputs during a prefill, its cache included: the allocator's on a GPU; on a
    CPU, where torch has none that counts, those of tensors that are alive at once."""
    with torch.inference_mode(), running(model, arm):
        model(**inputs, use_cache=True, logits_to_keep=1)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
            torch.cuda.reset_peak_memory_stats(model.device)
            before = torch.cuda.memory_allocated(model.device)
            model(**inputs, use_cache=True, logits_to_keep=1)
            torch.cuda.synchronize(model.device)
            return torch.cuda.max_memory_allocated(model.device) - before
        with Alive() as alive:
            model(**inputs, use_cache=True, logits_to_keep=1)
        return alive.peak


def fastest_attention(model: PreTrainedModel, inputs: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of ``names``, unless a plain prefill is faster by 5 % on another; what cannot run is passed over."""
    taken = {}
    for name in names:
        try:
            taken[name] = min(time_pass(model, Arm(name, attention=name), inputs)["prefill"] for _ in range(3))
        except (ImportError, OSError, RuntimeError, ValueError):  # of transformers and kernels that are not there
            continue
    if not taken:
        raise UserError(f"the model runs on none of the attentions {', '.join(names)} here")
    first, fastest = next(iter(taken)), min(taken, key=taken.get)
    return fastest if taken[fastest] < 0.95 * taken[first] else first


@contextmanager
def running(model: PreTrainedModel, arm: Arm) -> Iterator[Any]:
    """Inside the context the model runs as ``arm`` says; the trace of its method, if it has one, is handed on."""
    with _attention(model, arm.attention), nullcontext() if arm.method is None else reduce(model, arm.method) as trace:
        yield trace


@contextmanager
def watched(
    model: PreTrainedModel, clock: DeviceClock, projector: nn.Module | None = None
) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Phase -> marks where each of its spans begins and ends, of "vision tower", "projector" and "own work".

    To be entered inside `running`. What one hook calls that another listens to counts once.
    """
    spans: dict[str, list[tuple[Any, Any]]] = {"vision tower": [], "projector": [], "own work": []}
    with ExitStack() as stack:
        tower = find_parts(model).vision
        if tower is not None:
            _watch(tower, clock, spans["vision tower"], stack, whole=True)
        if projector is not None:
            _watch(projector, clock, spans["projector"], stack)
        body: list[None] = []  # not empty inside the body of a hook
        for listener in listeners(model):
            function, listener.function = listener.function, _timed(listener.function, clock, spans["own work"], body)
            stack.callback(setattr, listener, "function", function)
        yield spans


def _inside(model: nn.Module, projector: nn.Module | None) -> bool:
    """Whether the projector is a part of the tower."""
    tower = find_parts(model).vision
    return tower is not None and projector is not None and any(module is projector for module in tower.modules())


def _watch(
    module: nn.Module, clock: DeviceClock, spans: list[tuple[Any, Any]], stack: ExitStack, whole: bool = False
) -> None:
    """Note when ``module`` runs: ``whole`` with the hooks of a method on it, else without them."""
    began: list[Any] = []

    def before(*_: Any) -> None:
        began.append(clock.mark())

    def after(*_: Any) -> None:
        spans.append((began.pop(), clock.mark()))

    stack.callback(module.register_forward_pre_hook(before, prepend=whole).remove)
    stack.callback(module.register_forward_hook(after, prepend=not whole).remove)


def _timed(function: Callable, clock: DeviceClock, spans: list[tuple[Any, Any]], body: list[None]) -> Callable:
    def call(*args: Any) -> Any:
        if body:
            return function(*args)
        body.append(None)
        start = clock.mark()
        try:
            return function(*args)
        finally:
            spans.append((start, clock.mark()))
            body.pop()

    return call


def _prefill(model: PreTrainedModel, inputs: Mapping[str, Any], clock: DeviceClock) -> float:
    clock.wait()
    start = clock.mark()
    model(**inputs, use_cache=True, logits_to_keep=1)
    end = clock.mark()
    clock.wait()
    return clock.seconds(start, end)


def _answer(
    model: PreTrainedModel, inputs: Mapping[str, Any], answers: Sequence[int], clock: DeviceClock
) -> dict[str, float]:
    """One call of ``generate`` for the longest of ``answers``; a token is there when the next one is begun."""
    parts, longest = find_parts(model), answers[-1]
    exact = GenerationConfig(
        max_new_tokens=longest, min_new_tokens=longest, do_sample=False, pad_token_id=0,
        eos_token_id=model.generation_config.eos_token_id,
        suppress_tokens=None if parts.image_token is None else [parts.image_token],
    )  # fmt: skip
    begun: list[Any] = []
    handle = parts.decoder.register_forward_pre_hook(lambda *_: begun.append(clock.mark()), prepend=True)
    try:
        clock.wait()
        start = clock.mark()
        model.generate(**inputs, generation_config=exact)
        end = clock.mark()
        clock.wait()
    finally:
        handle.remove()
    if len(begun) != longest:
        raise UserError(f"{longest} tokens took {len(begun)} passes through the decoder, so they cannot be told apart")
    done = [*begun[1:], end]
    found = {f"end to end {n}": clock.seconds(start, done[n - 1]) for n in answers}
    if longest > 1:
        found["decode"] = clock.seconds(done[0], done[-1]) / (longest - 1)
    return found


@contextmanager
def _attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run the decoder on another attention implementation for a while."""
    before = model.config.get_text_config()._attn_implementation
    try:
        if name != before:
            model.set_attn_implementation({"text_config": name})
        yield
    finally:
        if name != before:
            model.set_attn_implementation({"text_config": before})
