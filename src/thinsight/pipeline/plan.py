"""What the pipeline is going to run: configs of runs, code and results that each page depends on.

A page is written before the others are, so it learns of them from ``data/plan/contents.json``, which is made of the
notebooks' titles: a changed cell does not change it.

``python -m thinsight.pipeline.plan OUT SOURCE [CONFIG]`` follows the imports of SOURCE, a notebook or a module's name,
through this package and writes one line per module and per third-party package. A stage that depends on OUT runs again
when code that it can reach changes in meaning, or a package in version; not when another page's figure, a comment or a
docstring does. Parts that a method's yaml names (``_target_``) are followed too. A notebook run on one resolved CONFIG
can reach those of CONFIG; any other can reach every file in ``conf/``, so these files' values are part of its text. Its
metadata may say less, ``thinsight.conf: ["model/*", "method/vtw*"]``: of the other files only names and words count.

python -m thinsight.pipeline.plan             write data/plan from params.yaml, conf/ and the code
    python -m thinsight.pipeline.plan read        write data/reads: which results each page reads, by their hashes
    python -m thinsight.pipeline.plan runs        stages of dvc.yaml that need nothing but the plan: runs, tours and their pages
    python -m thinsight.pipeline.plan papers      those of the papers: each notebook, then its page

``data/plan/runs/<run>/config.yaml`` is a run's resolved config and ``code.txt`` beside it the code that it can reach;
``data/plan/pages/<page>.txt`` is the code that a page's notebook can reach, and ``report.txt`` that of the pages
themselves (see `thinsight.pipeline.plan`); ``data/plan/contents.json`` lists the pages. A comment in ``conf/`` or in the
code changes none of them.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from thinsight.analysis.results import finished
from thinsight.code_hash import PACKAGE, imports, meaning, reach, targets
from thinsight.config.compose import load_config, load_task, to_yaml
from thinsight.config.schema import WORDS
from thinsight.errors import UserError, command, nearest
from thinsight.paths import CONF, ROOT
from thinsight.pipeline.notebook import declared_parameters, load_notebook, summarize, syntax

CONTENTS = ROOT / "data" / "plan" / "contents.json"


OVERVIEW = "overview"  # the page that stands before all others


SHORT = 16  # letters of a title's first part that still fit in the bar


@dataclass(frozen=True)
class Listed:
    """A page: its notebook's name, its title, and what the bar calls it."""

    name: str
    title: str
    short: str


def list_pages(names: Sequence[str], notebooks: Path) -> str:
    """The list of the pages ``names``, in this order, as JSON; titles are those of the folder ``notebooks``."""
    titles = {name: summarize(load_notebook(notebooks / f"{name}.ipynb"), f"{name}.ipynb").title for name in names}
    pages = [asdict(Listed(name, title, _short_title(name, title))) for name, title in titles.items()]
    return json.dumps(pages, indent=1, ensure_ascii=False) + "\n"


def _short_title(name: str, title: str) -> str:
    """``VTW`` of ``VTW: withdraw every visual token``; else the notebook's name in letters."""
    head, colon, _ = title.partition(":")
    return head if colon and len(head) <= SHORT else name.replace("_", " ").capitalize()


def read_contents(path: Path) -> list[Listed]:
    """The saved list; empty if there is none, and the pages then have no bar."""
    if not path.is_file():
        return []
    return [Listed(**page) for page in json.loads(path.read_text(encoding="utf-8"))]


def page_code(source: Path, config: Path | None = None) -> str:
    """The text: ``hash  module`` for each module of ours, ``version  package`` for each package, sorted by name."""
    if source.suffix != ".ipynb":
        text, values, files = f"import {source}", [], []
    else:
        notebook = load_notebook(source)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        files = [config] if config else sorted(CONF.rglob("*.yaml"))
        reaches = notebook.metadata.get("thinsight", {}).get("conf", ["*"])
        values = [_values(file) if config or _meant(file, reaches) else _words(file) for file in files]
    starts = [PACKAGE.name, *imports(syntax(text)), *targets(values)]
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


def _hash(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:12]


PLAN, READS = ROOT / "data" / "plan", ROOT / "data" / "reads"


def write_plan(params: dict[str, Any]) -> None:
    """Write ``data/plan`` for the runs and pages of ``params``; a run that does not compose is a `UserError`."""
    texts = {}
    notebooks = ROOT / "notebooks"
    for run, words in params["runs"].items():
        given = [f"run={run}", f"preset={params['preset']}", f"tasks=[{params['tasks']}]"]
        texts[f"runs/{run}/config.yaml"] = to_yaml(load_config([*given, *words.split(), *params["overrides"].split()]))
    _write(PLAN, texts)
    texts |= {
        f"runs/{run}/code.txt": page_code(notebooks / "evaluate.ipynb", PLAN / "runs" / run / "config.yaml")
        for run in params["runs"]
    }
    texts |= {f"pages/{page}.txt": page_code(notebooks / f"{page}.ipynb") for page in pages(params)}
    texts["contents.json"] = list_pages(pages(params), notebooks)
    texts["pages/report.txt"] = page_code(Path("thinsight.report"))
    _write(PLAN, texts)


def write_reads(params: dict[str, Any], runs: Path) -> None:
    """Write ``data/reads``: for each page the runs in ``runs`` that it reads, with the hashes of their results."""
    texts = {}
    for page in pages(params):
        wanted = declared_parameters(load_notebook(ROOT / "notebooks" / f"{page}.ipynb")).get("reads", [])
        files = [file for name in ("metrics.json", "predictions.parquet") for file in finished(runs, wanted, name)]
        texts[f"{page}.txt"] = "".join(f"{_plan_hash(file)}  {file.relative_to(runs)}\n" for file in sorted(files))
    _write(READS, texts)


def pages(params: dict[str, Any]) -> list[str]:
    """Every page: the papers' and the tours."""
    return [*params["papers"], *params["tours"]]


def _print_stages(items: Iterable[str], *stages: str) -> None:
    """For each item these stages of dvc.yaml with it, one a line."""
    print("\n".join(f"{stage}@{item}" for item in items for stage in stages))


def _plan_hash(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() if file.is_file() else "absent"


def _write(folder: Path, texts: dict[str, str]) -> None:
    """``folder`` with these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    """``[read|runs|papers]``."""
    if len(arguments) > 1:
        raise UserError("usage: python -m thinsight.pipeline.plan [read|runs|papers]")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    match arguments:
        case []:
            write_plan(params)
        case ["read"]:
            write_reads(params, ROOT / "data" / "runs")
        case ["runs"]:
            _print_stages(params["tours"], "tour", "tour_page")
            _print_stages(sorted(params["runs"], key=lambda run: "-" not in run), "evaluate")  # the longest first
        case ["papers"]:
            _print_stages(params["papers"], "paper", "page")
        case [other]:
            raise nearest("part of the plan", other, ["read", "runs", "papers"])


if __name__ == "__main__":
    command(main)
