"""Many-object pictures: shapes and signs on a 4 x 4 grid of cells, drawn from a seed."""

import math
import random
from dataclasses import dataclass
from itertools import product

from PIL import Image, ImageDraw, ImageFont

SIDE, PATCH, CELLS = 168, 14, 4
CELL = SIDE // CELLS  # 42 px = 3 x 3 patches

# The eight colours of easy-vqa, at its own RGB values, so that both data sets speak of the same things.
COLORS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
    "black": (0, 0, 0), "gray": (128, 128, 128), "teal": (0, 128, 128), "brown": (165, 42, 42),
}  # fmt: skip

SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "ring")
SIZES = ("small", "large")
MAX_OBJECTS = 8
TEST_SEEDS = 10_000_000  # seeds below are the test pictures', those from here on are for training


@dataclass(frozen=True)
class Thing:
    """A shape, or a sign with a number. `x`, `y`: centre in pixels; a sign's `x` is its first digit's."""

    color: str
    shape: str
    size: str
    cell: tuple[int, int]  # row, column
    x: float
    y: float
    number: str = ""

    @property
    def patch(self) -> tuple[int, int]:
        """Row and column of the patch under the centre."""
        return int(self.y) // PATCH, int(self.x) // PATCH


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: tuple[int, int, int]
    seed: int


def popularity() -> dict[tuple[str, str], float]:
    """How often each (colour, shape) is drawn: skewed, so that "popular" absent objects exist as they do in POPE."""
    pairs = list(product(COLORS, SHAPES))
    random.Random(7).shuffle(pairs)
    return {pair: 1.0 / (rank + 6) for rank, pair in enumerate(pairs)}


POPULARITY = popularity()


def sample(seed: int, most: int = MAX_OBJECTS) -> Scene:
    """The scene of ``seed``: two to ``most`` things, at most two of them signs."""
    rng = random.Random(seed)
    count = rng.randint(2, max(2, most))
    cells = rng.sample(list(product(range(CELLS), repeat=2)), count)
    signs = rng.choice((0, 1, 1, 2)) if count > 2 else rng.choice((0, 1))
    pairs = rng.choices(list(POPULARITY), weights=list(POPULARITY.values()), k=count)
    things = []
    for i, (cell, (color, shape)) in enumerate(zip(cells, pairs, strict=True)):
        if i < signs:
            things.append(_sign(rng, rng.choice(list(COLORS)), cell))
        else:
            x = cell[1] * CELL + CELL / 2 + rng.uniform(-4, 4)
            y = cell[0] * CELL + CELL / 2 + rng.uniform(-4, 4)
            things.append(Thing(color, shape, rng.choice(SIZES), cell, x, y))
    return Scene(tuple(things), tuple(rng.randint(230, 255) for _ in range(3)), seed)


def _sign(rng: random.Random, color: str, cell: tuple[int, int]) -> Thing:
    digits = rng.choice((2, 3))
    number = str(rng.randint(10 ** (digits - 1), 10**digits - 1))
    first = cell[1] * 3 + rng.randint(0, 3 - digits)  # patch column of the first digit: one patch a digit
    x = first * PATCH + PATCH / 2 + rng.uniform(-1.5, 1.5)
    y = cell[0] * CELL + CELL / 2 + rng.uniform(-1.5, 1.5)
    return Thing(color, "sign", "large", cell, x, y, number)


def draw(scene: Scene) -> Image.Image:
    """The picture, ``SIDE`` x ``SIDE`` RGB, drawn at twice the size and reduced for smooth edges."""
    image = Image.new("RGB", (2 * SIDE, 2 * SIDE), scene.background)
    pen = ImageDraw.Draw(image)
    rng = random.Random(scene.seed + 1)
    for thing in scene.things:
        if thing.shape == "sign":
            _draw_sign(pen, thing)
        else:
            _draw_shape(pen, thing, rng, scene.background)
    return image.reduce(2)


def _shade(rng: random.Random, color: str) -> tuple[int, ...]:
    return tuple(min(255, max(0, channel + rng.randint(-12, 12))) for channel in COLORS[color])


def _draw_shape(pen: ImageDraw.ImageDraw, thing: Thing, rng: random.Random, background: tuple[int, int, int]) -> None:
    r = 2 * (rng.uniform(14, 17) if thing.size == "large" else rng.uniform(7.5, 9.5))
    x, y, fill, turn = 2 * thing.x, 2 * thing.y, _shade(rng, thing.color), rng.uniform(-0.15, 0.15)
    if thing.shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        if thing.shape == "ring":
            hole = 0.52 * r
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=background)
        return
    if thing.shape == "rectangle":
        w, h = rng.uniform(0.75, 1.0), rng.uniform(0.6, 1.0)
        points = [(w, h), (-w, h), (-w, -h), (w, -h)]
    elif thing.shape == "triangle":
        points = [(0, -1.0), (1.0, 0.85), (-1.0, 0.85)]
    elif thing.shape == "star":
        arms = [(i * math.pi / 5, 0.42 if i % 2 else 1.0) for i in range(10)]
        points = [(length * math.sin(angle), -length * math.cos(angle)) for angle, length in arms]
    else:
        a = 0.33
        points = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
        points += [(-x, -y) for x, y in points]
    cos, sin = math.cos(turn), math.sin(turn)
    pen.polygon([(x + r * (px * cos - py * sin), y + r * (px * sin + py * cos)) for px, py in points], fill=fill)


def _draw_sign(pen: ImageDraw.ImageDraw, sign: Thing) -> None:
    """A plate in the sign's colour, one patch wide a digit, white digits on dark plates and black on light ones."""
    x, y, pitch = 2 * sign.x, 2 * sign.y, 2 * PATCH
    left, right = x - pitch / 2, x + pitch * (len(sign.number) - 0.5)
    plate = (left, y - 22, right, y + 22)
    pen.rounded_rectangle(plate, radius=5, fill=COLORS[sign.color], outline=(60, 60, 60), width=2)
    ink = (0, 0, 0) if sign.color in ("yellow", "green") else (255, 255, 255)
    font = ImageFont.load_default(size=34)
    for i, digit in enumerate(sign.number):
        pen.text((x + i * pitch, y), digit, fill=ink, font=font, anchor="mm", stroke_width=1, stroke_fill=ink)
