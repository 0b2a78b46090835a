"""What every method has to satisfy, for each file in conf/method; a new file is tested without a change here."""

from functools import cache

import pytest
import torch
from masked import masked_logits
from prompts import BATCHES, IMAGE

import thinsight
from thinsight import reduce
from thinsight.config import names
from thinsight.stages.compress import Discard

METHODS = names("method")
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}  # random weights may well answer with an image token
CLOSE = {"atol": 5e-5, "rtol": 0}


@cache
def load_method(name: str, **fields):
    """Composing a configuration takes longer than running it here."""
    return thinsight.load_method(name, **fields)


def settings(name: str) -> list[dict]:
    """Ways to run a method: both position policies where it has the choice."""
    fields = load_method(name).fields
    return [{"positions": p} for p in ("keep", "pack")] if "positions" in fields else [{}]


def packs(method) -> bool:
    return any(r.site.positions == "pack" for r in method.reductions)


CASES = [pytest.param(n, s, id=f"{n}-{'-'.join(s.values()) or 'default'}") for n in METHODS for s in settings(n)]
PRUNING = [c for c in CASES if all(isinstance(r.compress, Discard) for r in load_method(c.values[0]).reductions)]


def state(model) -> list:
    """Everything that a hook or a patch could leave behind."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")
    modules = model.named_modules()
    return [(name, sorted(vars(module)), [dict(getattr(module, h)) for h in hooks]) for name, module in modules]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_leaves_nothing_behind(llava, name, fields):
    inputs = BATCHES["two, padded"]
    before, hooks = llava(**inputs).logits, state(llava)
    with reduce(llava, load_method(name, **fields)):
        llava(**inputs)
        assert state(llava) != hooks
    assert state(llava) == hooks
    assert torch.equal(llava(**inputs).logits, before)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_leaves_nothing_behind_after_an_exception(llava, name, fields):
    inputs = BATCHES["two, padded"]
    before, hooks = llava(**inputs).logits, state(llava)
    last = llava.model.language_model.layers[-1]

    def fail(*_):
        raise RuntimeError("out of memory")

    handle = last.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"), reduce(llava, load_method(name, **fields)):
        llava(**inputs)
    handle.remove()
    assert state(llava) == hooks
    assert torch.equal(llava(**inputs).logits, before)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("name", METHODS)
def test_zero_budget_is_identity(llava, name, inputs):
    depth = llava.config.text_config.num_hidden_layers
    whole = {"keep": 1.0, "layer": depth, "low": depth, "high": depth}
    method = load_method(name)
    nothing = {key: value for key, value in whole.items() if key in method.fields}
    if method.reductions and not nothing:
        assert name == "blind"  # the one method without a budget: it keeps nothing by definition
        return
    with reduce(llava, load_method(name, **nothing)) as trace:
        logits = llava(**inputs).logits
    assert torch.equal(logits, llava(**inputs).logits)
    visual = (inputs["input_ids"] == llava.config.image_token_id).sum(1)
    assert trace.lengths == [[n] * depth for n in visual.tolist()]


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(("name", "fields"), CASES)
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
    for sample in range(len(alive)):
        kept, lengths = trace.kept[sample], trace.lengths[sample]
        assert kept == sorted(set(kept))
        assert len(kept) == lengths[-1]
        assert lengths == sorted(lengths, reverse=True)
        assert not kept or (kept[0] >= 0 and kept[-1] < visual[sample])
    shortened = any(sample[-1] < n for sample, n in zip(trace.sequence_lengths, alive, strict=True))
    assert shortened == bool(method.reductions)


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
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


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_generation_repeats_itself(llava, name, fields):
    inputs = BATCHES["unequal"]
    runs = []
    for _ in range(2):
        with reduce(llava, load_method(name, **fields)) as trace:
            runs.append((llava.generate(**inputs, **GREEDY, max_new_tokens=6).tolist(), trace.kept))
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

    alone = {name: run(name) for name in METHODS}
    for name in reversed(METHODS):
        assert torch.equal(run(name), alone[name])
