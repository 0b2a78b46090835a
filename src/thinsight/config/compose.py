"""Hydra's files and override grammar -> one checked config; what is wrong becomes one sentence.

``load_config`` composes ``conf/`` (or reads a resolved file), ``load_method`` makes a method of its yaml, and
``python -m thinsight.config OUT override...`` writes a resolved file that a pipeline stage can depend on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinsight.config.methods import check_reductions
from thinsight.config.protocols import check_protocol
from thinsight.config.schema import GROUPS, MEASURES, POINTS, RESERVED, WORDS, Config, names
from thinsight.errors import UserError, nearest
from thinsight.paths import CONF


def load_config(overrides: Sequence[str] = (), path: str | Path | None = None) -> DictConfig:
    """Compose ``conf/`` with Hydra ``overrides``, or read the resolved file ``path`` and apply them to it.

    Works from any directory and any number of times in one process. Whatever is wrong with a name or a value is a
    `UserError`: one sentence, with the nearest valid name.
    """
    parsed = parse(overrides)
    config = compose(Config, parsed) if path is None else apply(_read(Path(path)), parsed)
    _check(config)
    return config


def load_task(name: str) -> DictConfig:
    """The configuration of the task ``name``, a file in ``conf/task``."""
    return load_config([f"task={name}"]).task


def to_yaml(config: DictConfig) -> str:
    """The config as text, every value resolved; only a method's reductions and a task's functions go on pointing at
    its fields.

    That keeps the file whole in itself and still lets a reader of it replace a field (a sweep does). Words that only
    describe (a paper, a licence, a list of deviations) are left out: a run does not depend on them.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    for group in ("method", "model", "task"):
        plain[group] = {key: value for key, value in plain[group].items() if key not in WORDS}
    if "reductions" in config.method:
        plain["method"]["reductions"] = OmegaConf.to_container(config.method, resolve=False)["reductions"]
    task = OmegaConf.to_container(config.task, resolve=False)
    plain["task"] |= {key: task[key] for key in ("metric", "summary")}
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def _read(path: Path) -> DictConfig:
    """A resolved file under the schema."""
    if not path.is_file():
        raise UserError(f"no config at {path}: write one with `python -m thinsight.config {path} override...`")
    try:
        return OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    except Exception as error:  # yaml's and OmegaConf's own errors have no common base
        raise UserError(f"{path} is not a config: {str(error).splitlines()[0]}") from error


def _check(config: DictConfig) -> None:
    """What the schema cannot say: names in ``tasks`` and ``sweep`` exist, every value resolves and makes sense."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config does not resolve: {str(error).splitlines()[0]}") from error
    for name in plain["tasks"]:
        if name not in names("task"):
            raise nearest("task", name, names("task"))
    check_protocol(plain["task"], plain["tasks"])
    _check_sweep(plain["method"], plain["sweep"])
    check_reductions(plain["method"], plain["method"].get("name"))
    for key, least in {"limit": 1, "batch_size": 1, "text_tokens": 0, "seed": 0}.items():
        if plain[key] is not None and plain[key] < least:
            raise UserError(f"{key} must be at least {least}, not {plain[key]}")


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

ERRORS = (HydraException, OmegaConfBaseException, AssertionError)  # the last: OmegaConf.update below a null node


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides, parsed. A swept group (``method=vtw,random``) is refused: a run has one of each."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            override = parser.parse_override(_mark(text))
        except HydraException as error:
            raise UserError(f"cannot read the override '{text}': write it as key=value") from error
        if override.is_sweep_override():
            raise UserError(f"'{text}' names several values: a run has one; for a list write key=[a,b]")
        if override.is_delete() or (override.is_add() and not _is_open(override.key_or_group)):
            raise UserError(f"'{text}' adds or removes a key: the schema is fixed, so write {text.lstrip('+~')}")
        if override.key_or_group in GROUPS and (option := text.partition("=")[2]) not in (
            known := names(override.key_or_group)
        ):
            raise nearest(override.key_or_group, option, known)
        parsed.append(override)
    return parsed


def compose(schema: type, overrides: list[Override]) -> DictConfig:
    """Compose ``conf/config.yaml`` under ``schema``."""
    ConfigStore.instance().store(name="schema", node=schema)
    try:
        if any(override.key_or_group.startswith("hydra") for override in overrides):
            raise HydraException("Hydra's own settings are no part of a config")
        return _compose([override.input_line for override in overrides])
    except ERRORS as error:
        raise _explain(overrides, error) from error


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


def _compose(lines: list[str]) -> DictConfig:
    with initialize_config_dir(str(Path(CONF)), version_base="1.3"):
        return hydra_compose("config", lines)


def _is_open(key: str) -> bool:
    """Whether a new key may stand there."""
    return any(key.startswith(f"{node}.") for node in OPEN)


def _mark(text: str) -> str:
    """Hydra wants a new key marked; ``sweep.layer=...`` is one by design."""
    return f"++{text}" if _is_open(text.partition("=")[0]) else text


def _explain(overrides: list[Override], error: Exception) -> UserError:
    """Which override a failed composition is about: an unknown key, or a value of the wrong type."""
    groups = [override.input_line for override in overrides if override.key_or_group in GROUPS]
    try:
        keys = _keys(_compose(groups))
    except ERRORS as inner:
        return UserError(f"the files in conf/ do not compose: {_sentence(inner)}")
    for override in overrides:
        key = override.key_or_group
        if key not in keys and not _is_open(key):
            return nearest("config key", key, {*keys, *GROUPS})
        try:
            _compose([*groups, override.input_line])
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
