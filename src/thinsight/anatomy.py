"""Where the parts of a transformers model are that a reduction has to reach."""

from dataclasses import dataclass

from torch import nn

from thinsight.errors import UserError

VISION = ("vision_tower", "vision_model", "visual")
"""What model families call the module that takes the pixels."""

LANGUAGE = ("language_model", "text_model")
"""What they call the decoder beside it."""


@dataclass(frozen=True)
class Anatomy:
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


def find(model: nn.Module) -> Anatomy:
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
    return Anatomy(decoder, assembler, vision, head, token)


def _is_stack(module: nn.Module) -> bool:
    return isinstance(getattr(module, "layers", None), nn.ModuleList) and hasattr(module, "rotary_emb")
