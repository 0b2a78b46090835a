"""Whether a device computes what the CPU does: every method on one small random model, in two number types.

The tests prove each method on the CPU, against the plain model with hidden columns and against the released codes. A
GPU sums in another order; what may differ for that is a last digit, and a choice where two scores are nearly equal.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from transformers import PreTrainedModel

from thinsight.config.methods import load_method
from thinsight.config.schema import names
from thinsight.costs.inputs import random_inputs
from thinsight.costs.shapes import resized
from thinsight.costs.speed import NO_READER
from thinsight.errors import UserError
from thinsight.models.image_tokens import largest_image
from thinsight.models.loading import model_config, random_model
from thinsight.reduction.method import Method
from thinsight.runtime.attach import reduce

MODEL, SHAPE, PICTURE = "llava_1_5_7b", "6x256+6x128", 112
"""What is compared on: LLaVA-1.5 in small, with pictures of 8 x 8 patches."""

DTYPES = ("float32", "bfloat16")


def device_parity(device: torch.device, methods: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """One record per method and number type: the device against the CPU in the same type.

    kept    share of the visual tokens left that are the same, the mean over two prompts
    logits  largest difference of the last row, as a share of the largest logit; None where the tokens differ
    whole   whether a budget that keeps everything gives the plain model's logits to the bit, on the device
    why     in place of all: what the method was refused with
    """
    for dtype in DTYPES:
        home, inputs = small_model(dtype)
        away = copy.deepcopy(home).to(device)
        there = {key: value.to(device) for key, value in inputs.items()}
        plain = _logits(away, there)
        for name in methods or names("method"):
            record: dict[str, Any] = {"method": name, "dtype": dtype}
            try:
                here, kept = _reduced(home, inputs, fixed(name))
                other, others = _reduced(away, there, fixed(name))
                whole = everything(name, home.config.get_text_config().num_hidden_layers)
                same = None if whole is None else torch.equal(_reduced(away, there, whole)[0], plain)
            except UserError as error:
                yield record | {"why": str(error)}
                continue
            common = [_common(a, b) for a, b in zip(kept, others, strict=True)]
            equal = kept == others
            off = float((here - other.cpu()).abs().max() / here.abs().max()) if equal else None
            yield record | {"kept": sum(common) / len(common), "logits": off, "whole": same}


def small_model(dtype: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model on the CPU and two prompts; weights are so large that attention is not flat and choices are clear."""
    node = resized(model_config(MODEL), SHAPE)
    node.device, node.dtype = "cpu", "float32"
    OmegaConf.update(node, "architecture.text_config.initializer_range", 0.2, force_add=True)
    node.architecture.vision_config.image_size = PICTURE
    model = random_model(node)
    image = largest_image(model.config, {})
    inputs = random_inputs(model, image, 2, 12)
    kind = getattr(torch, dtype)
    inputs["pixel_values"] = inputs["pixel_values"].to(kind)
    return model.to(kind), inputs


def fixed(name: str) -> Method:
    """The method with a quarter of the tokens, or as its file has it, and without a tokenizer."""
    fields = load_method(name).fields
    lacking = {key: value for key, value in NO_READER.items() if fields.get(key) not in (None, value)}
    return load_method(name, **lacking, **({"keep": 0.25} if "keep" in fields else {}))


def everything(name: str, depth: int) -> Method | None:
    """The method with a budget that removes nothing; None where it has none."""
    fields = load_method(name).fields
    lacking = {key: value for key, value in NO_READER.items() if fields.get(key) not in (None, value)}
    whole = {"keep": 1.0} if "keep" in fields else {"layer": depth, "low": depth, "high": depth}
    whole = {key: value for key, value in whole.items() if key in fields}
    if not whole and load_method(name).reductions:
        return None
    return load_method(name, **lacking, **whole)


def _reduced(model: PreTrainedModel, inputs: Mapping[str, Tensor], method: Method) -> tuple[Tensor, list[list[int]]]:
    with reduce(model, method) as trace:
        logits = _logits(model, inputs)
    return logits, trace.kept


def _logits(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        return model(**inputs, logits_to_keep=1).logits[:, -1].float()


def _common(a: Sequence[int], b: Sequence[int]) -> float:
    return len(set(a) & set(b)) / max(len(a), len(b)) if a or b else 1.0
