"""Layers computed once for everything that enters them unchanged: budgets of a run, and methods that cut later.

Whatever a method removes, a LLaVA gives the same states below the first layer at which anything is gone, and, since
attention is causal, the same states to the columns in front of the first picture at every layer. Inside `shared_layers`

- every block of the vision tower and every decoder layer remembers the first whole input of a batch and what it made of
  it, keys and values included; the next method that comes with the same input gets that;
- the columns in front of the first picture (the system prompt) go through the decoder once a batch, as a prompt of
  their own; of any other prompt a layer computes only the columns behind them, as if those had come before, in a cache.

The first is exact, the second but for the last digits; neither depends on which method comes first. A layer that a
method looks into, or changes inside, is computed each time. Made for ``generate``, which numbers positions by the mask.
"""

from collections.abc import Iterator, Mapping, Sequence
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

    columns    of the prompt as it came: a decoder layer remembers no other input; None until a batch is announced
    front      how many columns stand in front of the first picture of any sample
    recording  whether just these go through the decoder
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        self.model, self.limit, self.used = model, limit, 0
        self.columns: int | None = None
        self.front, self.recording = 0, False
        self.layers: list[SharedLayer] = []

    @torch.inference_mode()
    def begin(self, inputs: Mapping[str, Tensor]) -> None:
        """Another batch comes: forget the one before. ``inputs`` of the model have ids and a mask of padding."""
        ids, mask, parts = inputs["input_ids"], inputs["attention_mask"], find_parts(self.model)
        self.forget()
        self.columns = ids.shape[1]
        self.front = int(((ids == parts.image_token).cumsum(1) == 0).sum(1).min())
        if 0 < self.front < self.columns and not parts.counts_cache:  # such a model remembers its last prompt itself
            ids, mask = ids[:, : self.front], mask[:, : self.front]
            position = (mask.long().cumsum(1) - 1).masked_fill(mask == 0, 0)  # as generate numbers them
            self.recording = True
            try:
                self.model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=True, logits_to_keep=1)
            finally:
                self.recording = False

    def forget(self) -> None:
        """Let go of what was remembered; until a batch is announced every layer is computed each time."""
        self.columns, self.used, self.recording = None, 0, False
        for layer in self.layers:
            layer.entry = layer.prefix = None


class SharedLayer(OwnMethod):
    """The forward of a block of the vision tower that remembers one input, and what came of it."""

    def __init__(self, module: nn.Module, owner: SharedLayers, unread: Sequence[nn.Module] = ()) -> None:
        super().__init__(module, "forward")
        self.module, self.owner, self.unread = module, owner, unread  # children whose output nothing reads
        self.entry: tuple[tuple, dict, Any] | None = None
        self.prefix: Prefix | None = None

    @property
    def looked_into(self) -> bool:
        """Whether something listens to a part of the module, or has changed it."""
        return any(child not in self.unread for _, _, child in hooked_children(self.module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.looked_into:
            return self.method(*args, **kwargs)
        if self.entry is None:
            output = self.method(*args, **kwargs)
            if not self.claim(_bytes((args, output))):
                return output
            self.entry = args, kwargs, output
        elif not (_equal(args, self.entry[0]) and _equal(kwargs, self.entry[1])):
            return self.method(*args, **kwargs)
        output = self.entry[2]
        return type(output)(**output) if isinstance(output, dict) else output  # callers change the fields of a dict

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
    """The same for a decoder layer; and the first columns of any prompt come from memory."""

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache, number = kwargs.get("past_key_values"), self.module.self_attn.layer_idx
        fresh = cache is None or (isinstance(cache, DynamicCache) and not cache.get_seq_length(number))
        if args or not fresh or self.owner.columns is None:
            return self.method(hidden_states, *args, **kwargs)
        cache = DynamicCache() if cache is None else cache
        rest = {name: value for name, value in kwargs.items() if name != "past_key_values"}
        if self.owner.recording:
            output = self.method(hidden_states, past_key_values=cache, **rest)
            held, tables = cache.layers[number], rest["position_embeddings"]
            self.prefix = Prefix(hidden_states, tables, output, held.keys, held.values)
            return output
        looked_into = self.looked_into
        whole = not looked_into and hidden_states.shape[1] == self.owner.columns
        if whole and self.entry is not None and _equal(hidden_states, self.entry[0]) and _equal(rest, self.entry[1]):
            output, keys, values = self.entry[2]
            cache.update(keys, values, number)
            return output
        if not self._begins_alike(hidden_states, rest):
            output = self.method(hidden_states, past_key_values=cache, **rest)
        elif looked_into:
            output = self.method(hidden_states, past_key_values=cache, **rest)
            output = torch.cat([self.prefix.output, output[:, self.owner.front :]], 1)  # as the next layer knows it
        else:
            cache.update(self.prefix.keys, self.prefix.values, number)
            behind = self._behind(hidden_states, rest)
            output = torch.cat([self.prefix.output, self.method(past_key_values=cache, **behind)], 1)
        if whole and self.entry is None:
            made = output, cache.layers[number].keys, cache.layers[number].values
            if self.claim(_bytes((hidden_states, made))):
                self.entry = hidden_states, rest, made
        return output

    def _begins_alike(self, states: Tensor, rest: Mapping[str, Any]) -> bool:
        """Whether an input begins with the columns that are known, and its mask is one that can be cut."""
        front, mask = self.owner.front, rest.get("attention_mask")
        if self.prefix is None or states.shape[1] <= front or (mask is not None and mask.dim() != 4):
            return False
        if "flash" in (self.module.self_attn.config._attn_implementation or ""):
            return False
        tables = tuple(table[..., :front, :] for table in rest["position_embeddings"])
        return _equal(states[:, :front], self.prefix.states) and _equal(tables, self.prefix.tables)

    def _behind(self, states: Tensor, rest: Mapping[str, Any]) -> dict[str, Any]:
        """The layer's arguments for the columns behind the known ones."""
        front, columns, mask, position = self.owner.front, states.shape[1], rest.get("attention_mask"), "position_ids"
        behind = {**rest, "hidden_states": states[:, front:]}
        behind["position_embeddings"] = tuple(table[..., front:, :] for table in rest["position_embeddings"])
        if rest.get(position) is not None:
            behind[position] = rest[position][..., front:]
        if mask is None:
            seen = torch.ones(columns - front, columns, dtype=torch.bool, device=states.device).tril(front)
            behind["attention_mask"] = seen.expand(len(states), 1, -1, -1)
        else:
            behind["attention_mask"] = mask[..., front:, :]
        return behind


@contextmanager
def shared_layers(model: nn.Module, limit: int = LIMIT) -> Iterator[SharedLayers]:
    """Inside the context the vision tower and the layers of ``model`` remember (see above); announce each batch to what
    is returned (`SharedLayers.begin`). ``limit``: bytes. On leaving the model is as it was."""
    shared, parts = SharedLayers(model, limit), find_parts(model)
    shared.layers += [SharedDecoderLayer(layer, shared) for layer in parts.layers]
    if parts.vision is not None:
        try:
            tower = find_tower(model)
            blocks, unread = tower.blocks, tuple(tower.blocks[tower.used :])
        except UserError:  # not built like CLIP: whole or not at all
            blocks, unread = (), ()
        shared.layers += [SharedLayer(parts.vision, shared, unread), *(SharedLayer(block, shared) for block in blocks)]
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
