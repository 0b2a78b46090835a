"""One loop for every stage: Muon on matrices, AdamW on the rest, one-cycle rate, bf16, checkpoints, resume."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask


@dataclass(frozen=True)
class Phase:
    """One stretch of a stage. ``horizon``: the rate's whole cycle in steps; ``first``: its first picture."""

    name: str
    steps: int
    horizon: int
    peak: float
    weights: dict[str, int]
    first: int


def optimizers(modules: list[nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for embeddings, heads, norms and biases."""
    matrices, others = {}, {}
    for module in modules:
        for name, weight in module.named_parameters():
            if weight.requires_grad:
                inside = weight.ndim == 2 and ".layers." in name and "embed" not in name
                (matrices if inside else others)[id(weight)] = weight
    muon = torch.optim.Muon(list(matrices.values()), lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(list(others.values()), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adamw]


def full_precision_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor, **_
) -> tuple[torch.Tensor, None]:
    """SDPA in fp32 inside bf16 autocast: on a CPU its bf16 backward is the slower one, by more than two times."""
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=attention_mask)
    return out.transpose(1, 2).to(query.dtype), None


def use_full_precision_attention(*models: PreTrainedModel) -> None:
    AttentionInterface.register("full_precision", full_precision_attention)
    AttentionMaskInterface.register("full_precision", sdpa_mask)
    for model in models:
        model.set_attn_implementation("full_precision")


def rate(step: int, steps: int, peak: float, warm: int = 50) -> float:
    """One cycle: linear warm-up, then a cosine down to 2 % of the peak."""
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def ahead(make: Callable[[int], object], start: int, stop: int) -> Iterator[object]:
    """``make(start) ... make(stop - 1)``, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, start)
        for step in range(start, stop):
            batch = waiting.result()
            if step + 1 < stop:
                waiting = pool.submit(make, step + 1)
            yield batch


def train(
    folder: Path,
    modules: dict[str, nn.Module],
    make: Callable[[int], object],
    loss: Callable[[object, int], tuple[torch.Tensor, dict[str, float]]],
    steps: int,
    peak: float,
    every: int = 25,
    horizon: int | None = None,
) -> None:
    """Train ``modules`` for ``steps``; state and log lie in ``folder``, and a second call goes on after the first.

    ``horizon``: the length of the rate's cycle, if it is not ``steps``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opts, state, first = optimizers(list(modules.values())), folder / "state.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(saved["modules"][name])
        for opt, content in zip(opts, saved["optimizers"], strict=True):
            opt.load_state_dict(content)
        first = saved["step"]
    began, window = time.monotonic(), []
    if first >= steps:
        return
    for step, batch in zip(range(first, steps), ahead(make, first, steps), strict=True):
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = rate(step, horizon or steps, peak)
            opt.zero_grad()
        torch.manual_seed(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, seen = loss(batch, step)
        value.backward()
        for module in modules.values():
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for opt in opts:
            opt.step()
        window.append({"loss": value.item(), **seen})
        if (step + 1) % every == 0 or step + 1 == steps:
            names = sorted(set().union(*window))
            entry = {name: round(fmean(seen[name] for seen in window if name in seen), 4) for name in names}
            entry = {"step": step + 1, "seconds": round(time.monotonic() - began), **entry}
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            window = []
            weights = {name: module.state_dict() for name, module in modules.items()}
            content = {"modules": weights, "step": step + 1, "optimizers": [opt.state_dict() for opt in opts]}
            torch.save(content, folder / "state.tmp")
            (folder / "state.tmp").replace(state)
