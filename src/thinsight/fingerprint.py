"""Which code a notebook can reach, as a small text: the pipeline's code dependency.

``python -m thinsight.fingerprint OUT SOURCE [CONFIG]`` follows the imports of SOURCE, a notebook or a module's name,
through this package and writes one line per module and per third-party package. A stage that depends on OUT runs again
when code that it can reach changes in meaning, or a package in version; not when another page's figure, a comment or a
docstring does. Parts that a method's yaml names (``_target_``) are followed too. A notebook run on one resolved CONFIG
can reach those of CONFIG; any other can reach every file in ``conf/``, so these files' values are part of its text.
"""

import hashlib
import json
from collections.abc import Iterator
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
        text, files = f"import {source}", []
    else:
        text = "\n".join(cell.source for cell in load(source).cells if cell.cell_type == "code")
        files = [config] if config else sorted(CONF.rglob("*.yaml"))
    values = [_values(file) for file in files]
    starts = [PACKAGE.name, *imports(syntax(text)), *_targets(values)]
    ours, others = reach(starts)
    lines = [f"{meaning(path)}  {name}" for name, path in sorted(ours.items())]
    if config is None:
        texts = (json.dumps(value, sort_keys=True, default=str) for value in values)
        lines += [f"{_hash(text)}  conf/{file.relative_to(CONF)}" for file, text in zip(files, texts, strict=True)]
    else:  # a resolved config only names its tasks
        for name in values[0].get("tasks") or []:
            task = {key: value for key, value in load_task(name).items() if key not in WORDS}
            lines.append(f"{_hash(json.dumps(task, sort_keys=True))}  conf/task/{name}.yaml")
    packages = packages_distributions()
    known = sorted({packages[name][0] for name in others if name in packages})
    return "\n".join([*lines, *(f"{version(name).split('+')[0]}  {name}" for name in known)]) + "\n"


def _values(config: Path) -> Any:
    if not config.is_file():
        raise UserError(f"no config at {config}")
    return OmegaConf.to_container(OmegaConf.load(config), resolve=False)


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
