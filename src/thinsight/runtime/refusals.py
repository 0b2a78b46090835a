"""What would be wrong without a sign of it, and is refused before it is computed."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from thinsight.errors import UserError
from thinsight.methods.vtw import AllVisual
from thinsight.models.architecture import ModelParts
from thinsight.reduction.method import Method
from thinsight.reduction.prompt import Prompt
from thinsight.reduction.sites import Projected


def check_call(decoder: nn.Module, arguments: dict, method: Method) -> None:
    """Refuse what would be wrong without a sign of it."""
    cache, mask = arguments.get("past_key_values"), arguments.get("attention_mask")
    kernel = decoder.config._attn_implementation or ""
    if cache is not None:
        check_cache(cache, method, len(decoder.layers))
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() in (2, 4)):
        raise UserError("reduce() reads attention masks with 2 or 4 dimensions, not flex attention's blocks")
    if kernel == "flex_attention":
        raise UserError("reduce() does not work with flex attention: load the model with sdpa or eager attention")
    if kernel.startswith("paged"):
        raise UserError("reduce() does not work with paged attention: load the model with sdpa or eager attention")


def check_cache(cache: object, method: Method, depth: int) -> None:
    """Refuse a cache whose layers have to be of one length, where the method makes them differ."""
    kind = type(cache).__name__
    if any(getattr(cache, "is_sliding", ())):
        raise UserError(f"{kind} forgets old tokens, but a reduced prompt is not a window: use a DynamicCache")
    if getattr(cache, "is_compileable", False) and not method.one_length(depth):
        raise UserError(f"{kind} has a fixed length, but layers will differ: use a DynamicCache")


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt whose last token, which has to answer, is a visual one and may leave, and half a picture."""
    if prompt.hidden:
        raise UserError("the attention mask hides a part of a picture: leave its tokens in sight, a method chooses")
    every = (part[:, : prompt.end].numpy() for part in (prompt.alive, prompt.visual))
    for alive, visual in zip(*every, strict=True):
        if visual[alive][-1:].any():
            raise UserError(
                "the prompt ends with its picture, whose last token would have to answer: put text behind it"
            )


def check_logits(method: Method, wanted: object) -> None:
    """Refuse columns of the whole prompt, since logits are those of the shortened one."""
    if not method.reductions or wanted is None or isinstance(wanted, int):
        return
    if not isinstance(wanted, Tensor) or bool((wanted >= 0).any()):
        raise UserError(
            "logits_to_keep names columns, and columns move where tokens leave: take a number of last tokens, or all "
            "logits, whose columns trace.columns names"
        )


CHOICES_OF_FEATURES = ("vision_feature_layer", "vision_feature_select_strategy")
"""What the config of a LLaVA says of the states that its projector reads, and a call may say otherwise."""


def check_features(config: object, given: Mapping[str, Any]) -> None:
    """Refuse states for the projector that are not those where a method in the vision tower acts."""
    for name in CHOICES_OF_FEATURES:
        if given.get(name) is not None and given[name] != getattr(config, name, None):
            raise UserError(f"{name}={given[name]} differs from the model's config: set it there, before reduce()")


def check_packing(method: Method) -> None:
    """Refuse to pack numbers along several axes, unless only text enters the decoder: its axes all agree."""
    for reduction in method.reductions:
        blind = isinstance(reduction.filter, AllVisual) and isinstance(reduction.site, Projected)
        if reduction.site.positions == "pack" and not blind:
            raise UserError("positions=pack is not defined for multi-axis rotary embedding: use positions=keep")


FIXED_LENGTH = ("static", "offloaded_static", "hybrid", "sliding_window")
"""Names of ``cache_implementation`` whose layers all have one length."""


def check_generate(parts: ModelParts, method: Method, generate: Callable, given: Mapping[str, Any]) -> None:
    """Refuse what ``generate`` is ``given`` by name with which a method would see half a prompt, or layers could not
    differ.

    An argument counts before the generation config that is passed, and that before the model's own, as in transformers.
    """
    if parts.decoder.training:
        raise UserError("reduce() is for inference: call model.eval() first")
    if not method.reductions:
        return
    if given.get("past_key_values") is not None:
        check_cache(given["past_key_values"], method, parts.depth)
    configs = [given.get("generation_config"), getattr(getattr(generate, "__self__", None), "generation_config", None)]

    def setting(name: str) -> Any:
        values = [given.get(name), *(getattr(config, name, None) for config in configs)]
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
    if setting("token_healing"):
        raise UserError("token_healing rewrites the prompt behind its caller's back: leave it out")
    if setting("assistant_early_exit") is not None:
        raise UserError("assistant_early_exit runs some layers of the reduced model alone: take another assistant")
    if given.get("assistant_model") is not None and given["assistant_model"] is getattr(generate, "__self__", None):
        raise UserError("the assistant is the reduced model itself: take another one")
