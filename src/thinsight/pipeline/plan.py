"""What the pipeline is going to run: small files which only change when what a stage depends on does.

``python -m thinsight.pipeline.plan`` writes, from params.yaml, conf/ and the code:

    data/configs/<run>.yaml     the resolved config of a run
    data/plan/runs/<run>.txt    the code that the run can reach (see `thinsight.code_hash`), and the files of the next
    data/plan/outside.txt       local models and tasks that runs read from outside data/pocket, which DVC does not watch
    data/plan/pages/<page>.txt  the code, the values in conf/, the papers' numbers and the benchmarks that a page's
                                notebook can reach
    data/plan/pages/report.txt  the code that makes HTML of the notebooks
    data/plan/parameters.json   values of the preset for parameters of the pages' notebooks
    data/plan/contents.json     the pages and their titles

``python -m thinsight.pipeline.plan read`` writes, from the results of the runs:

    data/reads/<page>.txt       the hashes of the results that a page reads; empty for a page that reads none
    data/curves.csv             accuracy against FLOPs of each run of the group main, the mean of its tasks

A text of code has a line for each of our modules, with a hash of what it does, and for each package, with its version.
A notebook may read every file in ``conf/``, so their values are part of its text; its metadata can say which ones,
``thinsight.conf: ["model/*", "method/vtw*"]``: of the other files only names and describing words count.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.metadata import packages_distributions, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from thinsight.analysis import clocks
from thinsight.analysis.runs import finished
from thinsight.code_hash import EVALUATION, PACKAGE, code_lines, imports, reach, targets
from thinsight.config.compose import load_config, load_task, to_yaml
from thinsight.config.methods import reading
from thinsight.config.schema import WORDS
from thinsight.errors import UserError, command
from thinsight.ledger import claims, published
from thinsight.paths import CONF, ROOT, save_whole
from thinsight.pipeline.notebook import declared_parameters, load_notebook, summarize, syntax
from thinsight.pipeline.params import Params, read_params
from thinsight.tasks import mini

DATA = ROOT / "data"
CONTENTS = DATA / "plan" / "contents.json"
OVERVIEW = "overview"  # the page that stands before all others
SHORT = 16  # letters of a title's first part that still fit in the bar


@dataclass(frozen=True)
class Listed:
    """A page: its notebook's name, its title, and what the bar calls it."""

    name: str
    title: str
    short: str


def write_plan(params: Params | Mapping[str, Any], data: Path = DATA) -> None:
    """Write the plan of ``params`` below ``data``; a run that does not compose is a `UserError`."""
    plan, notebooks = Params.of(params), ROOT / "notebooks"
    _check_tasks(plan)
    parameters = load_config([f"preset={plan.preset}"]).pages
    report = _code_text(["thinsight.report.__main__"])
    _read_shared()
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        runs = dict(zip(plan.runs, pool.map(partial(_planned, plan), plan.runs), strict=True))
        files = [notebooks / f"{page}.ipynb" for page in plan.pages]
        texts = {f"pages/{file.stem}.txt": code for file, code in zip(files, pool.map(page_code, files), strict=True)}
    texts |= {f"runs/{run}.txt": code for run, (_, code, _) in runs.items()}
    outside = sorted({path for _, _, paths in runs.values() for path in paths})
    if outside:
        texts["outside.txt"] = "".join(f"{path}\n" for path in outside)
    texts["pages/report.txt"] = report
    texts["parameters.json"] = json.dumps(OmegaConf.to_container(parameters)) + "\n"
    texts["contents.json"] = list_pages(plan.pages, notebooks)
    _write(data / "configs", {f"{run}.yaml": config for run, (config, _, _) in runs.items()})
    _write(data / "plan", texts)


def _run_config(plan: Params, run: str) -> DictConfig:
    """The config of one of the runs."""
    shared = [f"preset={plan.preset}", f"tasks=[{','.join(plan.tasks)}]"]
    try:
        config = load_config([f"run='{run}'", *shared, *plan.runs[run], *plan.overrides])
    except UserError as error:
        raise UserError(f"run {run} in params.yaml: {error}") from error
    config.pages = {}  # no run depends on them
    return config


