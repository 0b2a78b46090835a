"""Numbers that tokens go by: a survivor its own, a new one that of the token it is named after."""

import pytest
import torch
from helpers.families import FAMILIES
from helpers.model_family import questions
from helpers.prompts import BATCHES

import thinsight
from thinsight import reduce
from thinsight.config.schema import names
from thinsight.errors import UserError
from thinsight.methods.controls import Random
from thinsight.models.families import find_parts
from thinsight.paths import ROOT
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.schedules import Keep
from thinsight.reduction.sites import Decoder, Projected
from thinsight.runtime.hooks import pre_hook

CLOSE = {"atol": 5e-5, "rtol": 0}


def ways() -> list:
    """Every method that keeps numbers, in raster order and in the released code's."""
    cases = []
    for name in names("method"):
        fields = thinsight.load_method(name).fields
        keep = {"positions": "keep"} if "positions" in fields else {}
        keep |= {"space": "llm", "rewriting": "none"} if {"space", "rewriting"} <= fields.keys() else {}
        keep |= {"space": "llm"} if "space" in fields else {}
        orders = [{}, {"order": "official"}] if fields.get("order") == "raster" else [{}]
        orders += [{"merge": "mean"}] if name in ("trsm", "trim") else []
        for order in orders:
            method = thinsight.load_method(name, **keep, **order)
            packs = any(r.site.positions == "pack" for r in method.reductions)
            if not packs and not {"words", "text_tower"} & method.needs:
                cases.append(pytest.param(name, keep | order, id=f"{name}-{'-'.join(order.values()) or 'default'}"))
    return cases


def entering(model, call) -> list[tuple]:
    """(hidden states, cosines and sines) that each decoder layer is given."""
    parts, seen = find_parts(model), []
    handles = [
        pre_hook(layer, lambda given: seen.append((given["hidden_states"], given["position_embeddings"])))
        for layer in parts.layers
    ]
    call()
    for handle in handles:
        handle.remove()
    return seen


def names_at(trace, layer: int, sample: int) -> list[int]:
    """The column whose number each token in a layer has to go by; the place where it stands, if it has no name."""
    tokens = trace.last._entered[layer][sample]
    return torch.where(tokens.origins < 0, tokens.index, tokens.origins).tolist()


@pytest.mark.parametrize(("name", "fields"), ways())
@pytest.mark.parametrize("inputs", ["one", "two, padded", "several images"])
def test_every_token_goes_by_its_name(llava, name, fields, inputs):
    """In every layer the rotation of a token is that of the column it is named after."""
    inputs = BATCHES[inputs]
    position = torch.arange(inputs["input_ids"].shape[1])[None]
    with reduce(llava, thinsight.load_method(name, **fields)) as trace, torch.no_grad():
        layers = entering(llava, lambda: llava(**inputs))
    tables = llava.model.language_model.rotary_emb(layers[0][0], position)
    for layer, (hidden, rotation) in enumerate(layers):
        width = hidden.shape[1]
        for sample in range(len(hidden)):
            columns = names_at(trace, layer, sample)
            if len(columns) < width:
                continue  # filled up for the sake of another sample: see below
            for table, given in zip(tables, rotation, strict=True):
                torch.testing.assert_close(given.expand(len(hidden), -1, -1)[sample], table[0, columns])


@pytest.mark.parametrize(("name", "fields"), [c for c in ways() if "official" in str(c.id) or "mean" in str(c.id)])
def test_an_unmodified_decoder_with_these_numbers_says_the_same(llava, name, fields):
    """Tokens in another order, in front of the decoder: the plain language model, given their states and numbers."""
    method = thinsight.load_method(name, **fields)
    if any(layer > 0 for r in method.resolve(6).after_projector for layer in r.site.layers):
        return  # in the decoder: the rotation of each layer is tested above
    with reduce(llava, method) as trace, torch.no_grad():
        made = []
        layers = entering(llava, lambda: made.append(llava(**BATCHES["one"]).logits))
    numbers = torch.tensor([names_at(trace, 0, 0)])
    with torch.no_grad():
        decoder = llava.model.language_model
        mask = torch.ones_like(numbers)  # without one gaps would be taken for several sequences
        hidden = decoder(inputs_embeds=layers[0][0], position_ids=numbers, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(made[0], llava.lm_head(hidden), **CLOSE)


@pytest.mark.parametrize(("name", "fields"), ways())
def test_a_new_token_is_named_after_one_that_went_into_it(llava, name, fields):
    with reduce(llava, thinsight.load_method(name, **fields)) as trace, torch.no_grad():
        llava(**BATCHES["one"])
    for patch, sources in zip(trace.kept[0], trace.sources[0], strict=True):
        assert patch == -1 or patch in sources


class Backwards:
    """Tokens go on in descending order."""

    def __call__(self, tokens, evidence):
        return tokens.index.argsort(descending=True)


@pytest.mark.parametrize("site", [Projected(), Decoder([2])])
@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_on_every_axis(family, site, tmp_path):
    """Reversed tokens take their numbers along, on the three axes of Qwen-VL too, and in a second reduction."""
    model, processor = FAMILIES[family].load(FAMILIES[family].save(tmp_path))
    inputs = questions(processor, 1)
    first = Reduction(Random(1), site=site, schedule=Keep(0.8), order=Backwards())
    second = Reduction(Random(2), site=Decoder([4]), schedule=Keep(0.5), order=Backwards())
    plain = entering(model, lambda: model(**inputs))
    with reduce(model, Method("backwards", (first, second))) as trace, torch.no_grad():
        layers = entering(model, lambda: model(**inputs))
    for layer, (_, rotation) in enumerate(layers):
        columns = names_at(trace, layer, 0)
        for given, table in zip(rotation, plain[0][1], strict=True):
            torch.testing.assert_close(given[0], table[0, columns])
    assert names_at(trace, 3, 0) != sorted(names_at(trace, 3, 0)) or len(trace.kept[0]) < 2


def test_packing_is_refused_along_several_axes(tmp_path):
    family = FAMILIES["qwen2_vl"]
    model, processor = family.load(family.save(tmp_path))
    with pytest.raises(UserError, match="positions=keep"), reduce(model, thinsight.load_method("divprune")):
        model(**questions(processor, 1))


def test_every_method_is_in_the_document():
    text = (ROOT / "docs" / "positions.md").read_text()
    assert [name for name in names("method") if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("name", "fields", "number"),
    [
        ("trim", {"merge": "mean", "space": "llm"}, lambda gone, _: min(gone)),
        ("trsm", {"merge": "mean", "space": "llm"}, lambda gone, _: min(gone)),
        ("tome", {"keep": 8}, lambda _, sources: min(sources)),
    ],
)
def test_new_tokens_as_the_document_has_it(llava, name, fields, number):
    """The last token kept is the new one of TRIM and TRSM; of ToMe each one is."""
    with reduce(llava, thinsight.load_method(name, positions="keep", **fields)) as trace, torch.no_grad():
        llava(**BATCHES["one"])
    kept, sources = trace.kept[0], trace.sources[0]
    gone = set(range(16)) - {patch for patch, merged in zip(kept, sources, strict=True) if merged == [patch]}
    for patch, merged in list(zip(kept, sources, strict=True))[-1 if name != "tome" else 0 :]:
        assert patch == number(gone, merged)
