"""Training pictures with their labels and questions: drawn scenes, and easy-vqa's own training images."""

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from thinsight.pocket.labels import KINDS, Mark, marks
from thinsight.pocket.questions import FAMILIES, Question, place, vertical
from thinsight.pocket.scenes import COLORS, MAX_OBJECTS, PATCH, SHAPES, SIDE, TEST_SEEDS, draw, sample

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
    families, found = {**FAMILIES, "place": place, "vertical": vertical}, {}
    for name in rng.choices(list(weights), weights=list(weights.values()), k=2 * asked):
        question = families[name](scene, rng)
        if question and len(found) < asked:
            found[question.text] = question
    return Picture(draw(scene) if drawn else None, marks(scene), list(found.values()))


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
        elif answer == ("no" if " no" in text else "yes"):
            named = [shape for shape in SHAPES if shape in text]
            if named:
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
        found = easyvqa_picture(seed, asked, drawn)
        if drawn or found.marks:
            return found
    return scene_picture(seed, asked, most, drawn, weights or EVEN)
