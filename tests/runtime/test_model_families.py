"""The model families, tiny and random, from checkpoints on disk: their parts, their prompts, their rotary embedding."""

import pytest
import torch
import transformers
from helpers.families import FAMILIES, TEXT, TOWER
from helpers.model_family import IMAGE, VIDEO, questions
from torch import Tensor

from thinsight import load_method, reduce, select_layer
from thinsight.errors import UserError
from thinsight.methods.controls import Random
from thinsight.models.families import find_parts
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.schedules import Keep
from thinsight.reduction.sites import Features

GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE, VIDEO], "max_new_tokens": 4}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    """(family, model, processor) of one checkpoint."""
    family = FAMILIES[request.param]
    return family, *family.load(family.save(tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[1]


@pytest.fixture(scope="module")
def inputs(loaded):
    """Two questions about two pictures, padded on the left."""
    made = questions(loaded[2])
    assert not made["attention_mask"].all()
    return made


def visual_tokens(inputs: dict[str, Tensor]) -> list[int]:
    return (inputs["input_ids"] == IMAGE).sum(1).tolist()


def masked_logits(model, inputs: dict[str, Tensor], new: Tensor, trace) -> Tensor:
    """Logits (batch, 1 + new, vocabulary) of the plain model at full length, in which what a reduction removed is
    hidden from everyone, from the layer of the removal on."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    prompt, columns = ids.shape[1], torch.cat([ids, new], 1)
    alive = torch.cat([mask, torch.ones_like(new)], 1)
    whole = {**inputs, "input_ids": columns, "attention_mask": alive}
    if "mm_token_type_ids" in inputs:  # the model makes positions of three axes of it
        whole["mm_token_type_ids"] = (columns == IMAGE).int()
    else:
        whole["position_ids"] = (alive.cumsum(1) - 1).clamp(min=0)
    causal = torch.ones(columns.shape[1], columns.shape[1], dtype=torch.bool).tril()
    handles = []
    for number, layer in enumerate(find_parts(model).layers):
        seen = alive.bool()
        for sample, kept in enumerate(trace.columns):
            if trace.sequence_lengths[sample][number] < int(mask[sample].sum()):
                seen[sample, :prompt] = False
                seen[sample, kept] = True
        attend = causal & seen[:, None, None] | torch.eye(len(causal), dtype=torch.bool)
        hook = lambda _, args, kwargs, attend=attend: (args, {**kwargs, "attention_mask": attend})  # noqa: E731
        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    logits = model(**whole, use_cache=False).logits[:, prompt - 1 :]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize(
    ("name", "fields"),
    [("vtw", {}), ("vtw", {"layer": 0}), ("random", {"layer": 2}), ("random", {}), ("grid", {})],
    ids=["vtw", "vtw-0", "random-2", "random", "grid"],
)
def test_pruning_is_masking(model, inputs, name, fields):
    """Two prompts of different lengths, generated from; in the decoder, and in front of it (layer 0)."""
    with reduce(model, load_method(name, **fields)) as trace:
        out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    new = out.sequences[:, inputs["input_ids"].shape[1] : -1]
    expected = masked_logits(model, inputs, new, trace)
    left = [lengths[-1] for lengths in trace.lengths]
    assert left == [0 if name == "vtw" else round(0.5 * n) for n in visual_tokens(inputs)]
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=5e-5, rtol=0)


def test_a_removed_picture_matters(model, inputs):
    """Else the oracle would prove nothing."""
    plain = model(**inputs, logits_to_keep=1).logits
    with reduce(model, load_method("vtw", layer=0)):
        assert (model(**inputs, logits_to_keep=1).logits - plain).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "fields"), [("identity", {}), ("random", {"keep": 1.0}), ("grid", {"keep": 1.0}), ("vtw", {"layer": 6})]
)
def test_nothing_removed_is_the_plain_model(model, inputs, name, fields):
    plain = model(**inputs).logits
    answer = model.generate(**inputs, **GREEDY)
    with reduce(model, load_method(name, **fields)):
        assert torch.equal(model(**inputs).logits, plain)
        assert torch.equal(model.generate(**inputs, **GREEDY), answer)


def state(model) -> list:
    """What hangs on each module: its attributes and its hooks."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")
    return [(name, sorted(vars(m)), [dict(getattr(m, h)) for h in hooks]) for name, m in model.named_modules()]


def test_nothing_is_left_behind(model, inputs):
    """After the context, and after one that an exception has left, too."""
    model.generate(**inputs, **GREEDY)  # transformers hangs up its own hooks when it first runs
    plain, hanging, weights = (
        model(**inputs).logits,
        state(model),
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    with reduce(model, load_method("vtw")):
        model.generate(**inputs, **GREEDY)
        assert state(model) != hanging
    assert state(model) == hanging
    assert torch.equal(model(**inputs).logits, plain)
    with pytest.raises(UserError, match="labels"), reduce(model, load_method("random")):
        model(**inputs, labels=inputs["input_ids"])
    assert state(model) == hanging
    assert torch.equal(model(**inputs).logits, plain)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_the_criterion(model, inputs):
    found = select_layer(model, [inputs], candidates=[2, 4], threshold=1e9)
    for layer, value in found.divergence.items():
        full = model(**inputs).logits[:, -1].log_softmax(-1)
        with reduce(model, load_method("vtw", layer=layer)):
            gone = model(**inputs).logits[:, -1].log_softmax(-1)
        assert value == pytest.approx((gone.exp() * (gone - full)).sum(-1).mean().item(), abs=2e-5)


def test_blind_is_the_prompt_without_its_picture(model, inputs):
    with reduce(model, load_method("blind")):
        seen = model(**inputs, logits_to_keep=1).logits
        answers = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    for sample, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
        text = ids[(ids != IMAGE) & mask.bool()][None]
        torch.testing.assert_close(seen[sample], model(input_ids=text, logits_to_keep=1).logits[0], atol=2e-5, rtol=0)
        assert torch.equal(answers[sample], model.generate(input_ids=text, **GREEDY)[0, text.shape[1] :])


@pytest.mark.parametrize(("name", "fields"), [("vtw", {}), ("vtw", {"layer": 0}), ("random", {})])
def test_step_by_step_without_generate(loaded, name, fields):
    """Just the new tokens and the cache: where a model counts positions from the cache, they are put right."""
    _, model, processor = loaded
    inputs, new = questions(processor, 1), torch.tensor([[20, 21, 22]])
    with reduce(model, load_method(name, **fields)) as trace:
        first = model(**inputs)
        steps = [model(input_ids=token[None], past_key_values=first.past_key_values).logits for token in new.T]
    found = torch.cat([first.logits[:, -1:], *steps], 1)
    torch.testing.assert_close(found, masked_logits(model, inputs, new, trace), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_packing_a_picture_on_three_axes_is_refused(name, tmp_path):
    family = FAMILIES[name]
    model, processor = family.load(family.save(tmp_path))
    for fields in ({"positions": "pack"}, {"positions": "pack", "layer": 0}):
        with reduce(model, load_method("grid", **fields)), pytest.raises(UserError, match="multi-axis"):
            model(**questions(processor, 1))


def test_a_picture_in_tiles_is_one_picture():
    """The number of tokens may be a multiple of the number of tiles by chance: 36 + 6 * 13 = 3 * 38."""
    vision = transformers.CLIPVisionConfig(**TOWER, num_hidden_layers=3, image_size=24)
    text, grids = transformers.LlamaConfig(**TEXT), [[24, 48]]
    config = transformers.LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=grids
    )
    model = transformers.LlavaNextForConditionalGeneration(config).eval()
    ids = torch.tensor([[1, *[IMAGE] * 114, 20]])
    method = Method("half", (Reduction(Random(), site=Features(), schedule=Keep(0.5)),))
    with reduce(model, method) as trace:
        model(input_ids=ids, pixel_values=torch.randn(1, 3, 3, 24, 24), image_sizes=torch.tensor(grids))
    assert trace.lengths[0][0] == 3 * 18 + 6  # half of each tile's patches, and every line break


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "internvl", "smolvlm"])
def test_in_front_of_the_projector_is_refused(name, tmp_path):
    """Where patches are put together or mixed, in one sentence."""
    family = FAMILIES[name]
    model, _ = family.load(family.save(tmp_path))
    method = Method("half", (Reduction(Random(), site=Features(), schedule=Keep(0.5)),))
    with pytest.raises(UserError, match="choose a method that acts behind the projector"), reduce(model, method):
        pass


def test_a_video_is_refused(tmp_path):
    family = FAMILIES["qwen2_5_vl"]
    model, processor = family.load(family.save(tmp_path))
    inputs = questions(processor, 1)
    with reduce(model, load_method("vtw")), pytest.raises(UserError, match="images only"):
        model(**inputs, pixel_values_videos=inputs["pixel_values"])


def decoder(**fields):
    """A text-only Mistral or Qwen2."""
    kind = transformers.Qwen2Config if "use_sliding_window" in fields else transformers.MistralConfig
    return transformers.AutoModelForCausalLM.from_config(kind(**TEXT, **fields)).eval()


@pytest.mark.parametrize(
    "fields", [{"sliding_window": 8}, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}]
)
def test_a_sliding_window_is_refused(fields):
    with pytest.raises(UserError, match=r"sliding window|kinds of attention"):
        find_parts(decoder(**fields))


@pytest.mark.parametrize("fields", [{"sliding_window": None}, {"use_sliding_window": False, "sliding_window": 8}])
def test_a_sliding_window_that_is_off_is_none(fields):
    assert find_parts(decoder(**fields)).depth == 6