def _check_tasks(plan: Params) -> None:
    """Refuse runs that name tasks of their own, none of which is among the tasks that were asked for: with those of
    other benchmarks, and a large model, they would take hours to answer questions that nobody asked."""
    named = {run: [line for line in lines if line.startswith("tasks=")] for run, lines in plan.runs.items()}
    own = {run: set(lines[-1].removeprefix("tasks=").strip("[]").split(",")) for run, lines in named.items() if lines}
    foreign = [run for run, tasks in own.items() if plan.tasks and tasks.isdisjoint(plan.tasks)]
    if foreign:
        without = " ".join(f"-S '~runs.{run}'" for run in foreign)
        raise UserError(
            f"runs in params.yaml name tasks none of which is among tasks ({', '.join(plan.tasks)}): "
            f"{', '.join(foreign)}. Leave them out: delete their lines, or dvc exp run {without}"
        )


def _planned(plan: Params, run: str) -> tuple[str, str, list[str]]:
    """One of the runs: its config as text, the text of its code, and what it reads from outside."""
    config = _run_config(plan, run)
    return to_yaml(config), run_code(config), [str(path) for path in outside_files(config)]


def write_reads(params: Params | Mapping[str, Any], data: Path = DATA) -> None:
    """Write below ``data`` which results of ``data/runs`` each page reads, and the curves of the main runs."""
    runs, texts = data / "runs", {}
    for page in Params.of(params).pages:
        wanted = wanted_runs(page)
        files = [file for name in ("metrics.json", "predictions.parquet") for file in finished(runs, wanted, name)]
        texts[f"{page}.txt"] = "".join(f"{_file_hash(file)}  {file.relative_to(runs)}\n" for file in sorted(files))
    _write(data / "reads", texts)
    curves = {file.parent.name: pd.read_csv(file) for file in finished(runs, name="curve.csv") if file.is_file()}
    if curves:
        table = pd.concat(curves, names=["run"]).groupby(["run", "budget"], sort=False)[["tflops", "accuracy"]].mean()
        save_whole(data / "curves.csv", table.to_csv)


def wanted_runs(page: str) -> list[str]:
    """The runs that the notebook of a page reads, as `thinsight.analysis.runs.finished` takes them."""
    parameters = declared_parameters(load_notebook(ROOT / "notebooks" / f"{page}.ipynb"))
    return parameters.get("reads", []) if "runs" in parameters else []


def needed_runs(page: str) -> list[str]:
    """The runs without which the notebook of a page has nothing to say: ``thinsight.needs`` in its metadata."""
    return load_notebook(ROOT / "notebooks" / f"{page}.ipynb").metadata.get("thinsight", {}).get("needs", [])


def list_pages(names: Sequence[str], notebooks: Path) -> str:
    """The list of the pages ``names``, in this order, as JSON; titles are those of the folder ``notebooks``."""
    titles = {name: summarize(load_notebook(notebooks / f"{name}.ipynb"), f"{name}.ipynb").title for name in names}
    pages = [asdict(Listed(name, title, _short_title(name, title))) for name, title in titles.items()]
    return json.dumps(pages, indent=1, ensure_ascii=False) + "\n"


def read_contents(path: Path) -> list[Listed]:
    """The saved list; empty if there is none, and the pages then have no bar."""
    if not path.is_file():
        return []
    return [Listed(**page) for page in json.loads(path.read_text(encoding="utf-8"))]


def _short_title(name: str, title: str) -> str:
    """``VTW`` of ``VTW: withdraw every visual token``; else the notebook's name in letters."""
    head, colon, _ = title.partition(":")
    return head if colon and len(head) <= SHORT else name.replace("_", " ").capitalize()


def run_code(config: DictConfig) -> str:
    """The text of a run: the code that its evaluation can reach, and what its config only names of its tasks: their
    values, their lists of mini rows."""
    tasks = {name: _task(name) for name in config.tasks}
    nodes = [OmegaConf.to_container(config, resolve=True), *tasks.values()]
    values = [f"{_value_hash(task)}  conf/task/{name}.yaml" for name, task in tasks.items()]
    values += [f"{_path_hash(path)[:12]}  {path}" for path in outside_files(config)]
    lists = [mini.list_file(name) for name in config.tasks or [config.task.name] if config.task.selection]
    values += [f"{_path_hash(path)[:12]}  {mini.shown(path)}" for path in lists if path.is_file()]
    return _code_text([EVALUATION, *targets(nodes)], values)


def outside_files(config: DictConfig) -> list[Path]:
    """What a run reads of local checkpoints, text towers and tasks that lie outside data/pocket, by path."""
    own = not config.tasks or "path" in config.overridden
    paths = [config.task.path] if own else [_task(name)["path"] for name in config.tasks]
    named = [config.model.checkpoint, config.model.text_tower, *paths]
    paths = {(ROOT / name).resolve() for name in named if name and (ROOT / name).exists()}
    return sorted(path for path in paths if not path.is_relative_to(ROOT / "data" / "pocket"))


