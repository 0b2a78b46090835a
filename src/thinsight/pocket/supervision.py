"""What pocket is trained on: pictures with dense labels, symbolic visual tokens, packed questions."""

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedTokenizerFast

from thinsight.pocket.architecture import GRID, SPACE, SYSTEM
from thinsight.pocket.questions import FAMILIES, Question, place, vertical
from thinsight.pocket.scenes import COLORS, MAX_OBJECTS, PATCH, SHAPES, SIDE, SIZES, TEST_SEEDS, Scene, draw, sample

KINDS = (*SHAPES, "sign")
FIELDS = {"color": len(COLORS), "kind": len(KINDS), "size": len(SIZES), "digit": 10, "slot": 3, "last": 2, "center": 2}
NONE = -100  # not labelled: no loss


@dataclass(frozen=True)
class Mark:
    """One informative patch: its place, and the index of each field it carries (`NONE` where it has none)."""

    row: int
    column: int
    color: int
    kind: int
    size: int = NONE
    digit: int = NONE
    slot: int = NONE
    last: int = NONE


def marks(scene: Scene) -> list[Mark]:
    """The patch under each shape's centre, and the patch under each digit of each sign."""
    patches = []
    for thing in scene.things:
        row, column = thing.patch
        color, kind = list(COLORS).index(thing.color), KINDS.index(thing.shape)
        if thing.shape != "sign":
            patches.append(Mark(row, column, color, kind, size=SIZES.index(thing.size)))
            continue
        for i, digit in enumerate(thing.number):
            last = int(i == len(thing.number) - 1)
            patches.append(Mark(row, column + i, color, kind, digit=int(digit), slot=i, last=last))
    return patches


def dense(marked: list[Mark]) -> dict[str, torch.Tensor]:
    """Field -> (GRID * GRID,) int64 labels. Only marked patches carry fields; `center` says which are marked."""
    out = {name: torch.full((GRID * GRID,), NONE) for name in FIELDS}
    out["center"][:] = 0
    for mark in marked:
        place = mark.row * GRID + mark.column
        out["center"][place] = 1
        for name in ("color", "kind", "size", "digit", "slot", "last"):
            out[name][place] = getattr(mark, name)
    return out


IGNORE = -100


@dataclass(frozen=True)
class Packed:
    """All (batch, length): word ids, position ids, segment (0 = shared head, -1 = padding), labels, label weights."""

    ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def mask(self, visual: int, head: int) -> torch.Tensor:
        """(batch, 1, head + visual + length, same) bool: causal, and every question apart from the others."""
        batch = len(self.ids)
        shared = torch.zeros(batch, head + visual, dtype=torch.long)
        segment = torch.cat([shared, self.segments], 1)
        same = (segment[:, None] == segment[..., None]) | (segment[:, None] == 0)
        causal = torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool).tril()
        return (same & causal)[:, None]


