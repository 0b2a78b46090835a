"""Visual-token reduction for multimodal LLMs, replicated and measured.

The public names load lazily: ``import thinsight`` touches neither torch nor transformers, so that a command line which
only reads a configuration answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinsight.attach import reduce
    from thinsight.config import load_config, load_method
    from thinsight.divergence import select_layer
    from thinsight.models import load_model

__all__ = ["load_config", "load_method", "load_model", "reduce", "select_layer"]

_HOMES = {
    "load_config": "config",
    "load_method": "config",
    "load_model": "models",
    "reduce": "attach",
    "select_layer": "divergence",
}


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in when the name is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinsight' has no attribute {name!r}")
    return getattr(import_module(f"thinsight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, so that completion in a notebook shows them before their first use."""
    return sorted([*globals(), *__all__])
