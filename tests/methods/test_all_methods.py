"""What every method has to satisfy, for each file in conf/method; a new file is tested without a change here."""

from functools import cache

import pytest
import torch
from helpers.masked_reference import masked_logits
from helpers.prompts import BATCHES, IMAGE
from helpers.replay import playback, recording

import thinsight
from thinsight import reduce
from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.costs.budgets import PrefillSizes, simulate
from thinsight.errors import UserError
from thinsight.reduction.method import Reduction
from thinsight.reduction.sites import Vision
from thinsight.reduction.stages import Discard, Raster, WeightedMerge

METHODS = names("method")
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}  # random weights may well answer with an image token
CLOSE = {"atol": 5e-5, "rtol": 0}


@cache
def load_method(name: str, **fields):
    """Composing a configuration takes longer than running it here."""
    return thinsight.load_method(name, **fields)


def settings(name: str) -> list[dict]:
    """Ways to run a method: each position policy and each fidelity, where it has the choice."""
    fields = load_method(name).fields
    ways = [{"positions": p} for p in ("keep", "pack")] if "positions" in fields else [{}]
    return [*ways, {"fidelity": "official"}] if "fidelity" in fields else ways  # see test_a_yaml_says_what_it_has_to


@cache
def runs_bare(name: str) -> bool:
    """Whether a method can do without tokenizer and text tower, which the tiny model lacks."""
    return not {"words", "text_tower"} & load_method(name).needs


def packs(method) -> bool:
    return any(r.site.positions == "pack" for r in method.reductions)


def prunes(method) -> bool:
    """Whether it only ever drops tokens, in places where that can be told by hiding columns of the decoder."""
    return all(
        type(r) is Reduction
        and isinstance(r.compress, Discard)
        and isinstance(r.order, Raster)
        and not isinstance(r.site, Vision)
        and not getattr(r.site, "inside", False)
        for r in method.reductions
    )


def lossy(reduction) -> bool:
    """Whether its correlation sends only some of the leavers anywhere."""
    return getattr(reduction.correlate, "lossy", False)


BARE = [name for name in METHODS if runs_bare(name)]
CASES = [pytest.param(n, s, id=f"{n}-{'-'.join(s.values()) or 'default'}") for n in BARE for s in settings(n)]
PRUNING = [c for c in CASES if prunes(load_method(c.values[0], **c.values[1]))]
MERGING = [c for c in CASES if any(r.merges for r in load_method(c.values[0]).reductions)]


