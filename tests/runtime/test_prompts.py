"""What a prompt is: the question wherever it stands, pictures side by side, draws that depend on the content alone."""

import io

import pandas as pd
import pytest
import torch
from helpers.families import FAMILIES
from helpers.generation import CLOSE, DETAILS, GREEDY
from helpers.method_kinds import one_of_each_kind
from PIL import Image

import thinsight
from thinsight import reduce
from thinsight.config.schema import names
from thinsight.paths import ROOT

PROMPT = "<s>A chat about a picture. The assistant gives short answers. USER: {} ASSISTANT:"
LLM = [("trsm", {}), ("cdpruner", {"space": "llm"}), ("par", {"space": "llm"}), ("trim", {"space": "llm"})]
CLIP = [("trsm", {"space": "clip"}), ("cdpruner", {}), ("par", {}), ("trim", {})]


@pytest.fixture(scope="module")
def pocket():
    return thinsight.load_model("pocket")


@pytest.fixture(scope="module")
def rows():
    """(picture, question) of three different pictures."""
    table = pd.read_parquet(ROOT / "data" / "pocket" / "tasks" / "relation.parquet").iloc[[0, 40, 80]]
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in table["image"]]
    return list(zip(pictures, table["question"], strict=True))


def kept(pocket, method, text: str, pictures: list) -> list[int]:
    model, processor = pocket
    inputs = processor(text=[PROMPT.format(text)], images=pictures, return_tensors="pt")
    with reduce(model, method) as trace, torch.no_grad():
        model(**inputs, logits_to_keep=1)
    return trace.kept[0]


@pytest.mark.parametrize(("name", "fields"), LLM + CLIP)
@pytest.mark.parametrize(
    "template", ["{}\n<image>", "{} <image>\nyes or no", "<image>\n{}", "about the picture: {} <image> ?"]
)
def test_the_question_counts_wherever_it_stands(pocket, rows, name, fields, template):
    method, picture = thinsight.load_method(name, **fields), rows[0][0]
    questions = ["Is the gray rectangle below the teal ring?", "What number is on the red sign?"]
    first, second = (kept(pocket, method, template.format(question), [picture]) for question in questions)
    assert first != second


def test_words_in_front_and_behind_are_one_question(pocket):
    """The template's system text and tags are no words of it, and what follows earlier pictures is not either."""
    model, processor = pocket

    def words(text: str) -> list[str]:
        pictures = [Image.new("RGB", (96, 96))] * text.count("<image>")
        inputs, found = processor(text=[PROMPT.format(text)], images=pictures, return_tensors="pt"), []
        method = thinsight.load_method("trsm")
        stage = method.reductions[0].filter.relevance
        original = type(stage).embed

        def embed(self, tokens, evidence):
            (own,), (question,) = evidence.words, evidence.question
            found.extend(word.text for word in own)
            assert set(torch.cat([word.index for word in own]).tolist()) <= set(question.tolist())
            return original(self, tokens, evidence)

        with pytest.MonkeyPatch.context() as patch, reduce(model, method), torch.no_grad():
            patch.setattr(type(stage), "embed", embed)
            model(**inputs, logits_to_keep=1)
        return found

    assert words("<image>\nIs the star red?") == ["Is", "the", "star", "red"]
    assert words("Is the star red?\n<image>") == ["Is", "the", "star", "red"]
    assert words("Is the star <image>\nred?") == ["Is", "the", "star", "red"]
    assert words("How many stars? <image> ASSISTANT: 2 USER: <image>\nWhat color?") == ["What", "color"]


SIDE_BY_SIDE = ["<image><image>\n{}", "<image>\n{}"]


@pytest.mark.parametrize("name", one_of_each_kind(map(thinsight.load_method, names("method")), needs=True))
def test_pictures_side_by_side(pocket, rows, name):
    """Two pictures in one row and one in the next, with beams and without a cache: greedy decoding's places and logits.

    A fault of the kind that no one sees: every beam with the tokens of another picture.
    """
    (model, processor), (pictures, questions) = pocket, zip(*rows, strict=True)
    texts = [PROMPT.format(text.format(q)) for text, q in zip(SIDE_BY_SIDE, questions[1:], strict=True)]
    inputs = processor(text=texts, images=list(pictures), return_tensors="pt", padding=True)

    def first_step(**options) -> tuple:
        settings = {**GREEDY, **DETAILS, "suppress_tokens": None, "max_new_tokens": 2, **options}
        with reduce(model, thinsight.load_method(name)) as trace:
            return model.generate(**inputs, **settings).logits[0], trace.kept, trace.pictures

    logits, places, shown = first_step()
    assert shown == [[144, 144], [144]]
    for options, repeats in (({"num_beams": 2}, 2), ({"use_cache": False}, 1)):
        logits_now, places_now, shown_now = first_step(**options)
        assert shown_now == [p for p in shown for _ in range(repeats)]
        assert places_now == [p for p in places for _ in range(repeats)]
        torch.testing.assert_close(logits_now, logits.repeat_interleave(repeats, 0), **CLOSE)


@pytest.mark.parametrize("family", ["llava_next_vicuna", "llava_onevision"])
def test_neighbours_of_different_sizes_are_told_apart(family, tmp_path):
    """Two pictures without text between them that become different numbers of tokens."""
    model, processor = FAMILIES[family].load(FAMILIES[family].save(tmp_path))
    wide, high = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (22, 44), "blue")
    token, lengths = processor.image_token, []
    for pictures in ([wide], [high], [wide, high], [high, wide]):
        text = ["<s> what is " + token * len(pictures) + " there"]
        inputs = processor(text=text, images=pictures, return_tensors="pt", add_special_tokens=False)
        with reduce(model, thinsight.load_method("random", keep=4)) as trace, torch.no_grad():
            model(**inputs)
        lengths.append(trace.pictures[0])
    assert lengths[0] != lengths[1]
    assert lengths[2:] == [lengths[0] + lengths[1], lengths[1] + lengths[0]]


@pytest.mark.parametrize("name", ["random", "vtw_random_tokens", "vtw_random_layer"])
def test_draws_depend_on_the_content_alone(pocket, rows, name):
    """Not on beams, on the batch, on padding, on a cache, or on whether generate or the model itself is called."""
    (model, processor), method, lengths = pocket, thinsight.load_method(name), []
    picture, question = rows[0]
    one = {"text": [PROMPT.format(f"<image>\n{question}")], "images": [picture]}
    two = {"text": [*one["text"], PROMPT.format(f"<image>\nwhy {rows[1][1]}")], "images": [picture, rows[1][0]]}
    calls = [(one, {}), (one, {"num_beams": 3}), (one, {"use_cache": False}), (two, {}), (two, {"num_beams": 2})]
    for given, options in calls:
        inputs = processor(**given, return_tensors="pt", padding=True)
        with reduce(model, method) as trace:
            model.generate(**inputs, do_sample=False, max_new_tokens=3, **options)
        lengths.append((trace.kept[0], trace.lengths[0]))
    with reduce(model, method) as trace, torch.no_grad():
        model(**processor(**one, return_tensors="pt"))
    assert all(found == (trace.kept[0], trace.lengths[0]) for found in lengths)
