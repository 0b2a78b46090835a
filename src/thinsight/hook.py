"""Forward pre-hooks that see every argument by its name."""

import inspect
from collections.abc import Callable

from torch import nn
from torch.utils.hooks import RemovableHandle


def listen(module: nn.Module, function: Callable[[dict], dict | None]) -> RemovableHandle:
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


def listeners(module: nn.Module) -> list[object]:
    """The objects whose methods listen to a module right now."""
    owners = [getattr(hook, "owner", None) for hook in module._forward_pre_hooks.values()]
    return [owner for owner in owners if owner is not None]
