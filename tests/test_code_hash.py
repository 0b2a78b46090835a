"""The hash of the code that a run can reach: what changes it and what does not."""

import ast

import pytest
from omegaconf import OmegaConf

from thinsight import code_hash as module
from thinsight.code_hash import EVALUATION, code_hash, imports, reach, targets
from thinsight.config.compose import load_config, load_task
from thinsight.paths import ROOT

PACKAGE = ROOT / "src" / "thinsight"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with an evaluation, a command on top of it, a method and a task's metric."""
    files = {
        "__init__": '"""The package."""',
        "evaluate": "from thinsight.evaluation.run import evaluate",
        "evaluation/__init__": "",
        "evaluation/run": "from thinsight import stats\n\n\ndef evaluate():\n    return stats.mean()",
        "stats": "def mean():\n    return 0",
        "methods": "class Method:\n    size = 1",
        "metrics": "def exact():\n    return True",
    }
    root = tmp_path / "thinsight"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(text)
    monkeypatch.setattr(module, "PACKAGE", root)
    return root


CONFIG = {"method": {"reductions": [{"filter": {"_target_": "thinsight.methods.Method"}}]}}
TASK = {"metric": {"_target_": "hydra.utils.get_method", "path": "thinsight.metrics.exact"}}


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        (
            "evaluation/run",
            '"""Evaluates."""\nfrom thinsight import stats\n\n\ndef evaluate():\n    return stats.mean()',
            False,
        ),
        ("stats", 'def mean():\n    """The mean."""\n    return 0  # a remark', False),
        ("stats", "def mean():\n    return 1", True),
        ("methods", "class Method:\n    size = 2", True),
        ("metrics", "def exact():\n    return False", True),
        ("evaluate", "from thinsight.evaluation.run import evaluate\nHELP = 'another sentence'", False),
        ("unused", "x = 1", False),
    ],
)
def test_what_repeats_an_evaluation(package, file, text, changes):
    before = code_hash(CONFIG, TASK)
    (package / f"{file}.py").write_text(text)
    assert (code_hash(CONFIG, TASK) != before) == changes


def test_what_stands_under_type_checking_is_not_imported():
    tree = ast.parse("if TYPE_CHECKING:\n    import a\nelse:\n    import b\nif x:\n    from c import d")
    assert set(imports(tree)) == {"b", "c", "c.d"}


def test_a_run_reaches_its_method_and_its_tasks_and_no_page_and_no_command():
    config = OmegaConf.to_container(load_config(["method=fastv", "tasks=[read]"]), resolve=True)
    ours, others = reach([EVALUATION, *targets([config, OmegaConf.to_container(load_task("read"), resolve=True)])])
    assert {"thinsight.runtime.attach", "thinsight.methods.fastv", "thinsight.tasks.metrics"} <= set(ours)
    assert "thinsight.models.families.llava" in ours  # found by the package, which imports all that lies in it
    assert {"torch", "transformers"} <= others
    assert not others & {"matplotlib", "papermill", "dvc"}
    parts = {name for module in ours for name in module.split(".")}
    assert not parts & {"dry_run", "report", "papers", "pipeline", "analysis", "ledger", "evaluate", "cost", "solve"}
    assert not parts & {"mustdrop", "par", "pocket"}
    assert len(ours) < 90


def test_reach_follows_functions_lazy_names_and_packages():
    ours, others = reach(["thinsight.load_method"])
    assert {"thinsight", "thinsight.config", "thinsight.config.methods", "thinsight.errors"} <= set(ours)
    assert "omegaconf" in others


COMPUTED = {"__init__", "__main__", "tasks/functions", "models/families/__init__", "pipeline/warm"}
"""They import by a computed name: public names, commands, what a configuration names, all modules of a package, and
what a warm process is to have imported already."""


def test_no_other_module_imports_by_a_computed_name():
    """The hash sees what the syntax says."""
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).with_suffix("").as_posix() not in COMPUTED:
            assert "import_module" not in path.read_text(), path
            assert "__import__" not in path.read_text(), path
