"""A model on its device, timed under methods: realised speed-ups beside those that FLOPs allow, as plain data.

Random weights of the true shape are honest about time and memory, not about answers: what a method computes and how
many tokens stay does not depend on the numbers, as long as its budget is fixed. A method that lets the picture decide
is refused there, and so is one that draws its layer.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from transformers import PreTrainedModel

from thinsight.config.methods import load_method
from thinsight.costs.budgets import simulate, solve_budget
from thinsight.costs.conventions import PROFILER_LAST
from thinsight.costs.flops import decode_steps, flops
from thinsight.costs.model_costs import SUBSTITUTES, ModelSizes, method_cost, sizes_of
from thinsight.costs.timing import (
    PREFILL,
    Arm,
    Spread,
    fastest_attention,
    interleaved,
    peak_bytes,
    plain_and,
    running,
    speedups,
)
from thinsight.errors import UserError
from thinsight.hardware import hardware_card
from thinsight.models.families import find_tower
from thinsight.models.image_tokens import encode_size, largest_image
from thinsight.models.loading import meta_model
from thinsight.reduction.method import Method

ATTENTIONS = {"cpu": ("sdpa", "eager"), "cuda": ("sdpa", "flash_attention_2")}
"""What the plain model is tried on; whole maps are slower on any GPU, and a long prompt leaves no memory for them."""

NO_READER = {"space": "llm", "rewriting": "none"}
"""What these fields are set to on a model without tokenizer and text tower, which random weights have not."""

RANDOM_WEIGHTS = (
    "Random weights of the true shape: honest about time and memory at fixed budgets, and about nothing else."
)


@dataclass(frozen=True)
class TimedModel:
    """A ``model`` on its device and what its clock needs to know.

    sizes      for the FLOPs bound;  projector  the module of that phase
    attention  what methods run on, that the model was loaded with;  fastest  the plain model's fastest
    weights    "random", or where they are from
    """

    model: PreTrainedModel
    sizes: ModelSizes
    projector: nn.Module
    attention: str
    fastest: str
    weights: str

    @classmethod
    def of(cls, model: PreTrainedModel, config: DictConfig, weights: str, inputs: Mapping[str, Any]) -> "TimedModel":
        """``model`` was made of ``config.model``; ``inputs``: of one prompt, to find the fastest attention with."""
        sizes, meta = sizes_of(config), meta_model(config.model)
        projector = encode_size(meta, largest_image(meta.config, config.model.processor))
        name = next(name for name, module in meta.named_modules() if module is projector)
        attention = model.config.get_text_config()._attn_implementation
        known = ATTENTIONS.get(model.device.type, (attention,))
        fastest = fastest_attention(model, inputs, list(dict.fromkeys((attention, *known))))
        return cls(model, sizes, model.get_submodule(name), attention, fastest, weights)

    @property
    def card(self) -> dict[str, Any]:
        """What was timed: model, weights, type, attentions."""
        return {
            "model": self.sizes.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "layers": self.sizes.prefill.depth,
            "width": self.sizes.prefill.shape.width,
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "fastest_attention": self.fastest,
            "method_attention": self.attention,
        }

    def budgeted(self, node: DictConfig | str, share: float) -> Method:
        """The method whose ``keep`` is ``share`` of the visual tokens, or whose layer comes nearest to that mean."""
        whole = load_method(node)
        if "keep" in whole.fields:
            return self.fitted(node, keep=share)
        fields = solve_budget(node, self.sizes.prefill, "layer_mean", share) if "layer" in whole.fields else {}
        return self.fitted(node, **fields)

    def fitted(self, node: DictConfig | str, **fields: Any) -> Method:
        """The method with ``fields``, and the documented substitutes for what this model lacks."""
        method, lacking = load_method(node, **fields), {}
        if self.weights == "random":
            lacking |= NO_READER
        if self.sizes.refusal:
            lacking |= SUBSTITUTES
        lacking = {key: v for key, v in lacking.items() if method.fields.get(key) not in (None, "none", v)}
        if lacking:
            method = load_method(node, **fields, **lacking)
        if self.weights == "random":
            self.check_fixed(method)
        return method

    def check_fixed(self, method: Method) -> None:
        """Refuse what random weights would decide."""
        if self.sizes.refusal and method.before_projector:
            raise UserError(self.sizes.refusal)
        try:
            simulate(method, self.sizes.prefill)
        except UserError as error:
            if "budget" not in str(error):
                raise
            example = " (method.keep=0.3333)" if "keep" in method.fields else ""
            raise UserError(f"{error}; with weights=random only a fixed budget{example} can be timed") from error

    def compare(
        self, methods: Sequence[Method], inputs: Mapping[str, Any], *, answers: Sequence[int] = (), repeats: int = 5,
        seconds: float = float("inf"), memory: bool = True,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The plain model and ``methods``, all interleaved, on one batch of ``inputs``: one record each.

        The plain one comes first, on its fastest attention, then on the methods' if that is another. A record has
        ``arm``, ``batch``, ``seconds`` (phase -> median, quartiles), and of a method ``speedup`` and ``bound`` (phase
        -> plain time over its time, and FLOPs over FLOPs), ``own_share`` of the plain prefill, and what is left of the
        visual tokens. ``memory``: with ``peak_bytes``. A method that the model refuses has ``why`` instead.
        """
        shown, refused = [], []
        for method in methods:
            arm = plain_and(method, self.attention, self.fastest)[-1]
            arm = replace(arm, name=f"{method.name} {_fields(method)}".strip())
            try:
                shown.append((arm, self.lengths(arm, inputs)))
            except UserError as error:
                refused.append({"arm": arm.name, "method": method.name, "fields": method.fields, "why": str(error)})
        plain = plain_and(Method(""), self.attention, self.fastest)[:-1]
        arms = [*plain, *(arm for arm, _ in shown)]
        samples = interleaved(
            self.model, arms, inputs, answers=answers, repeats=repeats, seconds=seconds, projector=self.projector
        )
        whole = self.whole(inputs)
        records = []
        for arm, (visual, tower) in [*((arm, (whole, [])) for arm in plain), *shown]:
            record = {"arm": arm.name, "batch": len(inputs["input_ids"]), "attention": arm.attention}
            spreads = {phase: Spread.of(taken) for phase, taken in samples[arm.name].items()}
            record["seconds"] = {phase: _plain(spreads[phase]) for phase in spreads}
            record["repeats"] = spreads["prefill"].repeats
            if memory:
                record["peak_bytes"] = peak_bytes(self.model, arm, inputs)
            if arm.method is not None:
                record |= {"method": arm.method.name, "fields": dict(arm.method.fields)}
                record |= {"layer_mean": sum(visual) / len(visual), "visual_tokens": whole[0]}
                faster = speedups(samples, plain[0].name, arm.name)
                record["speedup"] = {phase: _plain(spread) for phase, spread in faster.items()}
                record["bound"] = self.bounds(whole, visual, tower, answers)
                prefill = Spread.of(samples[plain[0].name]["prefill"]).median
                record["own_share"] = spreads["own work"].median / prefill
            records.append(record)
        return records + refused

    def whole(self, inputs: Mapping[str, Any]) -> list[int]:
        """Visual tokens of the first prompt that enter each decoder layer of the plain model."""
        token = getattr(self.model.config, "image_token_id", getattr(self.model.config, "image_token_index", None))
        return [int((inputs["input_ids"][0] == token).sum())] * self.sizes.prefill.depth

    def lengths(self, arm: Arm, inputs: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """Visual tokens of the first prompt that enter each decoder layer, and patches of its first tile that enter
        each block of the tower (none: nothing leaves there), as they are when it runs."""
        with torch.inference_mode(), running(self.model, arm) as trace:
            self.model(**inputs, use_cache=True, logits_to_keep=1)
        tower = list(trace.tower[0]) if trace.tower and self.sizes.tower is not None else []
        if tower:
            tower += tower[-1:] * (self.sizes.tower.layers - len(tower))
            tower = [rows - find_tower(self.model).classes for rows in tower]
        return list(trace.lengths[0]), tower

    def bounds(
        self, whole: Sequence[int], visual: Sequence[int], tower: Sequence[int], answers: Sequence[int] = ()
    ) -> dict[str, float]:
        """Phase -> FLOPs of the plain model over those of a method that lets these lengths through: how much faster it
        could be if seconds followed FLOPs. Counted as a profiler does, the LM head on one row a pass."""
        text, shape = self.sizes.prefill.text, self.sizes.prefill.shape
        entering = min(visual[0], self.sizes.prefill.total) if tower else None
        vision = (self.sizes.vision, method_cost(self.sizes, visual, tower, entering)["vision"])
        rows = self.sizes.prefill.total
        projector = [self.sizes.projector * n // rows for n in (rows, rows if entering is None else entering)]
        prefills = [[n + text for n in lengths] for lengths in (whole, visual)]

        def decoder(tokens: int) -> list[int]:
            return [flops(shape, p, PROFILER_LAST, steps=decode_steps(p, tokens)) for p in prefills]

        counts = {"vision tower": [a - b for a, b in zip(vision, projector, strict=True)], "projector": projector}
        counts["decoder"] = decoder(1)
        counts["prefill"] = [a + b for a, b in zip(vision, decoder(1), strict=True)]
        for n in answers:
            counts[f"end to end {n}"] = [a + b for a, b in zip(vision, decoder(n), strict=True)]
        if answers and max(answers) > 1:
            counts["decode"] = [b - a for a, b in zip(decoder(1), decoder(max(answers)), strict=True)]
        return {phase: plain / reduced for phase, (plain, reduced) in counts.items()}


def machine_card(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, and how busy the machine was: runnable processes, the mean over the last minute."""
    packages = ("torch", "transformers", "flash-attn")
    return {
        "hardware": hardware_card(device) | ({"driver": _driver()} if device.type == "cuda" else {}),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def phases(answers: Sequence[int]) -> list[str]:
    """All phases in the order in which they are shown."""
    decode = ["decode"] if answers and max(answers) > 1 else []
    return [*PREFILL, *decode, *(f"end to end {n}" for n in sorted(answers))]


def _plain(spread: Spread) -> dict[str, float]:
    return {key: float(f"{value:.5g}") for key, value in asdict(spread).items() if key != "repeats"}


def _fields(method: Method) -> str:
    """The knobs that its budget goes by."""
    shown = [(key, method.fields[key]) for key in ("keep", "layer") if method.fields.get(key) is not None]
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown)


def _driver() -> str | None:
    """The version of NVIDIA's driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    line = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
