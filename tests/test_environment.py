"""pyproject.toml, requirements.lock and environment.yml describe one environment, and code imports what they name."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from thinsight.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
}

LMMS = [
    Requirement(line)
    for line in (ROOT / "requirements-lmms.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
"""What lmms-eval needs beside the lock, which only ``thinsight.lmms`` and its tests import."""


OPTIONAL = {"cluster"}
"""Extras that no `make` needs, so that the lock does not have them."""


LOCKED = [extra for extra in EXTRAS if extra not in OPTIONAL]


def required(extras=LOCKED):
    """The requirements of the package and of some extras."""
    return [
        Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    ]


def test_the_lock_pins_every_package_exactly():
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
    ]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][^+\s]*", line), (
            line
        )  # no local version: CPU and CUDA builds both fit
    assert len(lines) == len(LOCK)
    assert LOCK["torch"] == "2.13.0"
    assert "torchvision" not in LOCK


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_the_lock_meets_the_ranges(requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_conda_installs_the_same_lock_through_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert through_pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert PROJECT["requires-python"] == ">=3.11"


def test_make_help_explains_every_target():
    text = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in targets.split():
        assert re.search(rf"{target}\W.* \w+ \w+", shown), target


def imported(paths):
    """Top-level packages, not of the standard library and not ours, that some files import."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"thinsight"}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("src", ["notebooks", "cluster"]), ("tests", ["notebooks", "pipeline", "dev"])],
    ids=["src", "tests"],
)
def test_what_is_imported_is_declared(folder, extras):
    files = sorted((ROOT / folder).rglob("*.py"))
    local = {"helpers", *(file.stem for file in files)} if folder == "tests" else set()
    declared = {canonicalize_name(requirement.name) for requirement in [*required(extras), *LMMS]}
    packages = packages_distributions()
    for name in imported(files) - local:
        homes = {canonicalize_name(home) for home in packages.get(name, [name])}
        assert homes & declared, f"{name} is imported in {folder}/ but no range in pyproject.toml names it"
