"""The test questions of pocket's scenes, frozen to parquet with a hash, and training questions for calibration."""

import hashlib
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from thinsight.errors import command
from thinsight.paths import ROOT
from thinsight.pocket.questions import FAMILIES, Question, exist
from thinsight.pocket.scenes import TEST_SEEDS, Scene, draw, sample

TESTED, CALIBRATION = 1000, 200
POPE = ("random", "popular", "adversarial")


def rows(family: str, first: int, count: int, split: str) -> list[dict]:
    """``count`` rows, one picture each, from the scenes with seeds from ``first`` on that the family can ask about."""
    table, seed = [], first
    while len(table) < count:
        scene, rng = sample(seed), random.Random(seed + 3)
        question = _ask(family, scene, rng, len(table))
        if question:
            png = io.BytesIO()
            draw(scene).save(png, "PNG", optimize=True)
            text = {"question": question.text, "answer": question.answer, "kind": question.kind}
            table.append({"id": f"{family}-{split}-{len(table):04d}", "image": png.getvalue(), **text})
        seed += 1
    return table


def _ask(family: str, scene: Scene, rng: random.Random, number: int) -> Question | None:
    return exist(scene, rng, POPE[number % 3]) if family == "exist" else FAMILIES[family](scene, rng)


def freeze(folder: Path) -> dict[str, str]:
    """Writes ``{family}.parquet`` and ``{family}.train.parquet`` and returns (and writes) their sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for number, family in enumerate(FAMILIES):
        # every family has its own scenes; calibration comes from far up the training seeds
        first = 1_000_000 * (number + 1)
        for split, start, count in (("test", first, TESTED), ("train", TEST_SEEDS + 500_000_000 + first, CALIBRATION)):
            path = folder / (f"{family}.parquet" if split == "test" else f"{family}.train.parquet")
            pq.write_table(pa.Table.from_pylist(rows(family, start, count, split)), path, compression="zstd")
            hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "sha256.json").write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
    return hashes


def main(arguments: list[str]) -> None:
    """No arguments: write the questions and print their hashes."""
    print(json.dumps(freeze(ROOT / "data" / "pocket" / "tasks"), indent=2))


if __name__ == "__main__":
    command(main)
