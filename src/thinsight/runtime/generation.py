"""Which ways of generating go together with a reduction, decided before anything is computed."""

from collections.abc import Callable, Mapping
from typing import Any

from thinsight.errors import UserError
from thinsight.models.architecture import ModelParts
from thinsight.reduction.method import Method

FIXED_LENGTH = ("static", "offloaded_static", "hybrid", "sliding_window")
"""Names of ``cache_implementation`` whose layers all have one length."""


def check_generate(parts: ModelParts, method: Method, generate: Callable, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments of ``generate`` with which a method would see half a prompt, or layers could not differ.

    An argument counts before the generation config that is passed, and that before the model's own, as in transformers.
    """
    if parts.decoder.training:
        raise UserError("reduce() is for inference: call model.eval() first")
    if not method.reductions:
        return
    configs = [kwargs.get("generation_config"), getattr(getattr(generate, "__self__", None), "generation_config", None)]

    def setting(name: str) -> Any:
        values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
        return next((value for value in values if value is not None), None)

    chunk, cache = setting("prefill_chunk_size"), setting("cache_implementation")
    if chunk is not None:
        raise UserError(
            f"prefill_chunk_size={chunk} hands the prompt over in parts, but a method has to see it whole: leave it out"
        )
    if cache == "paged":
        raise UserError("reduce() does not work with paged caches: leave cache_implementation out")
    if cache in FIXED_LENGTH and not method.one_length(parts.depth):
        raise UserError(
            f"cache_implementation={cache} has a fixed length, but layers will differ: leave it out, or choose a "
            "method that acts in front of the decoder"
        )
    if setting("assistant_early_exit") is not None:
        raise UserError("assistant_early_exit runs some layers of the reduced model alone: take another assistant")
    if kwargs.get("assistant_model") is not None and kwargs["assistant_model"] is getattr(generate, "__self__", None):
        raise UserError("the assistant is the reduced model itself: take another one")
