"""The model in the box: its pictures and questions are what they say, its training resumes, its scores are its own."""

import hashlib
import json
import random
from collections import Counter

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from thinsight.config.compose import load_config
from thinsight.evaluation.protocol import weights_hash
from thinsight.paths import ROOT
from thinsight.pocket.architecture import GRID, new_models, processor
from thinsight.pocket.decoder_stage import answers, patch_numbers
from thinsight.pocket.optimisation import train
from thinsight.pocket.questions import FAMILIES, LETTERS, choice, count, exist, plural, read, relation
from thinsight.pocket.scenes import COLORS, PATCH, SHAPES, TEST_SEEDS, draw, sample
from thinsight.pocket.supervision import KINDS, Packer, Symbols, easyvqa_training, marks, padded, scene_picture

POCKET = ROOT / "data" / "pocket"
BARS = {
    "easyvqa": 0.97, "exist": 0.93, "attribute": 0.93, "relation": 0.85, "count": 0.85, "choice": 0.85, "read": 0.75,
}  # fmt: skip
SEEDS = range(300)
EVENLY = dict.fromkeys(FAMILIES, 1)


def asked(family):
    found = [(scene, family(scene, random.Random(seed))) for seed in SEEDS for scene in [sample(seed)]]
    return [(scene, question) for scene, question in found if question]


def test_existence_is_decided_by_the_picture():
    kinds = Counter()
    for scene, question in asked(exist):
        color, shape = question.text.removeprefix("Is there a ").removesuffix(" in the image?").split()
        present = any((t.color, t.shape) == (color, shape) for t in scene.things)
        assert question.answer == ("yes" if present else "no")
        kinds[question.kind, question.answer] += 1
        if question.kind == "adversarial" and not present:  # both parts are there, on different objects
            assert any(t.color == color for t in scene.things)
            assert any(t.shape == shape for t in scene.things)
    assert set(kinds) == {(kind, answer) for kind in ("random", "popular", "adversarial") for answer in ("yes", "no")}


def test_counts_count():
    for scene, question in asked(count):
        name = question.text.removeprefix("How many ").removesuffix(" are there?").removesuffix(" shapes")
        shapes = {plural(shape): shape for shape in (*SHAPES, "sign")}
        key = [t.color if name in COLORS else t.shape for t in scene.things if name not in COLORS or t.shape != "sign"]
        assert question.answer == str(key.count(shapes.get(name, name)))


def test_relations_follow_the_pixels():
    for scene, question in asked(relation):
        first, second = (
            next(t for t in scene.things if f"{t.color} {t.shape}" == name)
            for name in [" ".join(part.split()[:2]) for part in question.text.rstrip("?").split("the ")[1:]]
        )
        true = {
            "left": first.x < second.x,
            "right": first.x > second.x,
            "above": first.y < second.y,
            "below": first.y > second.y,
        }
        if question.kind == "choose":
            assert true[question.answer]
        else:
            word = next(word for word in true if f" {word} " in question.text)
            assert true[word] == (question.answer == "yes")


def test_choices_hold_the_right_option_once():
    for _, question in asked(choice):
        text, *options = question.text.split("\n")
        assert [option[:3] for option in options] == [f"{letter}. " for letter in LETTERS]
        assert len({option[3:] for option in options}) == len(LETTERS)
        assert question.answer in LETTERS
        assert text.endswith("?")


def test_digits_lie_in_their_patches():
    """The digit of a sign fills its own patch: its plate's colour is there in the drawn picture."""
    for scene, question in asked(read)[:60]:
        found = [mark for mark in marks(scene) if mark.digit >= 0]
        numbers = {}
        for mark in found:
            numbers.setdefault((mark.row, list(COLORS)[mark.color]), []).append(str(mark.digit))
        assert question.answer in {"".join(digits) for digits in numbers.values()}
        pixels = draw(scene).load()
        for mark in found:
            box = [pixels[mark.column * PATCH + x, mark.row * PATCH + y] for x in range(PATCH) for y in range(PATCH)]
            assert COLORS[list(COLORS)[mark.color]] in box


