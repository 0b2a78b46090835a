"""Hydra's override grammar, with its errors turned into one sentence each."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinsight import config as conf
from thinsight.errors import UserError, nearest

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
        if override.key_or_group in conf.GROUPS and (option := text.partition("=")[2]) not in (
            known := conf.names(override.key_or_group)
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
        if key in conf.GROUPS:
            raise UserError(f"a resolved config cannot swap its {key}: compose a new one with {override.input_line}")
        if key not in _keys(config) and not _is_open(key):
            raise nearest("config key", key, _keys(config))
        try:
            OmegaConf.update(config, key, override.value(), merge=False, force_add=_is_open(key))
        except ERRORS as error:
            raise UserError(f"cannot set {override.input_line.lstrip('+')}: {_sentence(error)}") from error
    return config


def _compose(lines: list[str]) -> DictConfig:
    with initialize_config_dir(str(Path(conf.CONF)), version_base="1.3"):
        return hydra_compose("config", lines)


def _is_open(key: str) -> bool:
    """Whether a new key may stand there."""
    return any(key.startswith(f"{node}.") for node in OPEN)


def _mark(text: str) -> str:
    """Hydra wants a new key marked; ``sweep.layer=...`` is one by design."""
    return f"++{text}" if _is_open(text.partition("=")[0]) else text


def _explain(overrides: list[Override], error: Exception) -> UserError:
    """Which override a failed composition is about: an unknown key, or a value of the wrong type."""
    groups = [override.input_line for override in overrides if override.key_or_group in conf.GROUPS]
    try:
        keys = _keys(_compose(groups))
    except ERRORS as inner:
        return UserError(f"the files in conf/ do not compose: {_sentence(inner)}")
    for override in overrides:
        key = override.key_or_group
        if key not in keys and not _is_open(key):
            return nearest("config key", key, {*keys, *conf.GROUPS})
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
