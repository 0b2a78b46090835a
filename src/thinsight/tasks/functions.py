"""Functions that the yaml of a task names: where its rows come from, how an answer is scored, what scores add up to.

    metric: {_target_: thinsight.tasks.metrics.exact}
    reader: {_target_: my_package.my_module.my_reader, argument: value}

A name without dots is that of a function in the package's own module: ``task.metric=exact`` on a command line. The
scorers of benchmarks (`tasks.scorers`) go by their dotted names, which the tasks' files derive from ``task.protocol``.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import getmembers, isfunction, signature
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinsight.errors import UserError, nearest
from thinsight.tasks import scorers

FIRST = {"metric": "prediction", "summary": "records", "reader": "number", "kind": "task"}
"""The first parameter of a function by the key under which a task names it."""


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
        known = [f"{home}.{n}" if home else n for n in _functions(module, key)]
        if not home and key in ("metric", "summary"):
            benchmarks = [import_module(f"{scorers.__name__}.{found.name}") for found in iter_modules(scorers.__path__)]
            known += [f"{home.__name__}.{n}" for home in benchmarks for n in _functions(home, key)]
        raise nearest(f"{key} of task {task.name}", target, known)
    return partial(function, **arguments(task[key]))


def _functions(module: ModuleType, key: str) -> list[str]:
    """The public functions of a module that a task may name under ``key``; all of a user's if none looks like one."""
    own = [(n, f) for n, f in getmembers(module, isfunction) if f.__module__ == module.__name__ and n[0] != "_"]
    fitting = [n for n, f in own if next(iter(signature(f).parameters), "") == FIRST.get(key)]
    ours = module.__name__.startswith("thinsight.")
    return fitting if fitting or ours else [n for n, _ in own]


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
