"""Visual-token reduction for multimodal LLMs, replicated and measured.

The public names load lazily: ``import thinsight`` touches neither torch nor transformers, so that a command line which
only reads a configuration answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinsight.config.compose import load_config
    from thinsight.config.methods import load_method
    from thinsight.models.loading import load_model
    from thinsight.runtime.attach import reduce
    from thinsight.runtime.layer_selection import select_layer

__all__ = ["load_config", "load_method", "load_model", "reduce", "select_layer"]

_HOMES = {
    "load_config": "config.compose",
    "load_method": "config.methods",
    "load_model": "models.loading",
    "reduce": "runtime.attach",
    "select_layer": "runtime.layer_selection",
}


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in when the name is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinsight' has no attribute {name!r}")
    return getattr(import_module(f"thinsight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, so that completion in a notebook shows them before their first use."""
    return sorted([*globals(), *__all__])
