"""Which code a notebook can reach, as a small text: the pipeline's code dependency.

``python -m thinsight.fingerprint OUT SOURCE [CONFIG]`` follows the imports of SOURCE, a notebook or a module's name,
through this package and writes one line per module and per third-party package. A stage that depends on OUT runs again
when code that it can reach changes in meaning, or a package in version; not when another page's figure, a comment or a
docstring does. Parts that a method's yaml names (``_target_``) are followed too. A notebook run on one resolved CONFIG
can reach those of CONFIG; any other can reach every file in ``conf/``, so these files' values are part of its text. Its
metadata may say less, ``thinsight.conf: ["model/*", "method/vtw*"]``: of the other files only names and words count.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from thinsight.config import CONF, WORDS, load_task
from thinsight.errors import UserError, command
from thinsight.notebook import load
from thinsight.parameters import syntax
from thinsight.reach import PACKAGE, imports, meaning, reach


def fingerprint(source: Path, config: Path | None = None) -> str:
    """The text: ``hash  module`` for each module of ours, ``version  package`` for each package, sorted by name."""
    if source.suffix != ".ipynb":
        text, values, files = f"import {source}", [], []
    else:
        notebook = load(source)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        files = [config] if config else sorted(CONF.rglob("*.yaml"))
        reaches = notebook.metadata.get("thinsight", {}).get("conf", ["*"])
        values = [_values(file) if config or _meant(file, reaches) else _words(file) for file in files]
    starts = [PACKAGE.name, *imports(syntax(text)), *_targets(values)]
    ours, others = reach(starts)
    lines = [f"{meaning(path)}  {name}" for name, path in sorted(ours.items())]
    if config is None:
        texts = (json.dumps(value, sort_keys=True, default=str) for value in values)
        lines += [f"{_hash(text)}  conf/{file.relative_to(CONF)}" for file, text in zip(files, texts, strict=True)]
    else:  # a resolved config only names its tasks
        lines += [f"{_task(name)}  conf/task/{name}.yaml" for name in values[0].get("tasks") or []]
    packages = _packages()
    known = sorted({packages[name][0] for name in others if name in packages})
    return "\n".join([*lines, *(f"{version(name).split('+')[0]}  {name}" for name in known)]) + "\n"


@cache
def _packages() -> Mapping[str, list[str]]:
    return packages_distributions()


def _meant(file: Path, patterns: list[str]) -> bool:
    return any(fnmatchcase(str(file.relative_to(CONF)), f"{pattern}*") for pattern in patterns)


def _words(file: Path) -> dict[str, Any]:
    """What a file says of itself, which a catalogue shows of all."""
    return {key: value for key, value in _values(file).items() if key in WORDS | {"name", "title"}}


def _values(config: Path) -> Any:
    if not config.is_file():
        raise UserError(f"no config at {config}")
    return _parsed(config.read_text(encoding="utf-8"))


@cache
def _parsed(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


@cache
def _task(name: str) -> str:
    """A hash of what the task's file does, words apart."""
    return _hash(json.dumps({k: v for k, v in load_task(name).items() if k not in WORDS}, sort_keys=True))


def _targets(node: Any) -> Iterator[str]:
    """Every ``_target_`` in nested values."""
    if isinstance(node, dict):
        yield from ([node["_target_"]] if isinstance(node.get("_target_"), str) else [])
        node = list(node.values())
    for item in node if isinstance(node, list) else []:
        yield from _targets(item)


def _hash(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:12]


def main(arguments: list[str]) -> None:
    """``OUT SOURCE [CONFIG]``."""
    if len(arguments) not in (2, 3):
        raise UserError("usage: python -m thinsight.fingerprint OUT SOURCE [CONFIG]")
    out, *inputs = map(Path, arguments)
    text = fingerprint(*inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    command(main)
