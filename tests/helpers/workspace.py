"""A small project in a temporary folder: our package, conf and dvc.yaml, with notebooks in place of the slow ones."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from thinsight.paths import ROOT
from thinsight.pipeline.warm import SOCKET

EVALUATE = """
import json
from pathlib import Path
import pandas as pd
from thinsight.config.compose import load_config
from thinsight.errors import UserError

cfg, home = load_config(path=config), Path(out)
table = pd.DataFrame({"task": "exist", "budget": "{}", "accuracy": [0.5], "tflops": [float(cfg.limit)]})
home.mkdir(parents=True, exist_ok=True)
table.to_csv(home / "curve.csv", index=False)
for name in ("predictions", "trace"):
    table.to_parquet(home / f"{name}.parquet")
card = {"model": {"name": cfg.model.name, "device": "cpu", "checkpoint": "stand-in"}, "tasks": {}, "versions": {}}
(home / "protocol.json").write_text(json.dumps(card))
scores = {"exist": {"all": {"accuracy": 0.5, "n": cfg.limit}}}
(home / "metrics.json").write_text(json.dumps({"model": cfg.model.name, "scores": scores}))
"""

PAPER = """
from pathlib import Path
Path(out).mkdir(parents=True, exist_ok=True)
(Path(out) / "facts.json").write_text("{}")
print(runs, reads)
"""

READS = {"vtw": ["plain", "vtw"], "par": ["plain", "par"]}  # what the two pages of the project read


def write_notebook(
    path: Path, *cells: str, parameters: str = "", title: str = "A page", reaches: Sequence[str] = ("*",)
) -> None:
    """A notebook with a title, a parameters cell (if any) and code cells; ``reaches``: what it reads of conf/."""
    tagged = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    parts = [new_markdown_cell(f"# {title}\n\nWhat it says."), *tagged, *map(new_code_cell, cells)]
    for number, cell in enumerate(parts):
        cell.id = f"cell-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=parts, metadata={"thinsight": {"conf": list(reaches)}}), path)


def build(root: Path, real: bool = False) -> None:
    """The project: three runs, two papers and a tour, the same dvc.yaml. ``real``: the runs are real ones of pocket."""
    for name in ("src/thinsight", "conf", ".dvc"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in (".dvcignore", ".gitignore", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["runs"] = {name: params["runs"][name] for name in ("plain", "vtw", "par")}
    params |= {"preset": "smoke", "tasks": "exist", "pages": [*READS, "tour"]}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    files = ["data/published/vtw.csv", "data/claims.yaml", "data/benchmarks/README.md", "data/mini/README.md"]
    if real:
        shutil.copytree(ROOT / "data/pocket", root / "data/pocket")
        (root / "notebooks").mkdir()
        shutil.copy(ROOT / "notebooks/evaluate.ipynb", root / "notebooks")
    else:
        (root / "data/pocket").mkdir(parents=True)
        shutil.copy(ROOT / "data/pocket/scores.json", root / "data/pocket")
        files += ["data/pocket/model/weights", "data/pocket/clip/weights", "data/pocket/tasks/exist.parquet"]
        write_notebook(root / "notebooks/evaluate.ipynb", EVALUATE, parameters='config: str = ""\nout: str = ""')
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("stand-in")
    for page, reads in READS.items():
        conf = ["model/", "task/", "preset/", "sweep/", f"method/{page}"]
        parameters = f'runs: str = "data/runs"\nreads: list = {json.dumps(reads)}\nout: str = ""'
        write_notebook(root / f"notebooks/{page}.ipynb", PAPER, parameters=parameters, reaches=conf)
    write_notebook(root / "notebooks/tour.ipynb", "print(x)", parameters="x: int = 1", reaches=["model/"])
    run(root, "git", "init", "-q")
    run(root, "git", "add", "-A")
    run(root, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "start")


def run(root: Path, *command: str, fails: bool = False) -> str:
    """Run a command in the project with this Python first on the path; its output, or a failed assertion."""
    path = os.environ["PATH"] if SOCKET in os.environ else f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    paths = {"PATH": path, "PYTHONPATH": str(root / "src")}
    if command[0] == "dvc":
        command = ("python", "-m", *command)
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | paths,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def stages(output: str) -> list[str]:
    """The stages that a `dvc repro` ran."""
    return re.findall(r"Running stage '([^']+)'", output)