class Packer:
    """Turns questions into sequences; words are looked up once and kept."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.words = cache(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        self.eos, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self.head = torch.tensor(self.words(tokenizer.bos_token + SYSTEM + " USER: <image>")[:-1])
        self.start = len(self.head) + GRID * GRID  # position of the first word after the picture

    def __call__(self, batch: list[list[Question]], question_weight: float, multiple: int = 16) -> Packed:
        rows = [self._row(questions, question_weight) for questions in batch]
        longest = max(len(row[0]) for row in rows)
        longest += -longest % multiple
        fill = (self.pad, 0, -1, IGNORE, 0.0)
        columns = zip(zip(*rows, strict=True), fill, strict=True)
        return Packed(*(torch.tensor([row + [end] * (longest - len(row)) for row in rows]) for rows, end in columns))

    def _row(self, questions: list[Question], question_weight: float) -> tuple[list, ...]:
        ids, positions, segments, labels, weights = [], [], [], [], []
        for i, question in enumerate(questions, start=1):
            prompt = self.words(f"\n{question.text} ASSISTANT:")
            answer = [*self.words(" " + question.answer), self.eos]
            ids += prompt + answer
            positions += range(self.start, self.start + len(prompt) + len(answer))
            segments += [i] * (len(prompt) + len(answer))
            # the label of a word is the next one; a question's last word is followed by the answer's first
            labels += [*prompt[1:], *answer, IGNORE]
            weights += [question_weight] * (len(prompt) - 1) + [1.0] * len(answer) + [0.0]
        return ids, positions, segments, labels, weights


# How often each family is asked in training.
EVEN = {"exist": 3, "attribute": 3, "relation": 4, "place": 2, "count": 4, "read": 3, "choice": 3}

# What needs an object found by two properties at once is learned last; here it is asked most.
PAIRED = {"exist": 2, "attribute": 3, "relation": 6, "place": 6, "count": 2, "read": 5, "choice": 2}

# What the symbols' order gave away and the whole grid of a picture does not.
UPRIGHT = {"exist": 1, "attribute": 2, "relation": 2, "place": 3, "count": 2, "read": 2, "choice": 2, "vertical": 8}


@dataclass(frozen=True)
class Picture:
    """`marks` is empty where nobody knows what the picture holds. `image` is None for symbolic training."""

    image: Image.Image | None
    marks: list[Mark]
    questions: list[Question]


def scene_picture(seed: int, asked: int, most: int, drawn: bool, weights: dict[str, int]) -> Picture:
    """A training scene with up to ``asked`` different questions."""
    scene, rng = sample(TEST_SEEDS + seed, most), random.Random(seed)
    families, questions = {**FAMILIES, "place": place, "vertical": vertical}, {}
    for name in rng.choices(list(weights), weights=list(weights.values()), k=2 * asked):
        question = families[name](scene, rng)
        if question and len(questions) < asked:
            questions[question.text] = question
    return Picture(draw(scene) if drawn else None, marks(scene), list(questions.values()))


@cache
def easyvqa_training() -> tuple[tuple[str, Mark | None, tuple[Question, ...]], ...]:
    """easy-vqa's training images: path, what its questions and pixels tell of its one shape, its questions."""
    import easy_vqa

    asked: dict[int, list[Question]] = defaultdict(list)
    shapes: dict[int, str] = {}
    for text, answer, image in zip(*easy_vqa.get_train_questions(), strict=True):
        asked[image].append(Question(text, answer, "easyvqa"))
        if answer in SHAPES:
            shapes[image] = answer
        elif answer == ("no" if " no" in text else "yes") and (named := [shape for shape in SHAPES if shape in text]):
            shapes[image] = named[0]
    paths = easy_vqa.get_train_image_paths()
    return tuple((paths[i], _mark(paths[i], shapes.get(i)), tuple(asked[i])) for i in sorted(asked))


def _mark(path: str, shape: str | None) -> Mark | None:
    if shape is None:
        return None
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    inside = np.abs(pixels - np.median(pixels.reshape(-1, 3), axis=0)).sum(-1) > 60
    if not inside.any():
        return None
    middle = np.median(pixels[inside], axis=0)
    color = int(np.argmin([np.abs(middle - rgb).sum() for rgb in COLORS.values()]))
    row, column = (int(axis.mean() * SIDE / len(pixels)) // PATCH for axis in np.nonzero(inside))
    return Mark(row, column, color, KINDS.index(shape))


def easyvqa_picture(seed: int, asked: int, drawn: bool = True) -> Picture:
    rng = random.Random(seed)
    path, mark, questions = rng.choice(easyvqa_training())
    image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) if drawn else None
    return Picture(image, [mark] if mark else [], rng.sample(questions, min(asked, len(questions))))


def picture(
    seed: int,
    asked: int,
    most: int = MAX_OBJECTS,
    drawn: bool = True,
    easy: float = 0.15,
    weights: dict[str, int] | None = None,
) -> Picture:
    """Training picture number ``seed``: a share ``easy`` of easy-vqa's, the rest scenes of two to ``most`` objects."""
    if random.Random(seed + 5).random() < easy:
        made = easyvqa_picture(seed, asked, drawn)
        if drawn or made.marks:
            return made
    return scene_picture(seed, asked, most, drawn, weights or EVEN)


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
        free = [place for place in product(range(GRID), repeat=2) if place not in taken]
        filled = [*row, *rng.sample(free, length - len(row))]
        out.append(sorted(filled, key=lambda m: (m.row, m.column) if isinstance(m, Mark) else m))
    return out
