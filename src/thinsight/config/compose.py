"""Hydra's files and override grammar -> one checked config; what is wrong becomes one sentence.

``load_config`` composes ``conf/`` (or reads a resolved file), ``load_method`` makes a method of its yaml, and
``python -m thinsight.config OUT override...`` writes a resolved file that a pipeline stage can depend on.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from operator import getitem
from pathlib import Path
from shlex import quote
from threading import RLock
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from thinsight.config.methods import check_reductions
from thinsight.config.protocols import check_protocol
from thinsight.config.schema import (
    FOR_ALL,
    GROUPS,
    MEASURES,
    NAMED,
    POINTS,
    RANGES,
    RESERVED,
    WORDS,
    Config,
    check_name,
    names,
)
from thinsight.errors import UserError, check_utf8, nearest
from thinsight.paths import CONF


def load_config(overrides: str | Sequence[str] = (), path: str | Path | None = None) -> DictConfig:
    """Compose ``conf/`` with Hydra ``overrides``, or read the resolved file ``path`` and apply them to it.

    ``overrides``: a list, or one text of them (see `split_overrides`). Works from any directory, any number of times in
    one process, in threads, and in a program that uses Hydra itself, whose state stays as it is. Whatever is wrong with
    a name or a value is a `UserError`: one sentence, with the nearest valid name.
    """
    lines = split_overrides(overrides) if isinstance(overrides, str) else overrides
    with _hydra():
        parsed = parse(lines)
        config = compose(Config, parsed) if path is None else apply(_read(Path(path)), parsed)
    _check(config, parsed)
    return config


PIECES = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\\.|\s+|.""", re.DOTALL)
"""A quotation, an escaped sign, blanks, or another sign."""

BRACKETS = {"[": "]", "{": "}", "(": ")"}


def split_overrides(text: str) -> list[str]:
    """The overrides of a text: blanks part them, but not inside quotes or brackets.

    ``method=vtw sweep.layer=[2, 4] model.checkpoint='/data/my models/x'`` are three. Quotes stay, as Hydra reads them.
    """
    parts, closing = [""], []
    for piece in PIECES.findall(text):
        if piece.isspace() and not closing:
            parts.append("")
            continue
        if piece in BRACKETS:
            closing.append(BRACKETS[piece])
        elif closing and piece == closing[-1]:
            closing.pop()
        elif piece in "'\"":
            closing.append(piece)
            break
        parts[-1] += piece
    if closing:
        raise UserError(f"the overrides '{text}' lack a closing {closing[-1]}")
    return [part for part in parts if part]


def load_task(name: str) -> DictConfig:
    """The configuration of the task ``name``, a file in ``conf/task``."""
    return load_config([f"task={name}"]).task


