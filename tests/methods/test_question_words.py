"""The words of a question, what they are rewritten as, and the space that an aligned text tower shares with patches."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_checkpoint as tiny
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from thinsight import load_method, load_model, reduce
from thinsight.config.compose import load_task
from thinsight.config.schema import ModelConfig
from thinsight.errors import UserError
from thinsight.methods.prompt_relevance import Relevance
from thinsight.methods.question_parsing import clean, parse_question, singular
from thinsight.models.loading import load_processor
from thinsight.models.text import QuestionReader, TextTower
from thinsight.reduction.evidence import Word, sentence
from thinsight.reduction.prompt import Prompt
from thinsight.tasks.rows import Row, collate

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)


def prompt(ids: list[int], image: int) -> Prompt:
    ids = torch.tensor([ids])
    visual = torch.where(ids == image, 0, -1)
    return Prompt(torch.ones_like(ids, dtype=torch.bool), visual, torch.arange(ids.shape[1])[None], lambda _: b"")


def words_of(processor, *turns: str, text: str = "") -> list[Word]:
    """The words of a conversation that begins with an image: question, answer, question, ..."""
    roles = [("user", "assistant")[i % 2] for i in range(len(turns))]
    talk = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in zip(roles, turns, strict=True)]
    talk[0]["content"].insert(0, {"type": "image"})
    rendered = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) + text
    ids = processor.tokenizer(rendered, add_special_tokens=False).input_ids
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert image in ids
    found = QuestionReader(processor).words(torch.tensor(ids), prompt(ids, image), 0)
    for word in found:  # the tokens that a word names spell it
        assert processor.tokenizer.decode([ids[i] for i in word.index]).strip(" .,?!\n\"'") == word.text
    return found


def texts(found: list[Word]) -> list[str]:
    return [word.text for word in found]


@pytest.fixture(scope="module")
def pocket():
    return load_processor("pocket")


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE as GPT-2's, learned from a few words so that long ones are cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<image>", "<|im_start|>", "<|im_end|>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["is there a red circle", "what is the thing", "user assistant"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=special, eos_token="</s>")


def chatting(tokenizer, template: str):
    """A processor as far as words need one."""

    def apply(talk, add_generation_prompt, tokenize):
        return tokenizer.apply_chat_template(
            talk, chat_template=template, add_generation_prompt=add_generation_prompt, tokenize=tokenize
        )

    return SimpleNamespace(tokenizer=tokenizer, chat_template=template, apply_chat_template=apply)


class TestWords:
    def test_pocket(self, pocket):
        found = words_of(pocket, "Is there a red circle in the image?")
        assert texts(found) == ["Is", "there", "a", "red", "circle", "in", "the", "image"]
        assert sentence(found) == "Is there a red circle in the image?"

    def test_options_keep_their_lines(self, pocket):
        text = "How many rings are there?\nA. 1\nB. 20"
        found = words_of(pocket, text)
        assert sentence(found) == text
        assert texts(found)[-4:] == ["A", "1", "B", "20"]
        assert len(found[-1].index) == 2  # a token for each digit

    def test_earlier_turns_and_the_answer(self, pocket):
        found = words_of(pocket, "Is there a ring?", "yes", "What color is the ring?", text=" red")
        assert texts(found) == ["Is", "there", "a", "ring", "yes", "What", "color", "is", "the", "ring"]

    @pytest.mark.parametrize("template", [CHATML, INST], ids=["chatml", "inst"])
    def test_other_templates(self, byte_level, template):
        found = words_of(chatting(byte_level, template), "Is there a Café, left of the thing?", "no", "Don't ask!")
        assert texts(found) == ["Is", "there", "a", "Café", "left", "of", "the", "thing", "no", "Don't", "ask"]
        assert found[3].after == ", "

    def test_sentencepiece(self):
        """As LLaMA's: digits alone, a lone mark before them, newlines and rare letters as bytes."""
        said = ["<image>", "<0x0A>", "\u2581is", "\u2581", "4", "8", "\u2581Caf", "<0xC3>", "<0xA9>", "?"]
        vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(said))}
        tokenizer = SimpleNamespace(
            convert_ids_to_tokens=lambda ids: [list(vocabulary)[i] for i in ids],
            get_vocab=lambda: vocabulary,
            all_special_tokens=["<image>"],
        )
        ids = [vocabulary[piece] for piece in said]
        found = QuestionReader(SimpleNamespace(tokenizer=tokenizer)).words(torch.tensor(ids), prompt(ids, 0), 0)
        assert [(w.text, w.index.tolist(), w.after) for w in found] == [
            ("is", [2], " "),
            ("48", [4, 5], " "),
            ("Caf\u00e9", [6, 7, 8], "?"),
        ]

    def test_no_template(self, byte_level):
        ids = byte_level("<image> what is it", add_special_tokens=False).input_ids
        bare = SimpleNamespace(tokenizer=byte_level)
        assert texts(QuestionReader(bare).words(torch.tensor(ids), prompt(ids, 0), 0)) == ["what", "is", "it"]

    def test_padding_and_each_token_a_word(self, tmp_path):
        folder = tiny.save_model(tmp_path)
        processor = load_processor(OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(folder))))
        assert texts(words_of(processor, "is there a red circle")) == ["is", "there", "a", "red", "circle"]


