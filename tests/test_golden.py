"""Methods against the official implementations' own numbers, one file in the folder of golden files for each.

Here VTW; the families of the others are in golden_vision.py, golden_projector.py and golden_decoder.py. All sizes,
hyper-parameters and cases are read from the files: ``pytest tests/test_golden.py --golden DIR`` checks others.
"""

import pytest
import torch
from helpers.golden_decoder import test_end_to_end, test_pivots, test_plain_llama, test_raters, test_recycling  # noqa: F401
from helpers.golden_projector import test_cdpruner, test_divprune, test_trim  # noqa: F401
from helpers.golden_tolerance import assert_scores
from helpers.golden_vision import (  # noqa: F401
    test_evit,
    test_fastervlm,
    test_mustdrop,
    test_prumerge,
    test_tome,
    test_visionzip,
    test_vispruner,
)
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from thinsight import load_method, reduce, select_layer

POSITIONS = {"keep": "keep", "reset": "pack"}


@pytest.fixture(scope="module")
def official(golden):
    """Everything the file holds: tensors by name, and its metadata."""
    with safe_open(golden / "vtw.safetensors", "pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names} | {"metadata": file.metadata()}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, official, device):
    """A bare Llama of the sizes that the file's metadata and weights state."""
    meta = official["metadata"]
    weights = {name.removeprefix("weights."): t for name, t in official.items() if name.startswith("weights.")}
    vocabulary, width = weights["lm_head.weight"].shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=weights["model.layers.0.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=int(meta["num_hidden_layers"]),
        num_attention_heads=int(meta["heads"]),
        num_key_value_heads=int(meta["kv_heads"]),
        rms_norm_eps=float(meta["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": float(meta["rope_theta"])},
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation=request.param,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval().requires_grad_(False).to(device)


@pytest.fixture(scope="module")
def inputs(official, device):
    return official["inputs_embeds"].float().to(device)


@pytest.fixture(scope="module")
def visual(official, inputs):
    """The visual columns: ``image`` of them after ``system`` others."""
    start, count = int(official["metadata"]["system"]), int(official["metadata"]["image"])
    mask = torch.zeros(inputs.shape[:2], dtype=torch.bool)
    mask[:, start : start + count] = True
    return mask


def layers_of(official, case: str) -> list[int]:
    return sorted(int(name.split(".")[1][1:]) for name in official if name.startswith(f"{case}.k") and "logits" in name)


def test_plain_model(official, model, inputs):
    logits = model(inputs_embeds=inputs).logits[:, -1]
    assert_scores(logits.cpu(), official["base.logits_last"], 1e-5)


@pytest.mark.parametrize("case", POSITIONS)
def test_logits(official, model, inputs, visual, case):
    layers = layers_of(official, case)
    assert layers
    for layer in layers:
        with reduce(model, load_method("vtw", layer=layer, positions=POSITIONS[case]), visual=visual) as trace:
            logits = model(inputs_embeds=inputs, logits_to_keep=1).logits[:, -1]
        assert_scores(logits.cpu(), official[f"{case}.k{layer}.logits_last"], 1e-5)
        shown, depth = int(visual.sum()), model.config.num_hidden_layers
        assert trace.lengths == [[shown] * layer + [0] * (depth - layer)]


def test_greedy_tokens(official, model, inputs, visual):
    for layer in layers_of(official, "keep"):
        expected = official[f"keep.k{layer}.greedy"].tolist()
        with reduce(model, load_method("vtw", layer=layer), visual=visual):
            ids = model.generate(inputs_embeds=inputs, max_new_tokens=len(expected), do_sample=False)
        assert ids[0].tolist() == expected, f"layer {layer}"


def test_divergence(official, model, inputs, visual):
    (name,) = [name for name in official if name.startswith("kl.k")]
    first, expected = int(name.removeprefix("kl.k").split("_")[0]), official[name].tolist()
    candidates = range(first, first + len(expected))
    batches = [{"inputs_embeds": inputs, "visual": visual}]
    found = select_layer(model, batches, candidates=candidates, threshold=1.0).divergence
    assert list(found) == list(candidates)
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)
