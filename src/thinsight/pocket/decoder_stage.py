"""Stage 2: the decoder alone, on symbolic visual tokens."""

import random
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from thinsight.pocket.architecture import GRID
from thinsight.pocket.optimisation import Phase, train
from thinsight.pocket.scenes import MAX_OBJECTS
from thinsight.pocket.supervision import EVEN, IGNORE, PAIRED, Mark, Packed, Packer, Picture, Symbols, padded, picture


@dataclass(frozen=True)
class DecoderPhase(Phase):
    """A stretch of this stage."""

    question_weight: float
    grow: int = 0  # steps until one more object may appear, from two on; 0: all from the start
    deep: bool = False  # with all layers, not every second one, and with the words and symbols as they are by then


# The first phase learns what one property finds; its words of the question, learnt as well, bring attention to the
# picture. The second learns what only two properties find. The third spreads the work over twice the layers.
DECODER_PHASES = (
    DecoderPhase("lookup", 700, 1800, 3e-3, EVEN, 0, question_weight=0.5, grow=60),
    DecoderPhase("pairs", 700, 700, 2e-3, PAIRED, 100_000, question_weight=0.05),
    DecoderPhase("deep", 400, 400, 1e-3, EVEN, 200_000, question_weight=0.05, deep=True),
)

SCENES, ASKED = 64, 6


def answers(
    llava: LlavaForConditionalGeneration, visual: torch.Tensor, places: torch.Tensor, packed: Packed, packer: Packer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and whether each question's whole answer is right (teacher-forced): (questions,) bool, in segment order.

    ``visual`` (batch, tokens, width) stand at the patches ``places`` (batch, tokens): their RoPE positions.
    """
    decoder, head = llava.model.language_model, packer.head
    batch, words = len(packed.ids), decoder.embed_tokens
    prefix = words(head).expand(batch, -1, -1)
    states = torch.cat([prefix, visual.to(prefix.dtype), words(packed.ids)], 1)
    positions = torch.cat([torch.arange(len(head)).expand(batch, -1), len(head) + places, packed.positions], 1)
    mask = packed.mask(visual.shape[1], len(head))
    out = decoder(inputs_embeds=states, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    logits = llava.lm_head(out[:, -packed.ids.shape[1] :]).float()
    each = F.cross_entropy(logits.flatten(0, 1), packed.labels.flatten(), ignore_index=IGNORE, reduction="none")
    each = each.view_as(packed.weights)
    answer, question = packed.weights == 1, (packed.weights > 0) & (packed.weights < 1)
    loss = (each * answer).sum() / answer.sum()
    if question.any():
        loss = loss + (each * packed.weights * question).sum() / question.sum()
    wrong = ((logits.argmax(-1) != packed.labels) & answer).float()
    key = packed.segments.clamp_min(0) + torch.arange(batch)[:, None] * (packed.segments.max() + 1)
    wrongs = torch.zeros(int(key.max()) + 1).index_add(0, key.flatten(), wrong.flatten())
    return loss, wrongs[key[answer].unique()] == 0


def by_kind(pictures: list[Picture], right: torch.Tensor) -> dict[str, float]:
    """Share of right answers of each kind of question."""
    kinds = [FAMILY.get(question.kind, question.kind) for made in pictures for question in made.questions]
    return pd.Series(right.tolist(), dtype=float).groupby(kinds).mean().to_dict()


FAMILY = {
    **dict.fromkeys(("random", "popular", "adversarial"), "exist"),
    **dict.fromkeys(("verify", "choose"), "relation"),
    **dict.fromkeys(("2 digits", "3 digits"), "read"),
    **dict.fromkeys(("color", "shape", "size", "sign"), "lookup or count"),
}


def train_decoder(folder: Path, llava: LlavaForConditionalGeneration, packer: Packer) -> Symbols:
    """Trains `llava`'s decoder in place; returns the symbols it has learnt to read.

    The decoder learns with every second layer first; the others join as identity, their outputs zero.
    """
    symbols, decoder = Symbols(packer.tokenizer, llava.config.text_config.hidden_size), llava.model.language_model
    every_layer = decoder.layers
    for layer in list(every_layer)[1::2]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    for phase in DECODER_PHASES:
        decoder.layers = every_layer if phase.deep else nn.ModuleList(list(every_layer)[::2])
        _train_phase(folder / phase.name, phase, llava, symbols, packer)
    decoder.layers = every_layer
    return symbols


def _train_phase(
    folder: Path, phase: DecoderPhase, llava: LlavaForConditionalGeneration, symbols: Symbols, packer: Packer
) -> None:
    decoder = llava.model.language_model

    def make(step: int) -> tuple[list[Picture], list[list[Mark | tuple[int, int]]], Packed]:
        most = min(MAX_OBJECTS, 2 + step // phase.grow) if phase.grow else MAX_OBJECTS
        first = phase.first + step * SCENES
        made = [picture(first + i, ASKED, most, drawn=False, weights=phase.weights) for i in range(SCENES)]
        placed = padded([p.marks for p in made], random.Random(step))
        return made, placed, packer([p.questions for p in made], phase.question_weight)

    def loss(batch: tuple, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        made, placed, packed = batch
        visual = symbols(placed, decoder.embed_tokens)
        value, right = answers(llava, visual, patch_numbers(placed), packed, packer)
        return value, by_kind(made, right)

    for words in (decoder.embed_tokens, symbols):
        words.requires_grad_(not phase.deep)
    modules = nn.ModuleDict({"decoder": decoder, "symbols": symbols})
    train(folder, {"decoder": modules}, make, loss, phase.steps, phase.peak, horizon=phase.horizon)
    modules.requires_grad_(True)


def patch_numbers(placed: list[list[Mark | tuple[int, int]]]) -> torch.Tensor:
    """(batch, tokens): each token's patch in raster order."""
    rows = [[(m.row, m.column) if isinstance(m, Mark) else m for m in row] for row in placed]
    return torch.tensor([[row * GRID + column for row, column in places] for places in rows])
