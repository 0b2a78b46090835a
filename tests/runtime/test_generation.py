"""Every way of generating, with every method and on every model family: right, or refused in one sentence.

``docs/generation.md`` is what comes out; ``pytest tests/runtime/test_generation.py --write-docs`` writes it.
"""

import copy
from functools import cache

import pytest
from helpers.families import FAMILIES
from helpers.generation import FEATURES, Trial
from helpers.generation_document import refusals, written
from helpers.method_kinds import one_of_each_kind
from helpers.model_family import questions

import thinsight
from thinsight import reduce
from thinsight.config.schema import names
from thinsight.errors import UserError
from thinsight.paths import ROOT

DOCUMENT = ROOT / "docs" / "generation.md"
ACTS: dict[tuple[str, str], str | None] = {}
OUTCOMES: dict[tuple[str, str, str], str | None] = {}
WHOLE = next(iter(FAMILIES))
"""The family on which every method is tried."""
COMPILED = {
    "compiled before": {"fastv", "ficoco_l"},
    "compiled inside": {"tome", "divprune", "ficoco_l"},
}
"""Methods that are tried on compiled models when the document is only checked: one for each place, in one of the ways
where it takes ten seconds."""


@cache
def method(name: str, axes: int):
    """The tiny models have a tokenizer, but no text tower: methods that need one take the decoder's own space."""
    made = thinsight.load_method(name)
    fields = {"space": "llm"} if "text_tower" in made.needs else {}
    fields |= {"positions": "keep"} if axes > 1 and "positions" in made.fields else {}
    return thinsight.load_method(name, **fields) if fields else made


@cache
def kinds() -> list[str]:
    """A method for each combination of places."""
    return one_of_each_kind(method(name, 1) for name in names("method"))


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        whole, every = metafunc.config.getoption("--write-docs"), names("method")
        cases = [(family, name) for family in FAMILIES for name in (every if whole else methods_on(family))]
        metafunc.parametrize(("loaded", "name"), cases, indirect=["loaded"], scope="module")


def methods_on(family: str) -> list[str]:
    """What is tried on a family when the document is only checked: every kind of place on two families or more."""
    return names("method") if family == WHOLE else kinds()[list(FAMILIES).index(family) % 4 :: 4]


def features_of(family: str, name: str) -> list[str]:
    """The ways that are tried when the document is only checked: for a method of each kind all of them on the first
    family, and on each of the two others a half; for a method of a kind that is tried already, a quarter."""
    ways = [way for way in FEATURES if way not in COMPILED]
    if family != WHOLE:
        return ways[list(FAMILIES).index(family) // 5 :: 2]
    compiled = [way for way, methods in COMPILED.items() if name in methods]
    return [*(ways if name in kinds() else ways[names("method").index(name) % 4 :: 4]), *compiled]


@pytest.fixture(scope="module")
def told(request):
    """The document's refusals, see `refusals`; None where it is being written, from all that the tests have found."""
    if not request.config.getoption("--write-docs"):
        yield refusals(DOCUMENT.read_text())
        return
    yield None
    DOCUMENT.write_text(written(ACTS, OUTCOMES))


@pytest.fixture(scope="module")
def loaded(request, tmp_path_factory):
    """(name, family, model, inputs of two prompts, inputs of the first one, a plain copy of the model)."""
    family = FAMILIES[request.param]
    model, processor = family.load(family.save(tmp_path_factory.mktemp(request.param)))
    return request.param, family, model, questions(processor), questions(processor, 1), copy.deepcopy(model)


def test_right_or_refused(loaded, name, told):
    """And as the document says."""
    at, family, model, inputs, single, assistant = loaded
    trial, wrong = Trial(model, method(name, family.axes), inputs, single, assistant), []
    try:
        with reduce(model, trial.method):
            trial.forward()
    except UserError as error:
        ACTS[at, name] = str(error)
        return
    ACTS[at, name] = None
    tried = FEATURES if told is None else features_of(at, name)
    for feature, (_, attempt) in FEATURES.items():
        if feature not in tried or (feature in COMPILED and at != WHOLE):
            continue
        try:
            attempt(trial)
            OUTCOMES[feature, name, at] = None
        except UserError as error:
            OUTCOMES[feature, name, at] = str(error)
        except Exception as error:
            wrong.append(f"{feature}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong)
    for feature in tried if told else ():
        sentences = [sentence for sentence, methods in told[feature].items() if {name, "all"} & methods]
        if sentence := OUTCOMES[feature, name, at]:
            assert sentence in sentences
        else:
            assert not any("all" in methods for methods in told[feature].values())