def to_yaml(config: DictConfig) -> str:
    """The config as text, every value resolved; only a method's reductions, a task's functions and its suffix go on
    pointing at its fields.

    That keeps the file whole in itself and still lets a reader of it replace a field (a sweep does). Words that only
    describe (a paper, a licence, a list of deviations) are left out: a run does not depend on them.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    for group in NAMED:
        plain[group] = {key: value for key, value in plain[group].items() if key not in WORDS}
    if "reductions" in config.method:
        plain["method"]["reductions"] = OmegaConf.to_container(config.method, resolve=False)["reductions"]
    task = OmegaConf.to_container(config.task, resolve=False)
    plain["task"] |= {key: task[key] for key in ("metric", "summary", "suffix")}
    for key in ("overridden", "shard"):
        if not plain[key]:
            del plain[key]
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def _read(path: Path) -> DictConfig:
    """A resolved file under the schema."""
    if not path.is_file():
        raise UserError(f"no config at {path}: write one with `python -m thinsight.config {path} override...`")
    try:
        return OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    except Exception as error:  # yaml's and OmegaConf's own errors have no common base
        raise UserError(f"{path} is not a config: {str(error).splitlines()[0]}") from error


def _check(config: DictConfig, overrides: Sequence[Override]) -> None:
    """What the schema cannot say: names in ``tasks`` and ``sweep`` exist, every value resolves and makes sense.

    Notes in ``config.overridden`` which fields of ``config.task`` the ``overrides`` set.
    """
    try:
        if not config.tasks:
            check_protocol(config.task)  # before a suffix is looked up by it
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config does not resolve: {str(error).splitlines()[0]}") from error
    fields = {override.key_or_group.split(".")[1] for override in overrides if override.key_or_group[:5] == "task."}
    config.overridden = plain["overridden"] = sorted({*plain["overridden"], *fields})
    _check_tasks(plain, overrides)
    _check_sweep(plain["method"], plain["sweep"])
    check_reductions(plain["method"], plain["method"].get("name"))
    for key, (least, most) in RANGES.items():
        value = reduce(getitem, key.split("."), plain)
        if value is not None and not least <= value <= most:
            bound = f"most {most}" if value > most else f"least {least}"
            raise UserError(f"{key} must be at {bound}, not {value}")


def _check_tasks(plain: dict[str, Any], overrides: Sequence[Override]) -> None:
    """Every name in ``tasks`` exists, once, and no override of ``task`` is lost beside them; protocols are known."""
    tasks, fields = plain["tasks"], plain["overridden"]
    for name in tasks:
        if name not in names("task"):
            raise nearest("task", name, names("task"))
        if tasks.count(name) > 1:
            raise UserError(f"tasks names {name} twice")
    listed = f"tasks=[{','.join(tasks)}]"
    for override in overrides:
        if tasks and override.key_or_group == "task":
            raise UserError(f"{override.input_line} changes nothing beside {listed}: leave one of the two out")
    for field in fields:
        if field not in plain["task"]:
            raise nearest("field of a task", field, plain["task"])
        if len(tasks) > 1 and field not in FOR_ALL:
            raise UserError(f"task.{field} holds for one task, and {listed} names {len(tasks)}: set it in conf/task")
    if "protocol" in fields:
        for name in tasks:
            check_protocol({**load_task(name), "protocol": plain["task"]["protocol"]})


def _check_sweep(method: dict[str, Any], sweep: dict[str, list[Any]]) -> None:
    """Every swept name is a field of the method or a measure of its budget, and every list holds something."""
    name, knobs = method.get("name"), [key for key in method if key not in RESERVED]
    variants = sweep.get(POINTS, [])
    if not all(isinstance(variant, dict) for variant in variants):
        raise UserError("sweep.points is a list of fields with values, each in braces, {} for the method as it is")
    for key in [*(key for key in sweep if key != POINTS), *(key for variant in variants for key in variant)]:
        if not knobs:
            raise UserError(f"method {name} has no field to sweep, so no {key}")
        if key.split(":")[0] in MEASURES and {"keep", "layer"} & set(knobs):
            continue
        if key not in knobs:
            raise nearest(f"field to sweep in method {name}", key, knobs)
    for key, values in sweep.items():
        if not values:
            raise UserError(f"sweep.{key} is empty: give it at least one value, or leave it out")


OPEN = ("sweep", "model.processor", "model.architecture")
"""Nodes without a schema: a run names what it sweeps, a processor and a model type name their arguments."""

ERRORS = (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError, AssertionError)
"""What composing raises; the last: OmegaConf.update below a null node."""

_LOCK = RLock()  # Hydra's parser and its version are shared by all threads


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides, parsed. A swept group (``method=vtw,random``) is refused: a run has one of each."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        check_utf8(text)
        try:
            override = parser.parse_override(mark_open(text))
            if not override.key_or_group:
                raise HydraException("a value without a key")
        except HydraException as error:
            raise UserError(f"cannot read the override '{text}': write it as key=value{quoted(text)}") from error
        if override.is_sweep_override():
            raise UserError(f"'{text}' names several values: a run has one; for a list write key=[a,b]{quoted(text)}")
        if override.is_delete():
            raise UserError(f"'{text}' removes a key, and the schema is fixed: leave the override out, or give a value")
        if override.is_add() and not _is_open(override.key_or_group):
            raise UserError(f"'{text}' adds a key, and the schema is fixed: write {text.lstrip('+')}")
        if override.key_or_group in GROUPS and (option := text.partition("=")[2]) not in (
            known := names(override.key_or_group)
        ):
            raise nearest(override.key_or_group, option, known)
        parsed.append(override)
    return parsed


def compose(schema: type, overrides: list[Override]) -> DictConfig:
    """Compose ``conf/config.yaml`` under ``schema``."""
    try:
        if any(override.key_or_group.startswith("hydra") for override in overrides):
            raise HydraException("Hydra's own settings are no part of a config")
        lines = tuple(override.input_line for override in overrides)
        return copy.deepcopy(_composed(schema, lines, str(CONF), _files()))
    except ERRORS as error:
        raise _explain(schema, overrides, error) from error


def _files() -> tuple[tuple[str, bytes], ...]:
    """Every file of ``conf/`` and what it holds."""
    return tuple((str(path), path.read_bytes()) for path in sorted(CONF.rglob("*.yaml")))


@lru_cache(maxsize=64)
def _composed(schema: type, lines: tuple[str, ...], folder: str, files: tuple[tuple[str, bytes], ...]) -> DictConfig:
    """`_compose`, which takes a fifth of a second, once for the same overrides and the same ``files`` of ``folder``."""
    return _compose(schema, list(lines))


def apply(config: DictConfig, overrides: list[Override]) -> DictConfig:
    """Set the overrides on a config that was read from a file."""
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key = override.key_or_group
        if key in GROUPS:
            raise UserError(f"a resolved config cannot swap its {key}: compose a new one with {override.input_line}")
        if key not in _keys(config) and not _is_open(key):
            raise nearest("config key", key, _keys(config))
        try:
            OmegaConf.update(config, key, override.value(), merge=False, force_add=_is_open(key))
        except ERRORS as error:
            raise UserError(f"cannot set {override.input_line.lstrip('+')}: {_sentence(error)}") from error
    return config


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra's behaviour of version 1.3, for one thread at a time; afterwards whatever version the program asked for."""
    with _LOCK:
        before = VersionBase.instance().version_base
        setbase("1.3")
        try:
            yield
        finally:
            VersionBase.instance().version_base = before


