"""Tasks and configs on the local copies of benchmarks that the tests of tasks share (see tests/tasks/conftest.py)."""

from pathlib import Path

from omegaconf import DictConfig

from thinsight.config.compose import load_config


def copy_of(world: Path, name: str) -> Path:
    return world / name.removesuffix("_plain")


def task(world: Path, name: str, *more: str) -> DictConfig:
    return load_config([f"task={name}", f"task.path={copy_of(world, name)}", *more]).task


def config(world: Path, *more: str) -> DictConfig:
    """LLaVA-1.5-7B as conf/model has it, chat template and padding included, but for the tiny one's weights, and
    answers of eight tokens in place of 128: the tiny one says nothing that would end them."""
    small = [f"model.checkpoint={world / 'model'}", "model.dtype=float32", "model.device=cpu", "batch_size=10"]
    return load_config(["model=llava_1_5_7b", *small, "task.max_new_tokens=8", *more])