def spoken(text: str) -> list[Word]:
    """Words of a text, as if each were a token."""
    import re

    found = list(re.finditer(r"[A-Za-z0-9']+", text))
    ends = ([one.start() for one in found] + [len(text)])[1:]
    return [
        Word(w.group(), torch.tensor([i]), text[w.end() : e]) for i, (w, e) in enumerate(zip(found, ends, strict=True))
    ]


class TestRewriting:
    @pytest.mark.parametrize(
        ("text", "entities", "actions"),
        [
            ("Is there a red circle in the image?", ["red circle"], []),
            ("Is the brown cross left of the yellow star?", ["brown cross", "yellow star"], ["left"]),
            ("What color is the sign?", ["sign"], []),
            ("How many gray shapes are there?", ["gray"], []),
            ("How many crosses are there?\nA. 4\nB. 0", ["crosses"], []),
            ("What shape is the teal object?\nA. cross\nB. circle", ["teal", "cross", "circle"], []),
            ("Is the man in the blue shirt riding a horse?", ["man", "blue shirt", "horse"], ["riding"]),
            ("Is there a dog or a dog?", ["dog"], []),
            ("What is the building made of?", ["building made"], []),
            ("Describe the image.", [], []),
            ("What do you see?", [], []),
            ("What can you see in this picture?", [], []),
            ("Tell me what's going on here.", [], []),
            ("What is happening?", [], []),
            ("What does the sign say?", ["sign"], []),
            ("What is the man doing?", ["man"], []),
            ("Identify the animal that isn't on the grass.", ["animal", "grass"], []),
            ("Count the apples you can find.", ["apples"], []),
            ("Is there something on the table?", ["table"], []),
            ("???", [], []),
            ("12 34", [], []),
        ],
    )
    def test_parts(self, text, entities, actions):
        found = parse_question(spoken(text))
        assert [" ".join(w.text for w in group) for group in found.entities] == entities
        assert [" ".join(w.text for w in group) for group in found.actions] == actions
        assert found.empty == (not entities and not actions)

    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("What is this?\nAnswer the question using a single word or phrase.", "What is this?"),
            (
                "Who is it?\nA. me\nB. you\nAnswer with the option's letter from the given choices directly.",
                "Who is it?\nme\nyou",
            ),
            ("Please answer yes or no. Is it red?", "Is it red?"),
            ("Answer in one word.", "Answer in one word."),  # there is nothing else
            ("Give way to (B) buses", "Give way to (buses"),
            (  # TextVQA
                "What is the brand?\nReference OCR token: NOKIA, 12. Main?, St\n"
                "Answer the question using a single word or phrase.",
                "What is the brand?",
            ),
            (  # ScienceQA
                "Context: Two magnets. They attract.\nSee the table.\nWhich is stronger?\nA. pair 1\nB. neither\n"
                "Answer with the option's letter from the given choices directly.",
                "Which is stronger?\npair 1\nneither",
            ),
            ("Hint: look closely.\nWhat color is it?", "What color is it?"),
            ("What is the context of this?", "What is the context of this?"),
            ("Context: a dog.", "Context: a dog."),  # there is nothing else
            ("Reference OCR token: a, b", "Reference OCR token: a, b"),
        ],
    )
    def test_cleaning(self, text, left):
        assert sentence(clean(spoken(text))) == left

    def test_the_template(self):
        assert parse_question(spoken("Is the cat left of dogs?")).text == "cat, dog; left; Is the cat left of dogs?"
        assert parse_question(spoken("Is there a cat?")).text == "cat; Is there a cat?"

    @pytest.mark.parametrize(
        ("many", "one"),
        [
            ("crosses", "cross"),
            ("cities", "city"),
            ("rings", "ring"),
            ("bus", "bus"),
            ("glass", "glass"),
            ("boxes", "box"),
        ],
    )
    def test_singular(self, many, one):
        assert singular(many) == one