def test_training_pictures_are_no_test_pictures():
    """Training seeds begin where the seeds of the frozen test questions have long ended."""
    for seed in range(5):
        assert scene_picture(seed, 1, 8, False, EVENLY).marks == marks(sample(TEST_SEEDS + seed))
    assert 1_000_000 * (len(FAMILIES) + 1) < TEST_SEEDS  # see thinsight.pocket.freeze


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_questions(family):
    hashes = json.loads((POCKET / "tasks" / "sha256.json").read_text())
    words = processor().tokenizer
    for split, least in (("", 1000), (".train", 200)):
        file = POCKET / "tasks" / f"{family}{split}.parquet"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == hashes[file.name]
        table = pd.read_parquet(file)
        assert len(table) >= least
        assert table["id"].is_unique
        texts = words(list(table["question"] + " " + table["answer"]))["input_ids"]
        assert not any(words.unk_token_id in ids for ids in texts)
        assert table["answer"].value_counts(normalize=True).iloc[0] < 0.6  # no answer is right most of the time
    test, training = (pd.read_parquet(POCKET / "tasks" / f"{family}{s}.parquet") for s in ("", ".train"))
    assert not set(test["image"]) & set(training["image"])


def test_easy_vqa_labels_agree_with_its_questions():
    for _, mark, questions in easyvqa_training()[:300]:
        if mark is None:
            continue
        for question in questions:
            if question.answer in COLORS:
                assert list(COLORS)[mark.color] == question.answer
            if question.answer in SHAPES:
                assert KINDS[mark.kind] == question.answer


def test_packed_questions_do_not_see_each_other():
    """Many questions in one sequence give each the answer it gets alone."""
    llava, _ = new_models(1)
    packer = Packer(processor().tokenizer)
    symbols = Symbols(packer.tokenizer, llava.config.text_config.hidden_size)
    picture = scene_picture(5, 4, 8, False, EVENLY)
    placed = padded([picture.marks], random.Random(0))
    losses = {}
    with torch.no_grad():
        visual = symbols(placed, llava.model.language_model.embed_tokens)
        for name, questions in [("all", picture.questions), *((q.text, [q]) for q in picture.questions)]:
            packed = packer([questions], 0.0)
            loss, right = answers(llava, visual, patch_numbers(placed), packed, packer)
            losses[name] = loss.item() * int((packed.weights == 1).sum())
            assert len(right) == len(questions)
    assert losses.pop("all") == pytest.approx(sum(losses.values()), rel=1e-5)


def test_symbols_stand_in_raster_order():
    scene = sample(3)
    numbers = patch_numbers(padded([marks(scene)], random.Random(0)))[0].tolist()
    assert numbers == sorted(set(numbers))
    assert {m.row * GRID + m.column for m in marks(scene)} <= set(numbers)


def test_training_goes_on_where_it_was_killed(tmp_path):
    def run(folder, stops):
        torch.manual_seed(0)
        layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        net = nn.ModuleDict({"tower": nn.ModuleDict({"layers": layers})})  # named as a transformer's
        for stop in stops:

            def make(step, stop=stop):
                if step >= stop:
                    raise KeyboardInterrupt
                return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

            def loss(batch, step, layers=layers):
                out = layers[1](layers[0](batch).relu())
                return (out - batch).square().mean(), {}

            try:
                train(folder, {"net": net}, make, loss, steps=6, peak=1e-2, every=2)
            except KeyboardInterrupt:
                nn.init.zeros_(layers[0].weight)  # what was in memory is lost
        return net.state_dict()

    whole, resumed = run(tmp_path / "a", [6]), run(tmp_path / "b", [3, 6])
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_scores_belong_to_these_weights_and_pass_the_bar():
    found = json.loads((POCKET / "scores.json").read_text())
    assert found["weights_sha256"] == weights_hash(load_config().model)
    assert set(found["tasks"]) == set(BARS)
    for task, bar in BARS.items():
        assert found["tasks"][task]["n"] >= 1000
        assert found["tasks"][task]["whole"]["accuracy"] >= bar
        assert found["tasks"][task]["blind"]["accuracy"] < found["tasks"][task]["whole"]["accuracy"] - 0.2


def test_the_clip_twin_has_the_same_vision_tower():
    llava, clip = (load_file(POCKET / name / "model.safetensors") for name in ("model", "clip"))
    tower = {
        name.split("vision_tower.")[1].removeprefix("vision_model."): w
        for name, w in llava.items()
        if "vision_tower." in name
    }
    twin = {name.removeprefix("vision_model."): w for name, w in clip.items() if name.startswith("vision_model.")}
    assert tower.keys() == twin.keys()
    assert all(torch.equal(tower[name], twin[name]) for name in tower)