def state(model) -> list:
    """Everything that a hook or a patch could leave behind."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")
    modules = model.named_modules()
    return [(name, sorted(vars(module)), [dict(getattr(module, h)) for h in hooks]) for name, module in modules]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_leaves_nothing_behind(llava, name, fields):
    """After a call, and after an exception in the last layer."""
    inputs = BATCHES["two, padded"]
    before, hooks = llava(**inputs).logits, state(llava)
    with reduce(llava, load_method(name, **fields)):
        llava(**inputs)
        assert state(llava) != hooks
    assert state(llava) == hooks

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = llava.model.language_model.layers[-1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"), reduce(llava, load_method(name, **fields)):
        llava(**inputs)
    handle.remove()
    assert state(llava) == hooks
    assert torch.equal(llava(**inputs).logits, before)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", BARE)
def test_zero_budget_is_identity(llava, name, inputs):
    depth = llava.config.text_config.num_hidden_layers
    whole = {"keep": 1.0} if "keep" in load_method(name).fields else {"layer": depth, "low": depth, "high": depth}
    nothing = {key: value for key, value in whole.items() if key in load_method(name).fields}
    if load_method(name).reductions and not nothing:
        assert name == "blind"  # the one method without a budget: it keeps nothing by definition
        return
    with reduce(llava, load_method(name, **nothing)) as trace:
        logits = llava(**inputs).logits
    assert torch.equal(logits, llava(**inputs).logits)
    visual = (inputs["input_ids"] == llava.config.image_token_id).sum(1)
    assert trace.lengths == [[n] * depth for n in visual.tolist()]


@pytest.mark.parametrize("keep", [0, 1, 0.0, 99])
@pytest.mark.parametrize("name", [name for name in BARE if "keep" in load_method(name).fields])
def test_budgets_at_the_edge(llava, name, keep):
    """Next to nothing, nothing, and more than there is: an answer, or one sentence."""
    try:
        with reduce(llava, load_method(name, keep=keep)) as trace:
            logits = llava(**BATCHES["two, padded"], logits_to_keep=1).logits
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert logits.isfinite().all()
    assert all(len(kept) <= 16 for kept in trace.kept)


@pytest.mark.parametrize(
    ("name", "fields", "inputs"),
    [
        *(pytest.param(name, {}, inputs, id=f"{name}-{batch}") for name in BARE for batch, inputs in BATCHES.items()),
        *(pytest.param(*case.values, BATCHES["unequal"], id=f"{case.id}-unequal") for case in CASES if case.values[1]),
    ],
)
def test_lengths_are_those_of_the_cache(llava, name, fields, inputs):
    method = load_method(name, **fields)
    with reduce(llava, method) as trace:
        cache = llava(**inputs).past_key_values
    depth = llava.config.text_config.num_hidden_layers
    alive = inputs["attention_mask"].sum(1).tolist()
    visual = (inputs["input_ids"] == llava.config.image_token_id).sum(1).tolist()
    for layer in range(depth):
        held = max(sample[layer] for sample in trace.sequence_lengths)
        untouched = all(sample[layer] == n for sample, n in zip(trace.sequence_lengths, alive, strict=True))
        assert cache.get_seq_length(layer) == (inputs["input_ids"].shape[1] if untouched else held)
    inside = any(getattr(r.site, "inside", False) for r in method.after_projector)
    for sample in range(len(alive)):
        kept, lengths = trace.kept[sample], trace.lengths[sample]
        named = [patch for patch in kept if patch >= 0]
        assert len(set(named)) == len(named)
        assert len(kept) <= lengths[-1] if inside else len(kept) == lengths[-1]
        assert lengths == sorted(lengths, reverse=True)
        assert all(-1 <= patch < visual[sample] for patch in kept)
        if all(isinstance(r.order, Raster) for r in method.reductions):
            assert kept == sorted(kept)
    shortened = any(len(kept) < n for kept, n in zip(trace.kept, visual, strict=True))
    assert name == "vtw_random_tokens" or shortened == bool(method.reductions)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_lengths_are_those_of_the_schedule(llava, name, fields):
    """What a budget's solver plays through without a model is what happens to one image."""
    inputs = BATCHES["one"]
    with reduce(llava, load_method(name, **fields)) as trace:
        llava(**inputs)
    try:
        played = simulate(load_method(name, **fields), PrefillSizes(depth=6, total=16, blocks=6, used=5))
    except UserError as error:
        assert "decides by the picture" in str(error) or "draws its layer" in str(error)  # noqa: PT017
        return
    if name != "vtw_random_tokens":  # it takes text as well
        assert trace.lengths[0] == played.visual
        assert len(trace.kept[0]) == played.kept
    if trace.tower:
        assert [n - 1 for n in trace.tower[0]] == played.tower


@pytest.mark.parametrize(
    ("attention", "inputs"),
    [*(pytest.param("sdpa", b, id=f"sdpa-{n}") for n, b in BATCHES.items()), ("eager", BATCHES["two, padded"])],
)
@pytest.mark.parametrize(("name", "fields"), PRUNING)
def test_pruning_is_masking(llava, llava_eager, name, fields, attention, inputs):
    """Prefill and four cached steps against one full-length run in which the removed columns are hidden."""
    model = llava if attention == "sdpa" else llava_eager
    method = load_method(name, **fields)
    with reduce(model, method) as trace:
        out = model.generate(**inputs, **GREEDY, max_new_tokens=5, return_dict_in_generate=True, output_logits=True)
    assert trace.prefills == 1
    new = out.sequences[:, inputs["input_ids"].shape[1] :]
    expected = masked_logits(model, inputs, trace, pack=packs(method), generated=new[:, :-1])
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, **CLOSE)
    expected[..., IMAGE] = -torch.inf
    assert torch.equal(expected.argmax(-1), new)


