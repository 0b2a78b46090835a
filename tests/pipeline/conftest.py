"""Commands of these tests start as copies of one warm process, as in `make repro`."""

import os

import pytest

from thinsight.pipeline.warm import warm_python


@pytest.fixture(scope="session", autouse=True)
def warm_commands():
    """DVC, the notebooks' runner and kernels: what they import of other packages is there already; nothing of ours, of
    which a test may have changed its own copy."""
    modules = [
        *("dvc.cli", "dvc.repo", "dvc.commands.repro", "dvc.stage", "papermill", "ipykernel.kernelapp"),
        *("hydra.compose", "nbconvert", "pandas", "scipy.stats"),
    ]
    with warm_python(modules) as environment:
        before = dict(os.environ)
        os.environ.update(environment)
        yield
        os.environ.clear()
        os.environ.update(before)
