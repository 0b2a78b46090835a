"""What arithmetic runs on: CPU, instruction set, threads and torch's kernels, and the GPU where there is one.

Sums of floating-point numbers depend on all of these, so an answer may differ between two machines.
"""

import platform
import re
from pathlib import Path
from typing import Any

import torch


def hardware_card(device: torch.device) -> dict[str, Any]:
    """The hardware that a model on ``device`` computes with, as plain data.

    ``cpu``; ``instructions``, the widest set that torch uses; ``threads``; ``kernels``, library -> version (None if
    torch is built without it); on a GPU its name, ``gpu``.
    """
    build = torch.__config__.show()
    versions = {
        "blas": re.search(r"BLAS_INFO=(\w+)", build),
        "mkl": re.search(r"Math Kernel Library Version ([\w.]+)", build),
        "onednn": re.search(r"MKL-DNN v([\w.]+)", build),
    }
    card: dict[str, Any] = {
        "cpu": cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "kernels": {name: match[1] if match else None for name, match in versions.items()},
    }
    if device.type == "cuda":
        card["gpu"] = torch.cuda.get_device_name(device)
        card["kernels"] |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return card


def cpu_name() -> str:
    """The model of the CPU."""
    info = Path("/proc/cpuinfo")  # Linux; elsewhere the standard library knows at least the kind
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    models = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return models[0].strip() if models else platform.processor() or platform.machine()
