"""One configuration for notebooks, pipeline and command line: Hydra's files and grammar, a dataclass schema first.

``load_config`` composes ``conf/`` (or reads a resolved file), ``load_method`` makes a method of its yaml, and
``python -m thinsight.config OUT override...`` writes a resolved file that a pipeline stage can depend on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thinsight.errors import UserError, command, nearest
from thinsight.schema import Config

if TYPE_CHECKING:
    from thinsight.reduction import Method

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
GROUPS = ("method", "model", "preset", "sweep", "task")
DESCRIBING = frozenset({"paper", "arxiv", "version", "about", "scores", "acts", "needs", "cost", "deviations"})
RESERVED = DESCRIBING | {"name", "title", "official", "reductions"}
"""Keys of a method's yaml which describe it; every other key is a field, a knob that its paper publishes."""
POINTS = "points"
"""The key of a sweep under which variants of a method stand, each a mapping of fields: see `thinsight.budgets`."""
MEASURES = ("kept", "layer_mean", "flops")
"""Measures of a budget, which a sweep may name in place of a field: see `thinsight.solve`."""
WORDS = DESCRIBING | {"after", "notes", "source", "license"}


def names(group: str) -> list[str]:
    """The options of a group, sorted: the stems of the files in ``conf/<group>``."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load_config(overrides: Sequence[str] = (), path: str | Path | None = None) -> DictConfig:
    """Compose ``conf/`` with Hydra ``overrides``, or read the resolved file ``path`` and apply them to it.

    Works from any directory and any number of times in one process. Whatever is wrong with a name or a value is a
    `UserError`: one sentence, with the nearest valid name.
    """
    from thinsight.overrides import apply, compose, parse

    parsed = parse(overrides)
    config = compose(Config, parsed) if path is None else apply(_read(Path(path)), parsed)
    _check(config)
    return config


def load_task(name: str) -> DictConfig:
    """The configuration of the task ``name``, a file in ``conf/task``."""
    return load_config([f"task={name}"]).task


def load_method(name_or_config: str | DictConfig, **fields: Any) -> "Method":
    """The method of ``conf/method/<name>.yaml`` (or of such a node, or of a whole config), with some fields replaced.

    An unknown name or field, a value that the method refuses, and a field that would change nothing are `UserError`s.
    """
    from thinsight.instantiate import method_of

    if isinstance(name_or_config, str):
        node = load_config([f"method={name_or_config}"]).method
    else:
        node = name_or_config.get("method", name_or_config)
    return method_of(node, fields)


def to_yaml(config: DictConfig) -> str:
    """The config as text, every value resolved; only a method's reductions go on pointing at its fields.

    That keeps the file whole in itself and still lets a reader of it replace a field (a sweep does). Words that only
    describe (a paper, a licence, a list of deviations) are left out: a run does not depend on them.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    for group in ("method", "model", "task"):
        plain[group] = {key: value for key, value in plain[group].items() if key not in WORDS}
    if "reductions" in config.method:
        plain["method"]["reductions"] = OmegaConf.to_container(config.method, resolve=False)["reductions"]
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
    _check_sweep(plain["method"], plain["sweep"])
    if not isinstance(plain["method"].get("reductions"), list):
        raise UserError(f"method {plain['method'].get('name')} needs a list of reductions (it may be empty)")
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


def main(arguments: list[str]) -> None:
    """``OUT override...``: write the resolved config to OUT."""
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        raise UserError("usage: python -m thinsight.config OUT override...")
    out = Path(arguments[0])
    text = to_yaml(load_config(arguments[1:]))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(out)


if __name__ == "__main__":
    command(main)
