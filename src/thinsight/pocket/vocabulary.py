"""Pocket's words, and a tokenizer over them that does as LLaMA's: spaces belong to words, digits stand alone."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from thinsight.pocket.scenes import COLORS, SHAPES, SIZES

SPACE = "\u2581"
# CLIP's text model takes an end-of-text id of 2 for an old checkpoint and pools elsewhere: 2 goes to padding.
SPECIAL = ("<unk>", "<s>", "<pad>", "</s>", "<image>")
SYSTEM = "A chat about a picture. The assistant gives short answers."
TEXT = """A chat about a picture . The assistant gives short answers
USER ASSISTANT : ? , Is is are there a an the not no in on of or image picture contain does What what Which which How
how many color shape shapes size number object objects sign signs row column left right above below present yes C B D
circles rectangles triangles stars crosses rings"""
WORDS = sorted({*TEXT.split(), *COLORS, *SHAPES, *SIZES})
# Letters and marks that are always a token of their own, with and without a space before them.
PIECES = [*"0123456789", *(SPACE + digit for digit in "0123456789"), SPACE, "\n", ".", "?", ":", ","]

CHAT_TEMPLATE = (
    "{{ bos_token }}" + SYSTEM + "{% for message in messages %}"
    "{% if message['role'] == 'user' %} USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; an unknown word becomes ``<unk>``."""
    tokens = [
        *SPECIAL,
        *PIECES,
        *(SPACE + word for word in WORDS if word.isalpha()),
        *(w for w in WORDS if w.isalpha()),
    ]
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(dict.fromkeys(tokens))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=True),
            pre_tokenizers.Split(Regex(rf"[\n.,:?]|{SPACE}?\d"), behavior="isolated"),
        ]
    )
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    names = dict(zip(("unk_token", "bos_token", "pad_token", "eos_token"), SPECIAL, strict=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **names,
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
