"""Functions that the yaml of a task names: where its rows come from, how an answer is scored, what scores add up to.

    metric: {_target_: thinsight.tasks.metrics.exact}
    reader: {_target_: my_package.my_module.my_reader, argument: value}

A name without dots is that of a function in the package's own module: ``task.metric=exact`` on a command line.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import getmembers, isfunction
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinsight.errors import UserError, nearest


def task_function(task: DictConfig, key: str, module: ModuleType) -> Callable[..., Any]:
    """The function that ``task[key]`` names, with the arguments that stand beside its name.

    ``module``: where a name without dots is looked up. What cannot be imported is a `UserError`.
    """
    target = function_target(task[key])
    if not target:
        raise UserError(f"task {task.name} names no {key}: set task.{key}.")
    home, _, name = target.rpartition(".")
    try:
        module = import_module(home) if home else module
    except Exception as error:  # a module of the user may raise anything
        raise UserError(f"the {key} {target} of task {task.name} cannot be imported: {error}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, f in getmembers(module, isfunction) if f.__module__ == module.__name__ and n[0] != "_"]
        raise nearest(f"{key} of task {task.name}", target, [f"{home}.{n}" if home else n for n in known])
    return partial(function, **arguments(task[key]))


def function_target(node: str | DictConfig | None) -> str:
    """The name in the node of a function: dotted, or that of one of the package's own; empty where there is none."""
    return str((node.get("_target_") if isinstance(node, DictConfig) else node) or "")


def function_name(node: str | DictConfig | None) -> str:
    """The last part of that name, as a protocol card shows it."""
    return function_target(node).rpartition(".")[2]


def arguments(node: str | DictConfig | None) -> dict[str, Any]:
    """The keyword arguments in the node of a function."""
    fields = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else {}
    return {key: value for key, value in fields.items() if key != "_target_"}
