"""Where the parts of a multimodal model are: decoder layers, vision tower, language head."""

from dataclasses import dataclass

from torch import nn

from thinsight.errors import UserError

VISION = ("vision_tower", "vision_model", "visual")
"""What model families call the module that takes the pixels."""


LANGUAGE = ("language_model", "text_model")
"""What they call the decoder beside it."""


@dataclass(frozen=True)
class ModelParts:
    """The parts of one model.

    decoder      the stack itself: has ``layers``, ``norm``, ``rotary_emb`` and ``embed_tokens`` (LlamaModel or alike)
    assembler    the module that puts image features into the prompt and calls the decoder; None for a text-only model
    vision       the module that takes the pixels; None for a text-only model
    head         hidden states -> logits; None for a model without one
    image_token  id of the placeholder token, one per visual token; None for a text-only model
    """

    decoder: nn.Module
    assembler: nn.Module | None
    vision: nn.Module | None
    head: nn.Module | None
    image_token: int | None

    @property
    def depth(self) -> int:
        """Number of decoder layers that run."""
        return len(self.layers)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers that run, in order."""
        return self.decoder.layers[: self.decoder.config.num_hidden_layers]

    @property
    def flash(self) -> bool:
        """Whether attention wants 2-D masks (the FlashAttention kernels)."""
        return "flash" in (self.decoder.config._attn_implementation or "")


def find_parts(model: nn.Module) -> ModelParts:
    """Take the model apart; a model that is not built like Llama or LLaVA is a `UserError`."""
    decoder, assembler = model, None
    while not _is_stack(decoder):
        inner = next((n for n in (*LANGUAGE, "model") if isinstance(getattr(decoder, n, None), nn.Module)), None)
        if inner is None:
            raise UserError(f"{type(model).__name__} has no Llama-like decoder (layers, norm, rotary_emb) to reduce in")
        assembler = decoder if inner in LANGUAGE else assembler
        decoder = getattr(decoder, inner)
    config = decoder.config
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise UserError(f"{type(decoder).__name__} mixes kinds of attention: only full attention can be reduced")
    if getattr(config, "sliding_window", None) is not None:
        raise UserError(f"{type(decoder).__name__} has a sliding window: only full attention can be reduced")
    whole = model.config
    token = getattr(whole, "image_token_id", getattr(whole, "image_token_index", None)) if assembler else None
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    vision = next((getattr(assembler, name) for name in VISION if hasattr(assembler, name)), None)
    return ModelParts(decoder, assembler, vision, head, token)


def _is_stack(module: nn.Module) -> bool:
    return isinstance(getattr(module, "layers", None), nn.ModuleList) and hasattr(module, "rotary_emb")


@dataclass(frozen=True)
class VisionTower:
    """A CLIP- or SigLIP-like tower whose projector reads one row for each patch.

    blocks     its transformer blocks
    used       how many of them the projector's features have gone through
    classes    class tokens in front of the patches (CLIP 1, SigLIP 0)
    projector  the module that the features enter
    """

    blocks: nn.ModuleList
    used: int
    classes: int
    projector: nn.Module


def find_tower(model: nn.Module, anatomy: ModelParts) -> VisionTower:
    """The tower of ``model``; one that packs, merges or shuffles patches before its projector is a `UserError`."""
    vision, assembler, config = anatomy.vision, anatomy.assembler, model.config
    name = type(model).__name__
    if vision is None:
        raise UserError(f"{name} has no vision tower: choose a method that acts in the decoder")
    stack = getattr(vision, "vision_model", vision)
    blocks = getattr(getattr(stack, "encoder", None), "layers", None)
    projector, layer = getattr(assembler, "multi_modal_projector", None), getattr(config, "vision_feature_layer", None)
    plain = blocks is not None and all(hasattr(blocks[0], part) for part in PARTS)
    if not plain or projector is None or not isinstance(layer, int) or hasattr(config, "downsample_ratio"):
        raise UserError(
            f"the projector of {name} does not read one row for each patch of a CLIP- or SigLIP-like tower, so nothing "
            "can be reduced in front of it: choose a method that acts behind the projector or in the decoder"
        )
    if hasattr(config, "vision_aspect_ratio"):
        raise UserError(
            f"{name} shrinks large pictures by interpolation behind its projector, which would mix patches that stay "
            "with those that are gone: choose a method that acts behind the projector or in the decoder"
        )
    depth = len(blocks)
    used = layer if layer >= 0 else depth + 1 + layer
    classes = int(getattr(config, "vision_feature_select_strategy", "full") == "default")
    has_class = hasattr(getattr(stack, "embeddings", None), "class_embedding")
    if classes != int(has_class):
        raise UserError(
            f"{name} passes its class token on as a patch: reductions in front of its projector would take it for one"
        )
    return VisionTower(blocks, used, classes, projector)


PARTS = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
"""What CLIP and SigLIP call the parts of a block."""
