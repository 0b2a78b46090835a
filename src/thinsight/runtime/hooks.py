"""Forward pre-hooks with named arguments, layers split into halves, and the attention that a module would compute."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from thinsight.errors import UserError
from thinsight.reduction.attention import LayerAttention, rotate, split_heads


def pre_hook(module: nn.Module, function: Callable[[dict], dict | None]) -> RemovableHandle:
    """Call ``function`` with all arguments by name before each call of ``module``; it may answer with other ones."""
    names = tuple(inspect.signature(module.forward).parameters)

    def before(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        changed = function({**dict(zip(names, args, strict=False)), **kwargs})
        if changed is None:
            return None
        # transformers records the states that enter a layer as its first positional argument
        return tuple(changed.pop(name) for name in names[: len(args)]), changed

    before.owner = getattr(function, "__self__", None)
    return module.register_forward_pre_hook(before, with_kwargs=True)


def hook_owners(module: nn.Module) -> list[object]:
    """The objects whose methods listen to a module right now."""
    owners = [getattr(hook, "owner", None) for hook in module._forward_pre_hooks.values()]
    return [owner for owner in owners if owner is not None]


def split(
    block: nn.Module, names: tuple[str, str, str, str], between: Callable[[Tensor], Tensor], stack: ExitStack
) -> None:
    """Give ``block`` the forward of `halves` until ``stack`` is left. A block whose forward has been replaced already
    (by a library that moves weights between devices, say) is a `UserError`: it would be bypassed."""
    if "forward" in vars(block):
        raise UserError(
            f"the forward of this {type(block).__name__} has been replaced (device_map?), so nothing can be reduced "
            "in it: load the model on one device"
        )
    block.forward = halves(block, names, between)
    stack.callback(delattr, block, "forward")


def halves(block: nn.Module, names: tuple[str, str, str, str], between: Callable[[Tensor], Tensor]) -> Callable:
    """A forward for a pre-norm ``block`` that runs the block's own parts, with ``between`` applied between its halves:
    ``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``."""
    norm1, attention, norm2, mlp = (getattr(block, name) for name in names)
    signature = inspect.signature(block.forward)
    others = list(signature.parameters)[1:]

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        named = dict(zip(others, args, strict=False)) | kwargs
        attended = attention(hidden_states=norm1(hidden_states), **named)
        hidden_states = hidden_states + (attended[0] if isinstance(attended, tuple) else attended)
        hidden_states = between(hidden_states)
        return hidden_states + mlp(norm2(hidden_states))

    forward.__signature__ = signature  # hooks go by the names of the arguments
    return forward


def projection(attention: nn.Module, part: str, hook: object) -> RemovableHandle:
    """Call ``hook`` with the queries or keys that ``attention`` projects."""
    module = getattr(attention, f"{part[0]}_proj", None)
    if module is None or hasattr(attention, "q_norm"):
        raise UserError(
            f"{type(attention).__name__} does not make queries as Llama and CLIP do, so attention cannot be looked at"
        )
    return module.register_forward_hook(hook)


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

    def heads(projected: Tensor, turn: Sequence[Tensor]) -> Tensor:
        split_states = split_heads(projected, attention.head_dim)
        return rotate(split_states, *turn) if turn else split_states

    def queries(at: Tensor) -> Tensor:
        return heads(attention.q_proj(states[at]), [table[at] for table in tables or ()])

    keys = heads(attention.k_proj(states), tables or ())
    keys = keys.repeat_interleave(attention.q_proj.out_features // attention.k_proj.out_features, 0)
    return LayerAttention(index, queries, keys, scaling, tables is not None, bias, tables)
