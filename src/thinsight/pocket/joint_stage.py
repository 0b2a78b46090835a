"""Stages 3 and 4: the picture is translated into the decoder's symbols, then all parts learn together on pixels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPModel, LlavaForConditionalGeneration

from thinsight.pocket.architecture import GRID
from thinsight.pocket.decoder_stage import answers, by_kind
from thinsight.pocket.optimisation import Phase, train
from thinsight.pocket.supervision import EVEN, PAIRED, UPRIGHT, Mark, Packed, Packer, Picture, Symbols, picture
from thinsight.pocket.vision_stage import Alignment, Heads, labels_of, penultimate, pixels

TRANSLATE_STEPS, TRANSLATE_IMAGES, TRANSLATE_PEAK = 500, 48, 2e-3
DENSE_WEIGHT = 0.1  # of the losses of stage 1, which go on


@dataclass(frozen=True)
class JointPhase(Phase):
    """A stretch of the joint stage."""

    eyes: bool = True  # whether the vision tower learns as well


# Places arrive blurred from the translation; the later phases ask most for what needs them.
JOINT_PHASES = (
    JointPhase("joint/all", 200, 500, 5e-4, EVEN, first=1_000_000),
    JointPhase("joint/pairs", 450, 450, 7e-4, PAIRED, first=1_100_000),
    JointPhase("joint/upright", 350, 350, 1.5e-3, UPRIGHT, first=1_200_000, eyes=False),
    JointPhase("joint/polish", 200, 200, 4e-4, UPRIGHT, first=1_300_000),
)

IMAGES, ASKED = 24, 8


def whole_grid(marks: list[Mark]) -> list[Mark | tuple[int, int]]:
    """Every patch in raster order: its mark, or its place alone where it is empty."""
    at = {(m.row, m.column): m for m in marks}
    return [at.get((r, c), (r, c)) for r in range(GRID) for c in range(GRID)]


class Parts(nn.Module):
    """All that learns from pixels, with the losses that both stages share."""

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        clip: CLIPModel,
        symbols: Symbols,
        heads: Heads,
        alignment: Alignment,
    ):
        super().__init__()
        self.llava, self.clip, self.symbols, self.heads, self.alignment = llava, clip, symbols, heads, alignment

    def see(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Penultimate states (batch, 1 + patches, width) and visual tokens (batch, patches, decoder width)."""
        states = penultimate(self.clip, pixel_values)
        return states, self.llava.model.multi_modal_projector(states[:, 1:])

    def dense(self, states: torch.Tensor, labels: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        fields, seen = self.heads(states[:, 1:], labels)
        aligned, more = self.alignment(states, labels["under"])
        return fields + aligned, {"center": seen["center"], **more}


def translate(folder: Path, parts: Parts) -> None:
    """Tower and projector regressed onto the symbols: relative squared error, marked patches apart from empty ones."""

    def make(step: int) -> tuple:
        first = 500_000 + step * TRANSLATE_IMAGES
        made = [made for i in range(TRANSLATE_IMAGES) if (made := picture(first + i, 1)).marks]
        return pixels([p.image for p in made]), labels_of(made), [whole_grid(p.marks) for p in made]

    def loss(batch: tuple, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        pixel_values, labels, grids = batch
        states, visual = parts.see(pixel_values)
        with torch.no_grad():
            target = parts.symbols(grids, parts.llava.model.language_model.embed_tokens).float()
        error, size_of = (visual.float() - target).square().sum(-1), target.square().sum(-1)
        marked = labels["center"] == 1
        residual = [error[which].sum() / size_of[which].sum() for which in (marked, ~marked)]
        dense, seen = parts.dense(states, labels)
        seen |= {"residual marked": residual[0].item(), "residual empty": residual[1].item()}
        return residual[0] + 0.5 * residual[1] + DENSE_WEIGHT * dense, seen

    learning = nn.ModuleList([parts.alignment, parts.heads, parts.llava.model.multi_modal_projector])
    train(folder, {"all": learning}, make, loss, TRANSLATE_STEPS, TRANSLATE_PEAK)


def joint(folder: Path, parts: Parts, packer: Packer) -> None:
    """Everything on pixels, many questions a picture; the dense losses go on with a small weight."""
    for phase in JOINT_PHASES:
        _joint_phase(folder / phase.name, phase, parts, packer)


def _joint_phase(folder: Path, phase: JointPhase, parts: Parts, packer: Packer) -> None:
    places = torch.arange(GRID * GRID)

    def make(step: int) -> tuple[list[Picture], torch.Tensor, dict[str, torch.Tensor], Packed]:
        first = phase.first + step * IMAGES
        made = [picture(first + i, ASKED, weights=phase.weights) for i in range(IMAGES)]
        return made, pixels([p.image for p in made]), labels_of(made), packer([p.questions for p in made], 0.0)

    def loss(batch: tuple, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        made, pixel_values, labels, packed = batch
        states, visual = parts.see(pixel_values)
        value, right = answers(parts.llava, visual, places.expand(len(made), -1), packed, packer)
        if not phase.eyes:
            return value, by_kind(made, right)
        dense, seen = parts.dense(states, labels)
        return value + DENSE_WEIGHT * dense, by_kind(made, right) | seen

    modules = {"tower": nn.ModuleList([parts.alignment, parts.heads]), "llava": parts.llava}
    modules["tower"].requires_grad_(phase.eyes)  # it holds the vision tower that the LLaVA shares
    train(folder, modules, make, loss, phase.steps, phase.peak, horizon=phase.horizon)
