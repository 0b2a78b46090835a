"""What the pipeline is going to run, as small texts: its stages depend on them and on nothing larger.

    python -m thinsight.plan             write data/plan from params.yaml, conf/ and the code
    python -m thinsight.plan read        write data/reads: which results each page reads, by their hashes
    python -m thinsight.plan runs        stages of dvc.yaml that need nothing but the plan: runs, tours and their pages
    python -m thinsight.plan papers      those of the papers: each notebook, then its page

``data/plan/runs/<run>/config.yaml`` is a run's resolved config and ``code.txt`` beside it the code that it can reach;
``data/plan/pages/<page>.txt`` is the code that a page's notebook can reach, and ``report.txt`` that of the pages
themselves (see `thinsight.fingerprint`); ``data/plan/contents.json`` lists the pages. A comment in ``conf/`` or in the
code changes none of them.
"""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from thinsight.config import ROOT, load_config, to_yaml
from thinsight.contents import contents
from thinsight.errors import UserError, command, nearest
from thinsight.fingerprint import fingerprint
from thinsight.notebook import load
from thinsight.parameters import declared
from thinsight.results import finished

PLAN, READS = ROOT / "data" / "plan", ROOT / "data" / "reads"


def plan(params: dict[str, Any]) -> None:
    """Write ``data/plan`` for the runs and pages of ``params``; a run that does not compose is a `UserError`."""
    texts = {}
    notebooks = ROOT / "notebooks"
    for run, words in params["runs"].items():
        given = [f"run={run}", f"preset={params['preset']}", f"tasks=[{params['tasks']}]"]
        texts[f"runs/{run}/config.yaml"] = to_yaml(load_config([*given, *words.split(), *params["overrides"].split()]))
    _write(PLAN, texts)
    texts |= {
        f"runs/{run}/code.txt": fingerprint(notebooks / "evaluate.ipynb", PLAN / "runs" / run / "config.yaml")
        for run in params["runs"]
    }
    texts |= {f"pages/{page}.txt": fingerprint(notebooks / f"{page}.ipynb") for page in pages(params)}
    texts["contents.json"] = contents(pages(params), notebooks)
    texts["pages/report.txt"] = fingerprint(Path("thinsight.report"))
    _write(PLAN, texts)


def read(params: dict[str, Any], runs: Path) -> None:
    """Write ``data/reads``: for each page the runs in ``runs`` that it reads, with the hashes of their results."""
    texts = {}
    for page in pages(params):
        wanted = declared(load(ROOT / "notebooks" / f"{page}.ipynb")).get("reads", [])
        files = [file for name in ("metrics.json", "predictions.parquet") for file in finished(runs, wanted, name)]
        texts[f"{page}.txt"] = "".join(f"{_hash(file)}  {file.relative_to(runs)}\n" for file in sorted(files))
    _write(READS, texts)


def pages(params: dict[str, Any]) -> list[str]:
    """Every page: the papers' and the tours."""
    return [*params["papers"], *params["tours"]]


def _print_stages(items: Iterable[str], *stages: str) -> None:
    """For each item these stages of dvc.yaml with it, one a line."""
    print("\n".join(f"{stage}@{item}" for item in items for stage in stages))


def _hash(file: Path) -> str:
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
        raise UserError("usage: python -m thinsight.plan [read|runs|papers]")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    match arguments:
        case []:
            plan(params)
        case ["read"]:
            read(params, ROOT / "data" / "runs")
        case ["runs"]:
            _print_stages(params["tours"], "tour", "tour_page")
            _print_stages(sorted(params["runs"], key=lambda run: "-" not in run), "evaluate")  # the longest first
        case ["papers"]:
            _print_stages(params["papers"], "paper", "page")
        case [other]:
            raise nearest("part of the plan", other, ["read", "runs", "papers"])


if __name__ == "__main__":
    command(main)
