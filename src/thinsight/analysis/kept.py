"""Which patches a method keeps, without what the model does after the choice."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thinsight.models.families import find_parts
from thinsight.reduction.method import Method
from thinsight.reduction.sites import Decoder, Features, Projected, Vision
from thinsight.runtime.attach import reduce

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _ChosenError(Exception):
    """All has been chosen: the pass may end."""


def kept_patches(model: "PreTrainedModel", method: Method, inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """Per sample, the patches alive at the end of a prefill under ``method`` (`PrefillTrace.kept`).

    The pass ends behind the last place where something leaves: a choice in front of the decoder runs none of it.
    """
    layers = find_parts(model).layers
    behind = layers_needed(method, len(layers))
    with torch.inference_mode(), reduce(model, method) as trace:
        handle = layers[behind].register_forward_pre_hook(_end) if behind < len(layers) else None
        try:
            model(**inputs, logits_to_keep=1)
        except _ChosenError:
            pass
        finally:
            if handle is not None:
                handle.remove()
    return trace.kept


def layers_needed(method: Method, depth: int) -> int:
    """How many decoder layers run until ``method`` has chosen all; ``depth`` where its sites do not say."""
    needed = 0
    for reduction in method.resolve(depth).reductions:
        site = reduction.site
        if isinstance(site, Decoder) and site.layers is not None:
            needed = max(needed, *(layer + 1 for layer in _numbers(site.layers)))
        elif not isinstance(site, Projected | Features | Vision):
            return depth
    return min(needed, depth)


def _numbers(layers: Sequence[Any]) -> list[int]:
    return [int(layer) for layer in layers]


def _end(*_: Any) -> None:
    raise _ChosenError