def page_code(path: Path) -> str:
    """The text of the notebook in ``path``."""
    notebook = load_notebook(path)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    patterns = notebook.metadata.get("thinsight", {}).get("conf", ["*"])
    read = _conf_values()
    for file, values in read.items():
        if not any(fnmatchcase(str(file), f"{pattern}*") for pattern in patterns):
            read[file] = {key: value for key, value in values.items() if key in WORDS | {"name", "title"}}
    values = [f"{_value_hash(value)}  conf/{file}" for file, value in read.items()]
    starts = [PACKAGE.name, *imports(syntax(source)), *targets(list(read.values()))]
    return _code_text(starts, [*values, *_templates(starts), *_data(starts)])


def _conf_values() -> dict[Path, Any]:
    """What every file of ``conf/`` holds, by its path from there."""
    read = {}
    for file in sorted(CONF.rglob("*.yaml")):
        with reading(f"conf/{file.relative_to(CONF)}"):
            read[file.relative_to(CONF)] = _yaml_values(file.read_text(encoding="utf-8"))
    return read


def _read_shared() -> None:
    """Parse what most runs and pages reach, once, before the processes part: they find it in the caches."""
    code_lines([EVALUATION])
    _conf_values()
    _distributions()


def _data(starts: Iterable[str]) -> list[str]:
    """Hashes of the papers' numbers and ways of counting, of their claims, and of the benchmarks, if ``starts`` reach
    their readers."""
    modules, files = reach(starts)[0], []
    if published.__name__ in modules:
        files += sorted([*published.FOLDER.rglob("*.csv"), *published.FOLDER.rglob("*.yaml")])
    if claims.__name__ in modules:
        files.append(claims.FILE)
    if clocks.__name__ in modules:
        files += sorted(clocks.FOLDER.glob("*.json"))
    return [f"{_file_hash(file)[:12]}  {file.relative_to(ROOT)}" for file in files]


def _templates(starts: Iterable[str]) -> list[str]:
    """Hashes of the templates named by the code that ``starts`` reach, or by another of these templates."""
    folders = [ROOT / "src" / PACKAGE.name / folder for folder in ("report/templates", "papers")]
    texts = [file.read_text(encoding="utf-8") for file in reach(starts)[0].values()]
    files: dict[Path, str] = {}
    while texts:
        names = re.findall(r'"([\w/.]+\.j2)"', texts.pop())
        new = {folder / name for name in names for folder in folders if (folder / name).is_file()} - set(files)
        files |= {file: file.read_text(encoding="utf-8") for file in new}
        texts += [files[file] for file in new]
    return [f"{_hash(text.encode())[:12]}  {file.relative_to(ROOT)}" for file, text in sorted(files.items())]


def _code_text(starts: Iterable[str], values: Sequence[str] = ()) -> str:
    """Lines of modules that ``starts`` reach, of ``values`` and of packages with their versions."""
    ours, others = code_lines(starts)
    distributions = _distributions()
    packages = sorted({distributions[name][0] for name in others if name in distributions})
    versions = [f"{version(name).split('+')[0]}  {name}" for name in packages]
    return "\n".join([*ours, *values, *versions]) + "\n"


_distributions = cache(packages_distributions)


@cache
def _task(name: str) -> dict[str, Any]:
    """What the task's file says, describing words apart."""
    return {key: value for key, value in OmegaConf.to_container(load_task(name)).items() if key not in WORDS}


@cache
def _yaml_values(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def _value_hash(value: Any) -> str:
    return _hash(json.dumps(value, sort_keys=True, default=str).encode())[:12]


def _file_hash(file: Path) -> str:
    return _hash(file.read_bytes()) if file.is_file() else "absent"


def _path_hash(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.md5(usedforsecurity=False)
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "md5").digest())
    return digest.hexdigest()


def _hash(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """``folder`` with these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in texts.items():
        save_whole(folder / name, text)


def main(arguments: list[str]) -> None:
    """``[read]``."""
    if arguments not in ([], ["read"]):
        raise UserError("usage: python -m thinsight.pipeline.plan [read]")
    (write_reads if arguments else write_plan)(read_params(ROOT / "params.yaml"))


if __name__ == "__main__":
    command(main)
