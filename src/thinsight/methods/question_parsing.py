"""Entities and actions of a question by rules: which of its words name something to look for (PAR's step A).

The published description (arXiv:2410.07278 and summaries of it) says that prompts are rewritten with a template and
parsed into entities and actions; neither template nor parser is public. These rules are ours: small, deterministic,
for English questions.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from thinsight.reduction.evidence import Word, sentence

_FUNCTION = """
a an the this that these those some any each every all both no another its his her their my your our it he she they them
him there here who whom whose which what when where why how i you we is are was were be been being am do does did has
have had can could will would shall should may might must of at from to with by for about into in on and or but if than
as not yes so too very many much more most less few please me us something someone anything anyone nothing nobody
everything everyone one ones don doesn didn isn aren wasn weren won wouldn couldn shouldn hasn haven hadn ain let
"""

_GENERIC = """
image images picture pictures photo photos photograph scene figure color colors colour colours size sizes shape shapes
kind kinds type types sort number numbers name names object objects thing things item items question present visible
shown seen exist exists contain contains appear appears describe show shows tell answer correct following true false
context hint hints option options choice choices ocr token tokens reference word words phrase sentence letter
see sees saw seeing observe observed notice noticed identify find found recognize recognise detect spot count list
mention explain say says said read think know guess determine decide infer imply mean means called depict depicts
depicted display displayed represent represents illustrate illustrates happen happens happened happening going doing
give provide choose select pick name want need help
"""

_RELATIONS = """
left right above below under over behind front between beside near next inside outside top bottom around against along
across through beneath underneath upper lower
"""

_VERBS = """
hold holds wear wears ride rides sit sits stand stands eat eats drink drinks play plays walk walks run runs look looks
carry carries drive drives fly flies reads write writes sleep sleeps use uses jump jumps lie lies lean leans pull
pulls push pushes touch touches face faces watch watches throw throws catch catches hit hits kick kicks cut cuts hang
hangs swim swims ski skis surf surfs sell sells cook cooks talk talks smile smiles
"""

_NOT_VERBS = """
building ceiling clothing painting railing lightning evening morning string spring wedding awning during something
"""

FUNCTION = frozenset(_FUNCTION.split())
"""Words without a content of their own."""

GENERIC = frozenset(_GENERIC.split())
"""Words about any picture, of asking and answering, or for a property that is asked for: nothing in the picture looks
like them."""

RELATIONS = frozenset(_RELATIONS.split())
"""Where things are to each other."""

VERBS = frozenset(_VERBS.split())
"""What things do, besides words in -ing."""

NOT_VERBS = frozenset(_NOT_VERBS.split())
"""Words in -ing that name things."""

FORMAT = re.compile(
    r"^(please\s+)?(answer|respond|reply|choose|select|give|provide)\b.*"
    r"\b(words?|phrase|letter|options?|choices?|yes|directly|short|brief(ly)?|sentences?)\b",
    re.IGNORECASE | re.DOTALL,
)
"""An instruction about the answer's form, which says nothing of the picture."""

OCR = re.compile(r"^(reference\s+)?ocr(\s+tokens?)?\s*:", re.IGNORECASE)
"""The line of words that OCR found in the picture, in TextVQA's prompts."""

HINT = re.compile(r"^(context|hint|background|passage|caption)\s*:", re.IGNORECASE)
"""The beginning of what stands in front of a question for the reader, as in ScienceQA's prompts."""

CONTRACTION = re.compile(r"(n?['\u2019]t|['\u2019](s|re|ll|d|ve|m))$")
"""What a word was drawn together with: "what's", "isn't"."""


