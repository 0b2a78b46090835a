"""A method's yaml -> a `Method`: fields replaced, reductions built."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from thinsight.config.schema import DESCRIBING, RESERVED, check_name, names
from thinsight.config.yaml_files import parse_yaml
from thinsight.errors import UserError, nearest
from thinsight.paths import CONF

if TYPE_CHECKING:
    from thinsight.reduction.method import Method


def load_method(name_or_config: str | DictConfig, **fields: Any) -> "Method":
    """The method of ``conf/method/<name>.yaml`` (or of such a node, or of a whole config), with some fields replaced.

    An unknown name or field, a value that the method refuses, and a field that would change nothing are `UserError`s.
    """
    if isinstance(name_or_config, str):
        if not all(value is None or type(value) in (bool, int, float, str) for value in fields.values()):
            return method_of(method_file(name_or_config), fields)
        typed = tuple((key, type(value), value) for key, value in fields.items())  # 1, 1.0 and True are equal
        return _built(name_or_config, method_text(name_or_config), typed)
    return method_of(name_or_config.get("method", name_or_config), fields)


@lru_cache(maxsize=512)
def _built(name: str, text: bytes, typed: tuple[tuple[str, type, Any], ...]) -> "Method":
    """The method of a file that holds ``text`` with some fields replaced; a method is frozen, so it is built once."""
    return method_of(method_file(name), {key: value for key, _, value in typed})


def method_text(name: str) -> bytes:
    """What ``conf/method/NAME.yaml`` holds, as it stands; by it is kept what is made of the file."""
    if name not in names("method"):
        raise nearest("method", name, names("method"))
    with reading(f"conf/method/{name}.yaml"):
        return (CONF / "method" / f"{name}.yaml").read_bytes()


def read_method(name: str) -> DictConfig:
    """The node of ``conf/method/NAME.yaml``, as `load_config` has it, which takes a fifth of a second to compose."""
    with reading(f"conf/method/{name}.yaml"):
        return OmegaConf.create(method_file(name))


def method_file(name: str) -> dict[str, Any]:
    """What ``conf/method/NAME.yaml`` holds, as plain data."""
    text = method_text(name)
    with reading(f"conf/method/{name}.yaml"):
        node = parse_yaml(text.decode("utf-8"))
    check_reductions(node, name)
    check_name("method", name, node.get("name"))
    return node


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What goes wrong with reading the file ``name`` of conf/, as a `UserError`."""
    try:
        yield
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error


def check_reductions(node: Any, name: str) -> None:
    """Refuse what is no mapping with a list of reductions."""
    if not isinstance(node, dict | DictConfig) or not isinstance(node.get("reductions"), list | ListConfig):
        raise UserError(f"method {name} needs a list of reductions (it may be empty)")


def method_of(node: DictConfig | dict[str, Any], fields: dict[str, Any]) -> "Method":
    """The method that ``node`` describes, with ``fields`` in place of its own values.

    ``fidelity=official`` stands for every field under the node's key ``official``, with its value there.
    """
    from thinsight.reduction.method import Method

    plain = node if isinstance(node, dict) else OmegaConf.to_container(node, resolve=False)
    with reading(f"method {plain.get('name')}"):
        node = OmegaConf.create({"method": {key: plain[key] for key in plain if key not in DESCRIBING}}).method
    knobs = [key for key in node if key not in RESERVED]
    fields = {key: value.item() if hasattr(value, "item") else value for key, value in fields.items()}  # NumPy, torch
    fields = {**_fidelity(node, fields), **fields}
    plain = _resolve(node)
    for key, value in fields.items():
        if key not in knobs:
            raise (
                nearest(f"field of method {node.name}", key, knobs)
                if knobs
                else UserError(f"method {node.name} has no fields: it cannot take {key}")
            )
        old, before = node[key], plain
        _check_number(node.name, key, value, old)
        try:
            node[key] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{key}={value!r} of method {node.name} is no text, number or list") from error
        plain = _resolve(node)
        if key != "fidelity" and old != value and plain["reductions"] == before["reductions"]:
            raise UserError(f"{key}={value} changes nothing in method {node.name}: its reductions do not point at it")
    try:
        reductions = instantiate(OmegaConf.create({"of": plain["reductions"]}), _convert_="all")["of"]
    except InstantiationException as error:
        raise _cause(node.name, error) from error
    return Method(node.name, tuple(reductions), {key: plain[key] for key in knobs})


def _check_number(name: str, key: str, value: Any, old: Any) -> None:
    """Refuse a text or a list where a number stands."""
    number = isinstance(old, int | float) and not isinstance(old, bool)
    if number and value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(f"{key}={value!r} of method {name} is no number like {old}")


def _fidelity(node: DictConfig, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that a fidelity stands for: none for "clean", the yaml's ``official`` ones for "official"."""
    wanted = fields.get("fidelity", node.get("fidelity", "clean"))
    if wanted not in ("clean", "official"):
        raise nearest("fidelity", str(wanted), ["clean", "official"])
    return {key: value for key, (value, _) in node.get("official", {}).items()} if wanted == "official" else {}


def _resolve(node: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"method {node.name} does not resolve: {str(error).splitlines()[0]}") from error


def _cause(name: str, error: BaseException) -> UserError:
    """The sentence behind Hydra's wrapping; a part's own `UserError` is passed on as it is."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, UserError) else UserError(f"method {name}: {str(error).splitlines()[0]}")
