"""CLIP's shared space: texts through its text tower, patches through its last norm and projection."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thinsight.config import ROOT
from thinsight.errors import UserError

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TextTower:
    """A CLIP checkpoint whose vision tower is the model's own, in float32; its vision blocks are not kept."""

    clip: "CLIPModel"
    tokenizer: "PreTrainedTokenizerBase"

    @classmethod
    def load(cls, name: str) -> "TextTower":
        """From a folder (relative to the project's root) or the hub; what cannot be loaded is a `UserError`."""
        from transformers import AutoTokenizer, CLIPModel

        folder = ROOT / name  # an absolute name stays as it is
        local = (folder / "config.json").is_file()
        hub = not Path(name).is_absolute() and name.count("/") == 1 and not name.startswith((".", "data/"))
        if not local and not hub:
            raise UserError(f"there is no text tower at {name}: check the folder out again, or take space=llm")
        source = str(folder) if local else name
        try:
            clip, info = CLIPModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # transformers, safetensors and the hub share no base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(
                f"the text tower {name} can neither be read from a folder nor fetched from the hub ({reason}): "
                "space=llm does without one"
            ) from error
        if info["missing_keys"]:
            raise UserError(f"the weights in {name} are no whole CLIP: {sorted(info['missing_keys'])[0]} is missing")
        clip.vision_model.encoder = torch.nn.Identity()
        return cls(clip.eval().requires_grad_(False), tokenizer)

    def texts(self, texts: list[str], device: torch.device) -> list[Tensor]:
        """For each text (chunks, width): embeddings, not normalised, of its chunks of as many tokens as the tower takes
        (77 for CLIP, begin and end included)."""
        clip, chunks = self.clip.to(device), []
        counts = []
        for text in texts:
            # a space in front, as behind a template's words: SentencePiece-like vocabularies write it into the token
            ids = self.tokenizer(f" {text.strip()}", add_special_tokens=False).input_ids
            size = clip.config.text_config.max_position_embeddings - 2
            parts = [ids[start : start + size] for start in range(0, max(len(ids), 1), size)]
            chunks += [[self.tokenizer.bos_token_id, *part, self.tokenizer.eos_token_id] for part in parts]
            counts.append(len(parts))
        width = max(map(len, chunks))
        fill = self.tokenizer.pad_token_id
        ids = torch.tensor([chunk + [fill] * (width - len(chunk)) for chunk in chunks], device=device)
        mask = torch.tensor([[1] * len(chunk) + [0] * (width - len(chunk)) for chunk in chunks], device=device)
        pooled = clip.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return list(clip.text_projection(pooled).split(counts))

    def patches(self, features: Tensor) -> Tensor:
        """(n, width) features in front of a projector -> (n, width of the space), not normalised."""
        tower, project = self.clip.vision_model, self.clip.visual_projection
        if features.shape[-1] != project.in_features:
            raise UserError(
                f"features of width {features.shape[-1]} are not those of this text tower, which takes "
                f"{project.in_features}: take the tower that belongs to the model, or space=llm"
            )
        self.clip.to(features.device)
        return project(tower.post_layernorm(features.float()))