@dataclass(frozen=True)
class ParsedQuestion:
    """What a question asks about.

    entities  groups of words, each a thing with what it is said to be ("red circle"), in their order
    actions   verbs and relations, likewise
    words     the cleaned question: hints, lines of OCR, instructions about the answer's form and letters of options are
              gone
    """

    entities: tuple[tuple[Word, ...], ...]
    actions: tuple[tuple[Word, ...], ...]
    words: tuple[Word, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing is named: such a question must not choose patches."""
        return not self.entities and not self.actions

    @property
    def text(self) -> str:
        """The fixed template: entities, actions, the cleaned question."""
        parts = [", ".join(phrase(group) for group in groups) for groups in (self.entities, self.actions) if groups]
        return "; ".join([*parts, sentence(self.words)])


def parse_question(words: Sequence[Word]) -> ParsedQuestion:
    """Clean and parse a question."""
    words = clean(words)
    groups = [(kind, tuple(group)) for (kind, _), group in groupby(_numbered(words), key=lambda item: item[:2])]
    named = [(kind, tuple(word for _, _, word in group)) for kind, group in groups]
    entities = [group for kind, group in named if kind == "entity" and not all(w.text.isdigit() for w in group)]
    actions = [group for kind, group in named if kind == "action"]
    return ParsedQuestion(_different(entities), _different(actions), words)


def clean(words: Sequence[Word]) -> tuple[Word, ...]:
    """Without hints, lines of OCR, sentences about the form of the answer (unless there is nothing else) and letters in
    front of options."""
    words = _asked(words)
    parts, start = [], 0
    for i, word in enumerate(words):
        if i + 1 == len(words) or (re.search(r"[.?!\n]", word.after) and not _is_letter(words, i)):
            parts.append(words[start : i + 1])
            start = i + 1
    questions = [part for part in parts if not FORMAT.match(sentence(part))] or parts
    left = [word for part in questions for word in part]
    return tuple(word for i, word in enumerate(left) if not _is_letter(left, i))


def _asked(words: Sequence[Word]) -> Sequence[Word]:
    """Without the line of OCR, and without what stands between the label of a hint and the question, the last line that
    is neither option nor instruction; all of it where nothing else is left."""
    ends = [i + 1 for i, word in enumerate(words) if "\n" in word.after or i + 1 == len(words)]
    lines = [words[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    lines = [line for line in lines if not OCR.match(sentence(line))]
    asks = [i for i, line in enumerate(lines) if not _is_letter(line, 0) and not FORMAT.match(sentence(line))]
    hints = [i for i in asks if HINT.match(sentence(lines[i]))]
    if hints and hints[0] < asks[-1]:
        lines = lines[: hints[0]] + lines[asks[-1] :]
    return [word for line in lines for word in line] or words


def phrase(group: Sequence[Word]) -> str:
    """The words of a group, the last one in the singular: texts that name one thing are what CLIP has seen most."""
    return " ".join([*(word.text.lower() for word in group[:-1]), singular(group[-1].text.lower())])


def singular(word: str) -> str:
    """``crosses`` -> ``cross``, ``cities`` -> ``city``, ``rings`` -> ``ring``; a guess, as English goes."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(ss|x|ch|sh|zz)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _numbered(words: Sequence[Word]) -> Iterator[tuple[str, int, Word]]:
    """Kind of each content word, and the number of the group that it belongs to."""
    group, before = 0, None
    for word in words:
        text = CONTRACTION.sub("", word.text.lower())
        if text in FUNCTION or text in GENERIC:
            kind = None
        elif text in RELATIONS or text in VERBS or (len(text) > 5 and text.endswith("ing") and text not in NOT_VERBS):
            kind = "action"
        else:
            kind = "entity"
        group += kind != before
        if kind is not None:
            yield kind, group, word
        before = kind
        group += word.after.strip(" ") != ""


def _is_letter(words: Sequence[Word], i: int) -> bool:
    """Whether word ``i`` is the letter of an option: "A." or "(B)"."""
    word = words[i]
    first = i == 0 or re.search(r"[\n(]\s*$", words[i - 1].after) is not None
    return first and re.fullmatch(r"[A-H]", word.text) is not None and re.match(r"[.):]", word.after) is not None


def _different(groups: Sequence[tuple[Word, ...]]) -> tuple[tuple[Word, ...], ...]:
    """Each group once."""
    return tuple(
        {phrase(group): group for group in reversed(groups)}[name] for name in dict.fromkeys(map(phrase, groups))
    )