class TestWithoutWords:
    """A question that has no word, or none that is parted by blanks, behind a picture of pocket's."""

    TEMPLATE = "<s>A chat about a picture. The assistant gives short answers. USER: <image>\n{} ASSISTANT:"
    WORDLESS = ("", "???", "!", "\U0001f642 \U0001f680", "...\n--")

    @pytest.fixture(scope="class")
    def loaded(self):
        return load_model("pocket", device="cpu")

    @pytest.fixture(scope="class")
    def picture(self):
        from thinsight.tasks.rows import load_rows

        return load_rows(load_task("exist"), 1)[0].image

    @pytest.fixture(scope="class")
    def kept(self, loaded, picture):
        """The patches that a method keeps, for each of some questions."""
        model, processor = loaded

        def kept(questions: Sequence[str], name: str, **fields) -> list[list[int]]:
            found = []
            with torch.inference_mode(), reduce(model, load_method(name, **fields)) as trace:
                for question in questions:
                    inputs = processor(text=[self.TEMPLATE.format(question)], images=[picture], return_tensors="pt")
                    assert model(**inputs, logits_to_keep=1).logits.isfinite().all()
                    found.append(trace.kept[0])
            return found

        return kept

    @pytest.mark.parametrize(
        ("space", "rewriting"), [("clip", "none"), ("llm", "none"), ("llm", "words"), ("clip", "rules")]
    )
    @pytest.mark.parametrize("name", ["cdpruner", "trim", "par", "trsm"])
    def test_every_question_is_answered(self, kept, name, space, rewriting):
        questions = (*self.WORDLESS, "\u56fe\u4e2d\u6709\u4ec0\u4e48\uff1f", "123 456")
        found = kept(questions, name, space=space, rewriting=rewriting, keep=24)
        assert [len(patches) for patches in found] == [24] * len(questions)
        if space == "clip" or rewriting != "none":  # signs do not choose
            first, *others = found[: len(self.WORDLESS)]
            assert all(other == first for other in others)

    @pytest.mark.parametrize("name", ["trim", "trsm"])
    def test_a_grid_stays(self, kept, name):
        from thinsight.methods.controls import even_grid

        fields = {"merge": "none", "keep": 24, "space": "clip"}
        assert kept(["???"], name, **fields) == [even_grid(144, 24)]

    def test_diversity_alone_decides(self, loaded, picture, kept):
        """CDPruner without a question keeps what the determinant of the cosines keeps."""
        from dataclasses import replace

        method = load_method("cdpruner", keep=24)

        class Blind(Relevance):
            def __call__(self, tokens, evidence):
                return torch.ones(tokens.index.shape)

        (one,) = method.reductions
        blind = replace(method, reductions=(replace(one, filter=replace(one.filter, relevance=Blind(space="clip"))),))
        model, processor = loaded
        inputs = processor(text=[self.TEMPLATE.format("Is there a ring?")], images=[picture], return_tensors="pt")
        with torch.inference_mode(), reduce(model, blind) as trace:
            model(**inputs, logits_to_keep=1)
        assert kept(["???"], "cdpruner", keep=24) == [trace.kept[0]]

    def test_nothing_stands_out(self, kept):
        """TRIM without a budget keeps all; PAR goes by redundancy alone and keeps some of them."""
        assert kept(["???"], "trim") == [list(range(144))]
        signs, common = kept(["???", "What do you see?"], "par")
        assert 8 <= len(signs) < 144
        assert signs == common


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small CLIP that takes eight tokens, with the tokenizer of the tiny LLaVA, whose tower it could be."""
    folder = tmp_path_factory.mktemp("clip")
    made = tiny.save_model(folder / "model")
    processor = load_processor(OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(made))))
    torch.manual_seed(0)
    text = {"vocab_size": len(processor.tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 3,
            "pad_token_id": 0}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    model.save_pretrained(folder / "clip")
    tokenizer = processor.tokenizer
    tokenizer.eos_token = "<unk>"  # any token but 2, which makes an old CLIP pool elsewhere
    tokenizer.save_pretrained(folder / "clip")
    return folder, model


class TestTextTower:
    def test_texts_and_patches_are_clips_own(self, clip):
        folder, model = clip
        tower = TextTower.load(str(folder / "clip"))
        with torch.inference_mode():
            (red,), (long,) = (
                tower.texts(["red"], "cpu"),
                tower.texts(["is there a red circle is there a blue square"], "cpu"),
            )
            ids = torch.tensor([[1, *tower.tokenizer("red", add_special_tokens=False).input_ids, 3]])
            pooled = model.text_model(input_ids=ids).pooler_output
            torch.testing.assert_close(red, model.text_projection(pooled))
            assert long.shape == (2, 12)  # ten words in chunks of six
            (again,) = tower.texts(["is there a red circle is"], "cpu")
            torch.testing.assert_close(long[:1], again)
            features = torch.randn(5, 16)
            expected = model.visual_projection(model.vision_model.post_layernorm(features))
            torch.testing.assert_close(tower.patches(features), expected)

    def test_a_batch_of_texts_is_its_texts(self, clip):
        tower = TextTower.load(str(clip[0] / "clip"))
        with torch.inference_mode():
            together = tower.texts(["red", "is there a blue circle"], "cpu")
            alone = [tower.texts([text], "cpu")[0] for text in ("red", "is there a blue circle")]
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("data/pocket/none", "no text tower at"),
            ("nobody/clip-of-nothing", "cannot be fetched from the hub as nobody/clip-of-nothing"),
            ("/nowhere", "no text"),
        ],
    )
    def test_what_cannot_be_loaded(self, name, message, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=message) as error:
            TextTower.load(name)
        assert "\n" not in str(error.value)

    def test_wrong_width(self, clip):
        tower = TextTower.load(str(clip[0] / "clip"))
        with pytest.raises(UserError, match="width 33"):
            tower.patches(torch.zeros(2, 33))

    def test_in_a_model(self, clip):
        folder, _ = clip
        given = {"name": "tiny", "checkpoint": str(folder / "model")}
        model, processor = load_model(
            OmegaConf.structured(ModelConfig(**given, text_tower=str(folder / "clip"))), "cpu"
        )
        rows = [
            Row(str(i), tiny_picture(i), q, "yes", "k") for i, q in enumerate(["is there a red circle", "what colour"])
        ]
        inputs = collate(processor, rows, load_task("exist"))
        for name in ("cdpruner", "trim", "trsm", "par"):
            rewriting = "none" if name != "par" else "rules"
            method = load_method(name, keep=2, space="clip", rewriting=rewriting)
            with torch.inference_mode(), reduce(model, method) as trace:
                model(**inputs)
            assert [n[-1] for n in trace.lengths] == [2, 2]
        assert "clip" in vars(model.question_reader)  # loaded once
        plain, _ = load_model(OmegaConf.structured(ModelConfig(**given)), "cpu")
        with pytest.raises(UserError, match="space=llm"), reduce(plain, load_method("trim", keep=2)):
            plain(**inputs)


def tiny_picture(seed: int):
    from PIL import Image

    return Image.new("RGB", (28, 28), (80 * seed, 40, 200))
