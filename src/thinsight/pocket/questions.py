"""Questions about a scene, one function per family; each yields `Question`s whose answer the picture decides."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from thinsight.pocket.scenes import COLORS, POPULARITY, SHAPES, SIZES, Scene, Thing


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    kind: str


def plural(shape: str) -> str:
    return {"cross": "crosses"}.get(shape, shape + "s")


def shapes_of(scene: Scene) -> list[Thing]:
    return [thing for thing in scene.things if thing.shape != "sign"]


def unique(things: list[Thing], key: Callable[[Thing], object]) -> list[Thing]:
    """Those whose ``key`` no other thing shares: the ones a question may point at by that key."""
    count = Counter(map(key, things))
    return [thing for thing in things if count[key(thing)] == 1]


def pair(thing: Thing) -> tuple[str, str]:
    return thing.color, thing.shape


def exist(scene: Scene, rng: random.Random, kind: str | None = None) -> Question | None:
    """POPE's form: half yes; the absent object is any (`random`), a frequent one (`popular`), or one whose colour and
    whose shape are both in the picture, on different objects (`adversarial`)."""
    kind = kind or rng.choice(("random", "popular", "adversarial"))
    present = sorted({pair(thing) for thing in shapes_of(scene)})
    if not present:
        return None
    answer, pairs = "yes", present
    if rng.random() >= 0.5:
        answer, pairs = "no", [absent for absent in POPULARITY if absent not in present]
        if kind == "popular":
            pairs = pairs[:8]
        elif kind == "adversarial":
            colors, shapes = map(set, zip(*present, strict=True))
            pairs = [(color, shape) for color, shape in pairs if color in colors and shape in shapes]
    if not pairs:
        return None
    color, shape = rng.choice(pairs)
    return Question(f"Is there a {color} {shape} in the image?", answer, kind)


def attribute(scene: Scene, rng: random.Random) -> Question | None:
    """VQAv2's form: the colour, shape or size of the one object that the question points at."""
    kind, things = rng.choice(("color", "shape", "size")), shapes_of(scene)
    if kind == "color":
        if rng.random() < 0.3:
            signs = [thing for thing in scene.things if thing.shape == "sign"]
            return Question("What color is the sign?", signs[0].color, kind) if len(signs) == 1 else None
        clear = unique(things, lambda t: t.shape)
        return Question(f"What color is the {(t := rng.choice(clear)).shape}?", t.color, kind) if clear else None
    if kind == "shape":
        clear = [t for t in unique(list(scene.things), lambda t: t.color) if t.shape != "sign"]
        return Question(f"What shape is the {(t := rng.choice(clear)).color} object?", t.shape, kind) if clear else None
    clear = unique(things, pair)
    return Question(f"What size is the {(t := rng.choice(clear)).color} {t.shape}?", t.size, kind) if clear else None


AXES = (("left of", "right of", 1), ("above", "below", 0))


def relation(scene: Scene, rng: random.Random, axes: tuple = AXES) -> Question | None:
    """GQA's form: two objects compared along one axis, to verify or to choose."""
    things = unique(shapes_of(scene), pair)
    if len(things) < 2:
        return None
    first, second = rng.sample(things, 2)
    different = [axis for axis in axes if first.cell[axis[2]] != second.cell[axis[2]]]
    if not different:
        return None
    low, high, axis = rng.choice(different)
    truth = low if first.cell[axis] < second.cell[axis] else high
    left, right = (f"the {thing.color} {thing.shape}" for thing in (first, second))
    if rng.random() < 0.5:
        claim = rng.choice((low, high))
        return Question(f"Is {left} {claim} {right}?", "yes" if claim == truth else "no", "verify")
    return Question(f"Is {left} {low} or {high} {right}?", truth.removesuffix(" of"), "choose")


def vertical(scene: Scene, rng: random.Random) -> Question | None:
    """Only for training: `relation` along the second axis, which pictures teach later than the first."""
    return relation(scene, rng, AXES[1:])


def place(scene: Scene, rng: random.Random) -> Question | None:
    """Only for training: the row or column of one object, which relation builds on."""
    things = unique(shapes_of(scene), pair)
    if not things:
        return None
    thing, axis = rng.choice(things), rng.randrange(2)
    text = f"Which {('row', 'column')[axis]} is the {thing.color} {thing.shape} in?"
    return Question(text, str(thing.cell[axis] + 1), "place")


def count(scene: Scene, rng: random.Random) -> Question | None:
    """How many objects share a colour, a shape, or are signs: 0 to 6."""
    kind, things = rng.choice(("color", "color", "shape", "shape", "sign")), shapes_of(scene)
    if kind == "sign":
        return Question("How many signs are there?", str(len(scene.things) - len(things)), kind)
    names, key = (list(COLORS), lambda t: t.color) if kind == "color" else (list(SHAPES), lambda t: t.shape)
    numbers = Counter(map(key, things))
    # an even choice over the numbers that occur, so that "1" is not the answer to everything
    wanted = rng.choice(sorted({numbers[name] for name in names}))
    name = rng.choice([name for name in names if numbers[name] == wanted])
    text = f"How many {name} shapes are there?" if kind == "color" else f"How many {plural(name)} are there?"
    return Question(text, str(wanted), kind)


def read(scene: Scene, rng: random.Random) -> Question | None:
    """TextVQA's form: the number on a sign, one token a digit."""
    signs = [thing for thing in scene.things if thing.shape == "sign"]
    if not (clear := unique(signs, lambda t: t.color)):
        return None
    sign = rng.choice(clear)
    which = "the sign" if len(signs) == 1 and rng.random() < 0.3 else f"the {sign.color} sign"
    return Question(f"What number is on {which}?", sign.number, f"{len(sign.number)} digits")


LETTERS = "ABCD"


def choice(scene: Scene, rng: random.Random) -> Question | None:
    """ScienceQA's and MMBench's form: an attribute or count question with lettered options."""
    plain = None
    while plain is None or plain.kind == "sign" or plain.answer in ("sign", *SIZES):
        plain = rng.choice((attribute, attribute, count))(scene, rng)
    answers = next((names for names in (COLORS, SHAPES) if plain.answer in names), map(str, range(6)))
    options = [plain.answer, *rng.sample([answer for answer in answers if answer != plain.answer], 3)]
    rng.shuffle(options)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return Question(f"{plain.text}\n{lines}", LETTERS[options.index(plain.answer)], "choice")


FAMILIES = {family.__name__: family for family in (exist, attribute, relation, count, read, choice)}
