"""Hooks with named arguments, replaced methods, layers split into halves, and the attention that a module would make.

None of them goes along when a module is copied or pickled: the copy is the plain module.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thinsight.errors import UserError
from thinsight.reduction.attention import LayerAttention, rotate, split_heads
from thinsight.reduction.sources import take_at


def deaf(*_: Any, **__: Any) -> None:
    """What a `Listener` is in a copied module: nothing."""


def _deaf() -> Callable:
    return deaf


class Listener:
    """A hook that a copied or pickled module does not keep. ``owner``: the object that it belongs to."""

    def __init__(self, function: Callable, owner: object = None) -> None:
        self.function, self.owner = function, owner

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __deepcopy__(self, memo: dict) -> Callable:
        return deaf

    def __reduce__(self) -> tuple:
        return _deaf, ()


class Replacement:
    """A method of one module put in the place of its own, until it is removed; a copied module has its own again."""

    def __init__(self, module: nn.Module, name: str, function: Callable) -> None:
        self.module, self.name, self.before = module, name, vars(module).get(name)
        wraps(getattr(module, name))(self)  # hooks and transformers go by the names of the arguments
        self.function = function
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def remove(self) -> None:
        """Put the module's own method back."""
        delattr(self.module, self.name)
        if self.before is not None:
            setattr(self.module, self.name, self.before)

    def __deepcopy__(self, memo: dict) -> "OwnMethod":
        return OwnMethod(memo[id(self.module)], self.name)

    def __reduce__(self) -> tuple:
        return OwnMethod, (self.module, self.name)


class OwnMethod:
    """The method of a module's class, where a `Replacement` stood in the module that it was copied from."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.method = MethodType(getattr(type(module), name), module)
        wraps(self.method)(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.method(*args, **kwargs)


def pre_hook(module: nn.Module, function: Callable[[dict], dict | None]) -> RemovableHandle:
    """Call ``function`` with all arguments by name before each call of ``module``; it may answer with other ones."""
    names = tuple(inspect.signature(module.forward).parameters)

    def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        changed = function({**dict(zip(names, args, strict=False)), **kwargs})
        if changed is None:
            return None
        # transformers records the states that enter a layer as its first positional argument
        return tuple(changed.pop(name) for name in names[: len(args)]), changed

    owner = getattr(function, "__self__", None)
    return module.register_forward_pre_hook(Listener(before, owner), with_kwargs=True)


def post_hook(module: nn.Module, function: Callable) -> RemovableHandle:
    """Call ``function`` with (module, positional arguments, output) after each call of ``module``."""
    return module.register_forward_hook(Listener(function))


def hook_owners(module: nn.Module) -> list[object]:
    """The objects whose methods listen to a module right now."""
    owners = [getattr(hook, "owner", None) for hook in module._forward_pre_hooks.values()]
    return [owner for owner in owners if owner is not None]


def listeners(model: nn.Module) -> list[Listener]:
    """All that listens inside ``model`` right now: hooks, and what stands between the halves of split blocks."""
    found = []
    for module in model.modules():
        found += [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        found.append(getattr(vars(module).get("forward"), "between", None))
    return [hook for hook in found if isinstance(hook, Listener)]


def hooked_children(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, child) of every module below ``model`` that something listens to or whose forward is replaced."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(vars(child).get("forward"), Replacement)
        or any(isinstance(h, Listener) for h in (*child._forward_pre_hooks.values(), *child._forward_hooks.values()))
    ]


def split(
    block: nn.Module, names: tuple[str, str, str, str], between: Callable[[Tensor], Tensor], stack: ExitStack
) -> None:
    """Give ``block`` the forward of `halves` until ``stack`` is left. A block whose forward has been replaced already
    (by a library that moves weights between devices, say) is a `UserError`: it would be bypassed."""
    if not isinstance(vars(block).get("forward"), OwnMethod | None):
        raise UserError(
            f"the forward of this {type(block).__name__} has been replaced (device_map?), so nothing can be reduced "
            "in it: load the model on one device"
        )
    listener = Listener(between)
    replacement = Replacement(block, "forward", halves(block, names, listener))
    replacement.between = listener
    stack.callback(replacement.remove)


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast inside: selection and merging choose their own dtypes."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if _autocast(kind) else nullcontext()


def as_called(function: Callable, device: torch.device) -> Callable:
    """``function`` under the autocast that holds now, wherever it is called: parts of the model stay in it."""
    kind = device.type
    if not _autocast(kind):
        return function
    dtype = torch.get_autocast_dtype(kind)

    def call(*args: Any) -> Any:
        with torch.autocast(kind, dtype=dtype):
            return function(*args)

    return call


def _autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def halves(block: nn.Module, names: tuple[str, str, str, str], between: Callable[[Tensor], Tensor]) -> Callable:
    """A forward for a pre-norm ``block`` that runs the block's own parts, with ``between`` applied between its halves:
    ``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``."""
    norm1, attention, norm2, mlp = (getattr(block, name) for name in names)
    others = list(inspect.signature(block.forward).parameters)[1:]

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        named = dict(zip(others, args, strict=False)) | kwargs
        attended = attention(hidden_states=norm1(hidden_states), **named)
        hidden_states = hidden_states + (attended[0] if isinstance(attended, tuple) else attended)
        hidden_states = between(hidden_states)
        return hidden_states + mlp(norm2(hidden_states))

    return forward


def projection(attention: nn.Module, part: str, hook: Callable) -> RemovableHandle:
    """Call ``hook`` with the queries or keys that ``attention`` projects."""
    module = getattr(attention, f"{part[0]}_proj", None)
    if module is None or hasattr(attention, "q_norm"):
        raise UserError(
            f"{type(attention).__name__} does not make queries as Llama and CLIP do, so attention cannot be looked at"
        )
    return post_hook(module, hook)


def project_attention(
    attention: nn.Module,
    states: Tensor,
    index: Tensor,
    scaling: float,
    bias: Tensor | None = None,
    tables: tuple[Tensor, Tensor] | None = None,
) -> LayerAttention:
    """Queries and keys that ``attention`` would make of normed ``states`` (tokens, width); see `LayerAttention`.

    ``tables``: cosines and sines of the rotation, in a decoder, whose attention is causal; None in a vision tower.
    """

    query, key = (as_called(part, states.device) for part in (attention.q_proj, attention.k_proj))

    def heads(projected: Tensor, turn: Sequence[Tensor]) -> Tensor:
        split_states = split_heads(projected, attention.head_dim)
        return rotate(split_states, *(table[..., None, :, :] for table in turn)) if turn else split_states

    def queries(at: Tensor) -> Tensor:
        return heads(query(take_at(states, at)), [take_at(table, at) for table in tables or ()])

    keys = heads(key(states), tables or ())
    keys = keys.repeat_interleave(attention.q_proj.out_features // attention.k_proj.out_features, -3)
    return LayerAttention(index, queries, keys, scaling, tables is not None, bias, tables)
