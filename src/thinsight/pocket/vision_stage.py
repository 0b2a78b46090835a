"""Stage 1: the vision tower under dense supervision, and the CLIP text tower aligned with its patches and its CLS."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerFast

from thinsight.pocket.architecture import GRID
from thinsight.pocket.optimisation import train
from thinsight.pocket.scenes import COLORS, PATCH
from thinsight.pocket.supervision import FIELDS, KINDS, NONE, Picture, dense, picture

# CLIP's own normalisation, which the shipped processor applies as well.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
STEPS, IMAGES, PEAK = 1000, 48, 3e-3
PHRASES = [f"a {color} {kind}" for color in COLORS for kind in KINDS]


def pixels(images: list[Image.Image]) -> torch.Tensor:
    """(batch, 3, side, side) as the processor makes them, for pictures of the right size already."""
    raw = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    return (raw.float() / 255 - MEAN) / STD


def penultimate(clip: CLIPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """(batch, 1 + patches, width): what LLaVA reads, without running the last layer."""
    tower = clip.vision_model
    states = tower.pre_layrnorm(tower.embeddings(pixel_values))
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, attention_mask=None)
    return states


def under(made: Picture) -> torch.Tensor:
    """(patches,) the phrase of the thing that covers a third of each patch or more; `NONE` where nothing is known,
    `len(PHRASES)` for background."""
    raw = np.asarray(made.image).astype(int)
    away = np.abs(raw - np.median(raw.reshape(-1, 3), axis=0)).sum(-1) > 60
    share = away.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
    out = torch.full((GRID, GRID), len(PHRASES))
    for row, column in zip(*np.nonzero(share > 0.02), strict=True):
        near = [m for m in made.marks if m.row // 3 == row // 3 and m.column // 3 == column // 3]
        near = near or (made.marks if len(made.marks) == 1 else [])
        known = share[row, column] > 0.33 and near
        out[row, column] = near[0].color * len(KINDS) + near[0].kind if known else NONE
    return out.flatten()


class Alignment(nn.Module):
    """Losses of the CLIP space: patches against phrases and words, CLS against all that is in the picture."""

    def __init__(self, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast):
        super().__init__()
        self.clip, self.bias = clip, nn.Parameter(torch.tensor(-4.0))
        texts = [*PHRASES, "a picture", *COLORS, *KINDS]
        self.texts = tokenizer(
            [f"{tokenizer.bos_token} {text}{tokenizer.eos_token}" for text in texts],
            padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt",
        )  # fmt: skip

    def forward(self, states: torch.Tensor, under: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        clip, count = self.clip, len(PHRASES)
        encoded = clip.text_model(self.texts["input_ids"], self.texts["attention_mask"]).pooler_output
        text = F.normalize(clip.text_projection(encoded).float(), dim=-1)
        patch = clip.visual_projection(clip.vision_model.post_layernorm(states[:, 1:]))
        patch = F.normalize(patch.float(), dim=-1)
        known = under != NONE
        scale = clip.logit_scale.exp().clamp(max=50)
        logits = scale * patch[known] @ text.T
        target = under[known]
        weight = torch.ones(count + 1)
        weight[-1] = 0.1
        loss = F.cross_entropy(logits[:, : count + 1], target, weight)
        thing = target < count
        color, kind = target[thing] // len(KINDS), target[thing] % len(KINDS)
        loss = loss + F.cross_entropy(logits[thing, count + 1 : count + 1 + len(COLORS)], color)
        loss = loss + F.cross_entropy(logits[thing, count + 1 + len(COLORS) :], kind)
        last = clip.vision_model.encoder.layers[-1](states, attention_mask=None)
        whole = clip.visual_projection(clip.vision_model.post_layernorm(last[:, 0]))
        present = torch.zeros(len(under), count + 1).scatter_(1, under.clamp_min(0), 1.0)[:, :count]
        present[:, 0] = ((under == 0) & known).any(1).float()
        each = scale * F.normalize(whole.float(), dim=-1) @ text[:count].T + self.bias
        loss = loss + F.binary_cross_entropy_with_logits(each, present) * 3
        right = logits[:, :count].argmax(-1)[thing] == target[thing]
        return loss, {"clip patch": right.float().mean().item()}


class Heads(nn.Module):
    """One linear read-out for each field; they serve training only."""

    def __init__(self, width: int):
        super().__init__()
        self.read = nn.ModuleDict({name: nn.Linear(width, count) for name, count in FIELDS.items()})

    def forward(self, patches: torch.Tensor, labels: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        loss, seen = torch.zeros(()), {}
        for name, read in self.read.items():
            known = labels[name] != NONE
            if not known.any():
                continue
            logits, target = read(patches[known]).float(), labels[name][known]
            weight = torch.tensor([0.15, 1.0]) if name == "center" else None
            loss = loss + F.cross_entropy(logits, target, weight)
            hit = (logits.argmax(-1) == target).float()
            seen[name] = (hit[target == 1] if name == "center" else hit).mean().item()
        return loss, seen


def labels_of(made: list[Picture]) -> dict[str, torch.Tensor]:
    each = [dense(p.marks) for p in made]
    for p, fields in zip(made, each, strict=True):
        if not p.marks:
            fields["center"][:] = NONE
    return {name: torch.stack([fields[name] for fields in each]) for name in FIELDS} | {
        "under": torch.stack([under(p) if p.marks else torch.full((GRID * GRID,), NONE) for p in made])
    }


def train_vision(folder: Path, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> tuple[Heads, Alignment]:
    """Trains ``clip`` in place; returns the read-outs, which joint training goes on with."""
    heads, alignment = Heads(clip.config.vision_config.hidden_size), Alignment(clip, tokenizer)

    def make(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        made = [picture(step * IMAGES + i, 1) for i in range(IMAGES)]
        return pixels([p.image for p in made]), labels_of(made)

    def loss(batch: tuple, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        pixel_values, labels = batch
        states = penultimate(clip, pixel_values)
        fields, seen = heads(states[:, 1:], labels)
        aligned, more = alignment(states, labels["under"])
        return fields + aligned, seen | more

    train(folder, {"alignment": alignment, "heads": heads}, make, loss, STEPS, PEAK)
    return heads, alignment
