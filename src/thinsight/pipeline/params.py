"""params.yaml: the preset, the overrides, the tasks, the runs and the pages of the pipeline."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thinsight.config.compose import split_overrides
from thinsight.errors import UserError, nearest

NAME = re.compile(r"\w[\w.-]*")
"""A run or a page is the name of a file and of a stage."""

TAG = "tag:yaml.org,2002:"
WORDS = ("on", "off", "yes", "no", "y", "n")  # truth values in YAML 1.1, words in 1.2, which DVC reads
FLOAT = re.compile(r"[-+]?[0-9.]+e[-+]?[0-9]+", re.IGNORECASE)  # a word in YAML 1.1


@dataclass(frozen=True)
class Params:
    """What there is to run. ``overrides`` hold for every run; ``runs``: name -> its own overrides."""

    preset: str
    overrides: tuple[str, ...]
    tasks: tuple[str, ...]
    runs: Mapping[str, tuple[str, ...]]
    pages: tuple[str, ...]

    @classmethod
    def of(cls, values: "Params | Mapping[str, Any]") -> "Params":
        """The checked content of params.yaml; what is wrong with it is a `UserError` that names the key.

        Overrides are one text or a list of texts, names of tasks a text with commas or a list. An empty value stands
        for no overrides, no tasks, no pages.
        """
        if isinstance(values, cls):
            return values
        fields = tuple(cls.__dataclass_fields__)
        for key in values:
            if key not in fields:
                raise nearest("key of params.yaml", str(key), fields)
        for key in fields:
            if key not in values:
                raise UserError(f"params.yaml lacks the key {key}: it has {', '.join(fields)}.")
        preset, runs = values["preset"], values["runs"]
        if not isinstance(preset, str) or not preset:
            raise UserError(f"preset in params.yaml is the name of a file in conf/preset, not {preset!r}.")
        if not isinstance(runs, Mapping) or not runs:
            raise UserError("runs in params.yaml are lines 'NAME: overrides', at least one.")
        return cls(
            preset,
            _overrides("overrides", values["overrides"]),
            _names("tasks", values["tasks"]),
            {_name("run", run): _overrides(f"run {run}", text) for run, text in runs.items()},
            tuple(_name("page", page) for page in _names("pages", values["pages"])),
        )


def read_params(path: Path) -> Params:
    """The content of the file ``path``; what cannot be read is a `UserError` that names its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        values = _plain(yaml.compose(text, yaml.SafeLoader))
    except FileNotFoundError as error:
        raise UserError(f"no {path.name} in {path.parent}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read as UTF-8 text ({error}).") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path.name}{line} is not YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path.name} is not YAML: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path.name} is no list of keys with values.")
    return Params.of(values)


def _plain(node: yaml.Node | None) -> Any:
    """The node with every scalar as the text that is written there, and what is left empty as None."""
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"params.yaml, line {line}: a key is a text.")
            if key.value in values:
                raise UserError(f"params.yaml, line {line}: the key {key.value} is there twice.")
            if not _is_word(key):  # DVC leaves such a run out without a word
                raise UserError(f"params.yaml, line {line}: the name {key.value} is read as no text: put it in quotes.")
            values[key.value] = _plain(value)
        return values
    return None if node is None or node.tag == f"{TAG}null" else node.value


def _is_word(key: yaml.ScalarNode) -> bool:
    """Whether DVC reads the key as a text, not as a number, a date or a truth value."""
    if key.tag == f"{TAG}bool":
        return key.value.lower() in WORDS
    return key.tag == f"{TAG}str" and not (key.style is None and FLOAT.fullmatch(key.value))


def _overrides(whose: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        try:
            return tuple(split_overrides(value))
        except UserError as error:
            raise UserError(f"{whose} in params.yaml: {error}") from error
    return _texts(whose, value, "overrides")


def _names(whose: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [name.strip() for name in value.strip("[] ").split(",") if name.strip()]
    return () if value is None else _texts(whose, value, "names")


def _texts(whose: str, value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        texts = list(value)
        if all(isinstance(text, str) and text for text in texts):
            return tuple(texts)
    raise UserError(f"{whose} in params.yaml must be a text or a list of {what}, not {value!r}.")


def _name(what: str, name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"the name of a {what} in params.yaml is made of letters, digits, _, - and ., and in quotes if it could be "
            f"read as a number: not {name!r}."
        )
    return name