def _compose(schema: type, lines: list[str]) -> DictConfig:
    """What `hydra.compose` does, without ``GlobalHydra``, of which a program has one, and with a store of our own."""
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    loader.repository.get_schema_source().store = _store(schema)
    config = loader.load_configuration("config", [*lines, "hydra.job.name=thinsight"], RunMode.RUN, from_shell=False)
    for group in NAMED:
        if not any(line.startswith(f"{group}.name=") for line in lines):
            check_name(group, config.hydra.runtime.choices[group], OmegaConf.select(config, f"{group}.name"))
    with open_dict(config):
        del config["hydra"]
    return config


@lru_cache
def _store(schema: type) -> ConfigStore:
    """``schema`` and Hydra's own node, and nothing else of the program's store: a node of the name of our file would be
    merged into it. Hydra's node goes without its groups of launchers, logs and help, which no config keeps and which
    take as long to read as all of ours."""
    store = copy.copy(ConfigStore.instance())
    store.repo = {"hydra": {"config.yaml": copy.deepcopy(store.repo["hydra"]["config.yaml"])}}
    store.repo["hydra"]["config.yaml"].node.defaults = ["_self_"]
    store.store(name="schema", node=schema)
    return store


def quoted(text: str) -> str:
    """How to write an override whose value holds signs of Hydra's grammar."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        return "; a value that holds a blank stands in quotes, key='a b'"
    value = value.replace('"', '\\"')
    whole = f'{key}="{value}"'
    return f"; a text that holds a comma, =, a bracket or a quote stands in quotes, {whole}, in a shell {quote(whole)}"


def _is_open(key: str) -> bool:
    """Whether a new key may stand there."""
    return any(key.startswith(f"{node}.") for node in OPEN)


def mark_open(text: str) -> str:
    """The override as Hydra wants it: a new key marked; ``sweep.layer=...`` is one by design."""
    return f"++{text}" if _is_open(text.partition("=")[0]) else text


def _explain(schema: type, overrides: list[Override], error: Exception) -> UserError:
    """Which override a failed composition is about: an unknown key, or a value of the wrong type."""
    groups = [override.input_line for override in overrides if override.key_or_group in GROUPS]
    try:
        keys = _keys(_compose(schema, groups))
    except ERRORS as inner:
        return UserError(f"the files in conf/ do not compose: {_sentence(inner)}")
    for override in overrides:
        key = override.key_or_group
        if key not in keys and not _is_open(key):
            return nearest("config key", key, {*keys, *GROUPS})
        try:
            _compose(schema, [*groups, override.input_line])
        except ERRORS as inner:
            return UserError(f"cannot set {override.input_line.lstrip('+')}: {_sentence(inner)}")
    return UserError(_sentence(error))


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the config, inner nodes included."""
    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            keys += _keys(node, f"{prefix}{key}.")
    return keys


def _sentence(error: BaseException) -> str:
    """The first line of the innermost cause, which is where Hydra and OmegaConf say what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0]
