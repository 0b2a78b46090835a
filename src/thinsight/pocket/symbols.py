"""Symbolic visual tokens: each a sum of the decoder's own word embeddings with a row and a column embedding."""

import random

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from thinsight.pocket.architecture import GRID
from thinsight.pocket.labels import KINDS, NONE, Mark
from thinsight.pocket.scenes import COLORS, SIZES
from thinsight.pocket.vocabulary import SPACE


class Symbols(nn.Module):
    """Embeds marks as the decoder would like to see them; later the vision tower's targets."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, width: int):
        super().__init__()
        ids = tokenizer.convert_tokens_to_ids
        self.words = {
            "color": torch.tensor([ids(SPACE + name) for name in COLORS]),
            "kind": torch.tensor([ids(SPACE + name) for name in KINDS]),
            "size": torch.tensor([ids(SPACE + name) for name in SIZES]),
            "first": torch.tensor([ids(SPACE + digit) for digit in "0123456789"]),
            "later": torch.tensor([ids(digit) for digit in "0123456789"]),
        }
        self.row, self.column = nn.Embedding(GRID, width), nn.Embedding(GRID, width)
        self.slot, self.last, self.empty = nn.Embedding(3, width), nn.Embedding(2, width), nn.Embedding(1, width)
        for table in (self.row, self.column, self.slot, self.last, self.empty):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, marks: list[list[Mark | tuple[int, int]]], words: nn.Embedding) -> torch.Tensor:
        """Embeddings (batch, tokens, width) of lists of equal length; a bare (row, column) is an empty patch."""
        flat = [m if isinstance(m, Mark) else Mark(*m, NONE, NONE) for row in marks for m in row]
        column = {name: torch.tensor([getattr(m, name) for m in flat]) for name in Mark.__dataclass_fields__}
        out = self.row(column["row"]) + self.column(column["column"])
        out = out + self.empty.weight * (column["color"] == NONE)[:, None]
        for name in ("color", "kind", "size"):
            out = out + _present(words(self.words[name][column[name].clamp_min(0)]), column[name])
        digit = column["digit"].clamp_min(0)
        ids = torch.where(column["slot"] == 0, self.words["first"][digit], self.words["later"][digit])
        out = out + _present(words(ids), column["digit"])
        for name in ("slot", "last"):
            out = out + _present(getattr(self, name)(column[name].clamp_min(0)), column[name])
        return out.view(len(marks), -1, out.shape[-1])


def _present(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return states * (index != NONE)[:, None]


def padded(marks: list[list[Mark]], rng: random.Random, spare: int = 6) -> list[list[Mark | tuple[int, int]]]:
    """Each list filled with empty patches to one length, in raster order, as the patches of a picture come."""
    length = max(map(len, marks)) + spare
    out = []
    for row in marks:
        taken = {(m.row, m.column) for m in row}
        free = [(r, c) for r in range(GRID) for c in range(GRID) if (r, c) not in taken]
        filled = [*row, *rng.sample(free, length - len(row))]
        out.append(sorted(filled, key=lambda m: (m.row, m.column) if isinstance(m, Mark) else m))
    return out