@pytest.mark.parametrize(("name", "fields"), [c for c in CASES if c not in PRUNING])
def test_cached_steps_equal_one_long_prefill(llava, name, fields):
    """Where tokens merge: decoding from the cache against a run over prompt and answer with the same choices."""
    if any(type(r) is not Reduction for r in load_method(name, **fields).reductions):
        pytest.skip("not made of three stages")
    inputs = BATCHES["unequal"]
    method = recording(load_method(name, **fields))
    with reduce(llava, method):
        out = llava.generate(**inputs, **GREEDY, max_new_tokens=4, return_dict_in_generate=True, output_logits=True)
    ids = out.sequences[:, :-1]
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids[:, inputs["input_ids"].shape[1] :])], 1)
    with reduce(llava, playback(method)):
        again = llava(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"], logits_to_keep=4).logits
    torch.testing.assert_close(torch.stack(out.logits, 1), again, **CLOSE)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_eager_attention_gives_the_same(llava, llava_eager, name, fields):
    inputs, found = BATCHES["two, padded"], []
    for model in (llava, llava_eager):
        with reduce(model, load_method(name, **fields)) as trace:
            found.append((model(**inputs, logits_to_keep=1).logits, trace.kept))
    assert found[0][1] == found[1][1]
    torch.testing.assert_close(found[0][0], found[1][0], atol=5e-4, rtol=0)


@pytest.mark.parametrize(("name", "fields"), MERGING)
def test_merging_conserves(llava, name, fields):
    """No patch goes into more than it has to give; where everything is merged, nothing is lost."""
    method, inputs = load_method(name, **fields), BATCHES["several images"]
    with reduce(llava, method) as trace:
        llava(**inputs)
    for sample, (sources, weights) in enumerate(zip(trace.sources, trace.weights, strict=True)):
        given = torch.zeros(int((inputs["input_ids"][sample] == IMAGE).sum()))
        for patches, shares in zip(sources, weights, strict=True):
            given[patches] += torch.tensor(shares)
        assert given.max() <= 1 + 1e-5
        if all(isinstance(r.compress, WeightedMerge) and not lossy(r) for r in method.reductions):
            torch.testing.assert_close(given, torch.ones_like(given))


@pytest.mark.parametrize("name", BARE)
def test_generation_repeats_itself(llava, name):
    inputs = BATCHES["unequal"]
    runs = []
    for _ in range(2):
        with reduce(llava, load_method(name)) as trace:
            runs.append((llava.generate(**inputs, **GREEDY, max_new_tokens=3).tolist(), trace.kept))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_a_sample_does_not_depend_on_its_batch(llava, name, fields):
    """The same choice and the same answer alone and between others, whatever the padding."""
    together, method = BATCHES["unequal"], load_method(name, **fields)
    with reduce(llava, method) as trace:
        logits = llava(**together, logits_to_keep=1).logits
        kept = trace.kept
        images = 0
        for sample in range(3):
            mask = together["attention_mask"][sample].bool()
            ids = together["input_ids"][sample, mask][None]
            count = int((ids == llava.config.image_token_id).sum()) // llava.config.image_seq_length
            own = {"pixel_values": together["pixel_values"][images : images + count]} if count else {}
            images += count
            alone = llava(input_ids=ids, **own, logits_to_keep=1).logits
            torch.testing.assert_close(alone[0], logits[sample], **CLOSE)
            assert trace.kept == [kept[sample]]


def test_one_method_after_the_other(llava):
    """Methods leave no state for the next: each equals its run alone, in either order."""
    inputs = BATCHES["unequal"]

    def run(name):
        with reduce(llava, load_method(name)):
            return llava(**inputs, logits_to_keep=1).logits

    alone = {name: run(name) for name in BARE}
    for name in reversed(BARE):
        assert torch.equal(run(name), alone[name])


@pytest.mark.parametrize("name", [name for name in METHODS if not runs_bare(name)])
def test_what_a_bare_model_lacks_is_one_sentence(llava, name):
    with pytest.raises(UserError) as error, reduce(llava, load_method(name)):
        llava(**BATCHES["one"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", METHODS)
def test_a_yaml_says_what_it_has_to(name):
    node = load_config([f"method={name}"]).method
    assert node.name == name
    assert node.about
    assert node.acts
    knobs = load_method(name).fields
    for field, (value, why) in node.get("official", {}).items():
        assert field in knobs
        assert knobs[field] != value, f"{field} is official already"
        assert len(why) > 10
    assert ("official" in node) == ("fidelity" in knobs)
