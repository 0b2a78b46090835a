"""Other model families than LLaVA-1.5, tiny and random: what they call their parts, and their own rotary embedding."""

import pytest
import torch
import transformers
from prompts import IMAGE

from thinsight import load_method, reduce, select_layer
from thinsight.errors import UserError

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def qwen():
    """Qwen2.5-VL: three-axis positions, a vision tower on flattened patches. 16 visual tokens."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope}, vision_config=vision, image_token_id=IMAGE, video_token_id=101
    )
    ids = torch.tensor([[1, 5, 6, *[IMAGE] * 16, 7, 8, 9]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == IMAGE).int()}
    inputs |= {"pixel_values": torch.randn(64, 96), "image_grid_thw": torch.tensor([[1, 8, 8]])}
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval(), inputs


def llava_next():
    """LLaVA-NeXT: a picture twice as wide as high, whole and in two tiles. 16 + 4 * (8 + newline) visual tokens."""
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=16, patch_size=4
    )
    config = transformers.LlavaNextConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE,
        image_grid_pinpoints=[[16, 32]],
    )
    ids = torch.tensor([[1, 5, 6, *[IMAGE] * (16 + 4 * (8 + 1)), 7, 8, 9]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_sizes": torch.tensor([[16, 32]])}
    inputs |= {"pixel_values": torch.randn(1, 3, 3, 16, 16)}
    return transformers.LlavaNextForConditionalGeneration(config).eval(), inputs


FAMILIES = {"qwen2.5-vl": qwen, "llava-next": llava_next}


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def family(request):
    return request.param()


@pytest.mark.parametrize(
    ("name", "fields"), [("vtw", {}), ("vtw", {"layer": 0}), ("random", {"layer": 2}), ("grid", {})]
)
def test_pruning_is_masking(family, name, fields):
    model, inputs = family
    prompt = inputs["input_ids"].shape[1]
    how = {"do_sample": False, "suppress_tokens": [IMAGE, 101], "max_new_tokens": 4}
    with reduce(model, load_method(name, **fields)) as trace:
        out = model.generate(**inputs, **how, return_dict_in_generate=True, output_logits=True)
    ids = out.sequences[:, :-1]
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = (ids == IMAGE).int()
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    handles = []
    for number, layer in enumerate(model.model.language_model.layers):
        alive = torch.ones(ids.shape[1], dtype=torch.bool)
        if trace.sequence_lengths[0][number] < prompt:
            alive[:prompt] = False
            alive[trace.columns[0]] = True
        mask = (causal & alive | torch.eye(len(alive), dtype=torch.bool))[None, None]
        hook = lambda _, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask})  # noqa: E731
        handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
    expected = model(**whole, use_cache=False).logits[:, prompt - 1 :]
    for handle in handles:
        handle.remove()
    assert trace.lengths[0][-1] < int((inputs["input_ids"] == IMAGE).sum())
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=5e-5, rtol=0)


def test_the_criterion(family):
    model, inputs = family
    found = select_layer(model, [inputs], candidates=[2, 4], threshold=1e9)
    for layer, value in found.divergence.items():
        full = model(**inputs).logits[:, -1].log_softmax(-1)
        with reduce(model, load_method("vtw", layer=layer)):
            gone = model(**inputs).logits[:, -1].log_softmax(-1)
        assert value == pytest.approx((gone.exp() * (gone - full)).sum().item(), abs=2e-5)


def test_packing_three_axes_is_refused():
    model, inputs = qwen()
    with reduce(model, load_method("blind")), pytest.raises(UserError, match="multi-axis"):
        model(**inputs)


def test_a_video_is_refused():
    model, inputs = qwen()
    with reduce(model, load_method("vtw")), pytest.raises(UserError, match="images only"):
        model(**inputs, pixel_values_videos=inputs["pixel_values"])


def test_a_sliding_window_is_refused():
    config = transformers.MistralConfig(**TEXT, sliding_window=8)
    model = transformers.MistralForCausalLM(config).eval()
    with (
        pytest.raises(UserError, match="sliding window"),
        reduce(model, load_method("vtw"), visual=torch.ones(1, 4, dtype=torch.bool)),
    ):
        pass
