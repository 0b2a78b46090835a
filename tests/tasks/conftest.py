"""Local copies of the benchmarks and a tiny LLaVA, and no hub."""

import datasets
import huggingface_hub.constants
import pytest
from helpers import benchmark_replicas as replicas
from helpers import tiny_checkpoint as tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny LLaVA and a copy of each benchmark."""
    folder = tmp_path_factory.mktemp("world")
    tiny.save_model(folder / "model")
    for name, write in replicas.ALL.items():
        write(folder / name)
    return folder


@pytest.fixture
def alone(tmp_path, tmp_path_factory, monkeypatch):
    """No hub's cache but an empty one, and no waiting for a hub that the tests cannot reach. What `datasets` has made
    of a file serves again: it knows files by their paths and times."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
