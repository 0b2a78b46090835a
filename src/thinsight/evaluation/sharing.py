"""Layers computed once for everything that enters them unchanged: budgets of a run, and methods that cut later.

Whatever a method removes, a LLaVA gives the same states below the first layer at which anything is gone, and, since
attention is causal, the same states to the columns in front of the first picture at every layer. Inside `shared_layers`

- every block of the vision tower and every decoder layer remembers the first whole input of a batch and what it made of
  it, keys and values included; the next method that comes with the same input gets that;
- every decoder layer computes the columns in front of the first picture (the system prompt) once a batch, as if they
  had come before in a cache, and then only the columns behind them.

The first is exact, the second but for the last digits; neither depends on which method comes first. A layer that a
method looks into, or changes inside, is computed each time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from thinsight.errors import UserError
from thinsight.models.families import find_parts, find_tower
from thinsight.runtime.hooks import OwnMethod, hooked_children

LIMIT = 4 * 2**30
"""Bytes that the layers of one model may remember together; beyond them layers are computed each time."""


class SharedLayers:
    """What the layers of one model remember of the present batch.

    columns  of the prompt as it came: a decoder layer remembers no other input; None until a prompt is announced
    front    how many columns stand in front of the first picture of any sample
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.used, self.columns, self.front = limit, 0, None, 0
        self.layers: list[SharedLayer] = []

    def begin(self, visual: Tensor) -> None:
        """Another batch comes: forget the one before. ``visual`` (batch, columns) bool marks its visual columns."""
        self.columns, self.used = visual.shape[1], 0
        self.front = int((visual.cumsum(1) == 0).sum(1).min())
        for layer in self.layers:
            layer.entry = layer.prefix = None


class SharedLayer(OwnMethod):
    """The forward of a block of the vision tower that remembers one input, and what came of it."""

    def __init__(self, module: nn.Module, owner: SharedLayers) -> None:
        super().__init__(module, "forward")
        self.module, self.owner = module, owner
        self.entry: tuple[tuple, dict, Any] | None = None
        self.prefix: Prefix | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if hooked_children(self.module):
            return self.method(*args, **kwargs)
        if self.entry is not None:
            known_args, known_kwargs, output = self.entry
            if not (_equal(args, known_args) and _equal(kwargs, known_kwargs)):
                return self.method(*args, **kwargs)
            return type(output)(**output) if isinstance(output, dict) else output  # callers hang fields on a dict
        output = self.method(*args, **kwargs)
        if self.claim(_bytes((args, output))):
            self.entry = args, kwargs, output
        return output

    def claim(self, size: int) -> bool:
        """Whether so many bytes more may be remembered."""
        fits = self.owner.used + size <= self.owner.limit
        self.owner.used += size if fits else 0
        return fits


@dataclass(frozen=True)
class Prefix:
    """The first columns of a prompt in one layer: what enters (batch, front, width), its rotary tables, what leaves,
    its keys and values."""

    states: Tensor
    tables: tuple[Tensor, ...]
    output: Tensor
    keys: Tensor
    values: Tensor


class SharedDecoderLayer(SharedLayer):
    """The same for a decoder layer; and the first columns of every other input are computed once."""

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache, number = kwargs.get("past_key_values"), self.module.self_attn.layer_idx
        plain = cache is None or (isinstance(cache, DynamicCache) and not cache.get_seq_length(number))
        if args or not plain or self.owner.columns is None or hooked_children(self.module):
            return self.method(hidden_states, *args, **kwargs)
        rest = {name: value for name, value in kwargs.items() if name != "past_key_values"}
        whole = hidden_states.shape[1] == self.owner.columns
        if whole and self.entry is not None and _equal(hidden_states, self.entry[0]) and _equal(rest, self.entry[1]):
            output, keys, values = self.entry[2]
            if cache is not None:
                cache.update(keys, values, number)
            return output
        cache = DynamicCache() if cache is None else cache
        output = self._behind_prefix(hidden_states, cache, number, rest)
        if whole and self.entry is None:
            made = output, cache.layers[number].keys, cache.layers[number].values
            if self.claim(_bytes((hidden_states, made))):
                self.entry = hidden_states, rest, made
        return output

    def _behind_prefix(self, states: Tensor, cache: DynamicCache, number: int, rest: dict[str, Any]) -> Tensor:
        """The layer's output, its first columns from memory; ``cache`` gets all keys and values."""
        front, mask, tables = self.owner.front, rest.get("attention_mask"), rest["position_embeddings"]
        if not 0 < front < states.shape[1] or (mask is not None and mask.dim() != 4) or "flash" in self._attention:
            return self.method(states, past_key_values=cache, **rest)
        first = tuple(table[..., :front, :] for table in tables)
        if self.prefix is None:
            own = DynamicCache()
            some = _columns(rest, slice(front), None if mask is None else mask[..., :front, :front])
            output = self.method(states[:, :front], past_key_values=own, **some)
            held = own.layers[number]
            self.prefix = Prefix(states[:, :front], first, output, held.keys, held.values)
        elif not (_equal(states[:, :front], self.prefix.states) and _equal(first, self.prefix.tables)):
            return self.method(states, past_key_values=cache, **rest)
        columns = states.shape[1]
        if mask is None:
            seen = torch.ones(columns - front, columns, dtype=torch.bool, device=states.device)
            later = seen.tril(front)[None, None].expand(len(states), -1, -1, -1)
        else:
            later = mask[..., front:, :]
        cache.update(self.prefix.keys, self.prefix.values, number)
        some = _columns(rest, slice(front, None), later)
        return torch.cat([self.prefix.output, self.method(states[:, front:], past_key_values=cache, **some)], 1)

    @property
    def _attention(self) -> str:
        return self.module.self_attn.config._attn_implementation or ""


def _columns(arguments: dict[str, Any], columns: slice, mask: Tensor | None) -> dict[str, Any]:
    """The arguments of a layer for some of its columns."""
    cut = {**arguments, "attention_mask": mask}
    cut["position_embeddings"] = tuple(table[..., columns, :] for table in arguments["position_embeddings"])
    if arguments.get("position_ids") is not None:
        cut["position_ids"] = arguments["position_ids"][..., columns]
    return cut


@contextmanager
def shared_layers(model: nn.Module, limit: int = LIMIT) -> Iterator[SharedLayers]:
    """Inside the context the vision tower and the layers of ``model`` remember (see above); announce each batch to what
    is returned (`SharedLayers.begin`). ``limit``: bytes. On leaving the model is as it was."""
    shared, parts = SharedLayers(limit), find_parts(model)
    shared.layers += [SharedDecoderLayer(layer, shared) for layer in parts.layers]
    if parts.vision is not None:
        try:
            blocks = find_tower(model).blocks
        except UserError:  # not built like CLIP: whole or not at all
            blocks = ()
        shared.layers += [SharedLayer(module, shared) for module in (parts.vision, *blocks)]
    for layer in shared.layers:
        layer.module.forward = layer
    try:
        yield shared
    finally:
        for layer in shared.layers:
            del layer.module.forward


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = value.values()
    return sum(map(_bytes, value)) if isinstance(value, tuple | list | type({}.values())) else 0
