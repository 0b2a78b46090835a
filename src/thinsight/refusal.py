"""What a reduction would get wrong without a sign of it, and therefore refuses."""

from torch import Tensor, nn

from thinsight.errors import UserError
from thinsight.prompt import Prompt
from thinsight.reduction import Method
from thinsight.site import Projected
from thinsight.stages.filter import AllVisual


def filled(cache: object | None) -> bool:
    """Whether a cache holds anything yet."""
    return cache is not None and cache.get_seq_length() > 0


def check(decoder: nn.Module, given: dict) -> None:
    """Refuse what would be wrong without a sign of it."""
    cache, mask = given.get("past_key_values"), given.get("attention_mask")
    if decoder.training:
        raise UserError("reduce() is for inference: call model.eval() first")
    if cache is not None and (getattr(cache, "is_compileable", False) or any(getattr(cache, "is_sliding", ()))):
        raise UserError(f"{type(cache).__name__} has a fixed length, but layers will differ: use a DynamicCache")
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() in (2, 4)):
        raise UserError("reduce() reads attention masks with 2 or 4 dimensions, not flex attention's blocks")
    if decoder.config._attn_implementation == "flex_attention":
        raise UserError("reduce() does not work with flex attention: load the model with sdpa or eager attention")


def check_end(prompt: Prompt) -> None:
    """Refuse a prompt whose last token, which has to answer, is a visual one and may leave."""
    for alive, visual in zip(prompt.alive, prompt.visual, strict=True):
        if bool(visual[alive][-1:].any()):
            raise UserError(
                "the prompt ends with its picture, whose last token would have to answer: put text behind it"
            )


def check_packing(method: Method) -> None:
    """Refuse to pack numbers along several axes, unless only text enters the decoder: its axes all agree."""
    for reduction in method.reductions:
        blind = isinstance(reduction.filter, AllVisual) and isinstance(reduction.site, Projected)
        if reduction.site.positions == "pack" and not blind:
            raise UserError("positions=pack is not defined for multi-axis rotary embedding: use positions=keep")
