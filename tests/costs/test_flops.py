"""FLOPs and cache bytes: the figures that papers print, and agreement with torch's counter on the real model."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from thinsight.config.compose import load_config
from thinsight.costs.conventions import CONVENTIONS, FASTV, FASTV_VISUAL, PROFILER, PROFILER_LAST, PYRAMIDDROP_VISUAL
from thinsight.costs.flops import DecoderShape, decode_steps, flops, flops_by_convention, kv_bytes
from thinsight.costs.meta_device import cost_report
from thinsight.errors import UserError

VICUNA_7B = DecoderShape(layers=32, width=4096, ffn=11008, matrices=3, queries=4096, keys=4096, vocabulary=32000)
VICUNA_13B = DecoderShape(layers=40, width=5120, ffn=13824, matrices=3, queries=5120, keys=5120, vocabulary=32000)


def withdrawn(shape: DecoderShape, tokens: int, layer: int, visual: int = 576) -> list[int]:
    """Lengths of VTW: everything up to ``layer``, text only from there."""
    return [tokens] * layer + [tokens - visual] * (shape.layers - layer)


@pytest.mark.parametrize(
    ("shape", "tokens", "layer", "full", "reduced"),
    [
        (VICUNA_7B, 638, 16, 8.477, 4.641),
        (VICUNA_7B, 640, 16, 8.504, 4.668),
        (VICUNA_7B, 640, 15, 8.504, 4.428),
        (VICUNA_13B, 640, 20, 16.576, 9.102),
    ],
)
def test_the_profiler_figures_of_vtw(shape, tokens, layer, full, reduced):
    assert flops(shape, [tokens] * shape.layers, PROFILER) / 1e12 == pytest.approx(full, abs=5e-4)
    assert flops(shape, withdrawn(shape, tokens, layer), PROFILER) / 1e12 == pytest.approx(reduced, abs=5e-4)


def test_the_formula_of_fastv_as_vtw_issue_7_applies_it():
    assert round(flops(VICUNA_7B, [622] * 32, FASTV) / 1e12, 2) == 3.23
    assert round(flops(VICUNA_7B, withdrawn(VICUNA_7B, 622, 16), FASTV) / 1e12, 2) == 1.73
    one = flops(VICUNA_7B, [612] + [0] * 31, FASTV)
    assert round(one / 1e9, 1) == 99.3  # FastV's own per-layer figure


def test_counts_of_visual_tokens_only_and_with_one_row_of_the_head():
    full, visual = [636] * 32, [576] * 32
    assert flops(VICUNA_7B, full, FASTV_VISUAL, visual=visual) / 1e12 == pytest.approx(2.986, abs=5e-4)
    assert flops(VICUNA_7B, full, PYRAMIDDROP_VISUAL, visual=visual) / 1e12 == pytest.approx(3.817, abs=5e-4)
    assert flops(VICUNA_7B, full, PROFILER_LAST) / 1e12 == pytest.approx(8.450, abs=5e-4)  # FiCoCo's baseline
    assert flops(VICUNA_7B, [124] * 32, PROFILER_LAST) / 1e12 == pytest.approx(1.614, abs=5e-4)


def test_bytes_of_the_cache():
    assert kv_bytes(VICUNA_7B, [640] * 32) / 1e6 == pytest.approx(335.5, abs=0.05)
    assert kv_bytes(VICUNA_7B, withdrawn(VICUNA_7B, 640, 16)) / 1e6 == pytest.approx(184.5, abs=0.05)
    assert kv_bytes(VICUNA_7B, withdrawn(VICUNA_7B, 640, 15)) / 1e6 == pytest.approx(175.1, abs=0.05)
    assert kv_bytes(VICUNA_7B, [10] * 32, generated=3) == kv_bytes(VICUNA_7B, [13] * 32)


def test_decoding_step_by_step_costs_what_torch_counts(llama):
    """A prefill and three steps with grouped keys: the formula equals the counter over the real model, to the unit."""
    shape = DecoderShape.of(llama.model.layers, vocabulary=llama.lm_head.out_features)
    assert (shape.queries, shape.keys, shape.matrices) == (32, 16, 3)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ids = torch.ones(1, 9, dtype=torch.long, device="meta")
        cache = llama(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(3):
            llama(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    lengths = [9] * shape.layers
    assert flops(shape, lengths, PROFILER_LAST, steps=decode_steps(lengths, 4)) == counter.get_total_flops()


def test_biases_are_one_operation_per_output(llama):
    plain = DecoderShape.of(llama.model.layers)
    biased = DecoderShape(**{**vars(plain), "biases": 7})
    lengths = [5] * plain.layers
    assert flops(biased, lengths, PROFILER) - flops(plain, lengths, PROFILER) == 7 * 5 * plain.layers
    assert flops(biased, lengths, FASTV) == flops(plain, lengths, FASTV)  # its formula knows no biases


def test_grouped_keys_change_the_exact_counts_and_not_the_printed_formula():
    grouped = DecoderShape(**{**vars(VICUNA_7B), "keys": 1024})
    lengths = [640] * 32
    saved = 32 * 640 * 2 * 4096 * (4096 - 1024)  # two smaller matrices, in multiply-adds
    assert flops(VICUNA_7B, lengths, PROFILER) - flops(grouped, lengths, PROFILER) == 2 * saved
    assert flops(VICUNA_7B, lengths, FASTV) == flops(grouped, lengths, FASTV)
    assert kv_bytes(grouped, lengths) * 4 == kv_bytes(VICUNA_7B, lengths)


def test_a_ledger_names_every_convention_and_refuses_what_it_cannot_count():
    assert list(flops_by_convention(VICUNA_7B, [640] * 32, visual=[576] * 32)) == [c.name for c in CONVENTIONS]
    assert "fastv_visual" not in flops_by_convention(VICUNA_7B, [640] * 32)
    assert all(c.sentence and c.source for c in CONVENTIONS)
    with pytest.raises(UserError, match="31 lengths"):
        flops(VICUNA_7B, [640] * 31, FASTV)
    with pytest.raises(UserError, match="visual tokens only"):
        flops(VICUNA_7B, [640] * 32, FASTV_VISUAL)


@pytest.mark.parametrize(
    ("model", "layer", "full", "reduced", "cache"),
    [
        ("llava_1_5_7b", 16, 8.504, 4.668, (335.5, 184.5)),
        ("llava_1_5_7b", 15, 8.504, 4.428, (335.5, 175.1)),
        ("llava_1_5_13b", 20, 16.576, 9.102, None),
    ],
)
def test_the_reduced_model_on_the_meta_device(model, layer, full, reduced, cache):
    """Torch's counter over the real model with its hooks, and the formula from the lengths of that same run."""
    found = cost_report(load_config([f"model={model}", "method=vtw", f"method.layer={layer}", "text_tokens=64"]))
    counted, formula = found["counted"]["decoder"], found["conventions"]["profiler"]
    assert (counted["full"], counted["reduced"]) == (formula["full"], formula["reduced"])
    assert counted["full"] / 1e12 == pytest.approx(full, abs=5e-4)
    assert counted["reduced"] / 1e12 == pytest.approx(reduced, abs=5e-4)
    assert found["lengths"]["visual"] == [576] * layer + [0] * (len(found["lengths"]["visual"]) - layer)
    if cache:
        assert (found["kv_bytes"]["full"] / 1e6, found["kv_bytes"]["reduced"] / 1e6) == pytest.approx(cache, abs=0.05)
    assert (found["vision"]["vision_tower"] + found["vision"]["projector"]) / 1e12 == pytest.approx(0.41, abs=0.02)


def test_the_command_prints_one_json_object(capsys):
    from thinsight.cost import main

    main(["model=llava_next_vicuna_7b", "method=vtw", "method.layer=16", "text_tokens=64"])
    found = json.loads(capsys.readouterr().out)
    assert (found["visual_tokens"], found["vision"]["tiles"]) == (2880, 5)
    # ShortV's figures for LLaVA-NeXT-7B: 42.7 T, and 21.8 T with VTW at layer 16
    assert round(found["conventions"]["profiler"]["full"] / 1e12, 1) == 42.7
    assert round(found["conventions"]["profiler"]["reduced"] / 1e12, 1) == 21.8


@pytest.fixture(scope="module")
def llama():
    """A tiny Llama with grouped-query attention, on the meta device (torch's counter is blind to CPU attention)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(("method", "visual"), [("fastv", [576] * 2 + [288] * 30), ("fastervlm", [192] * 32)])
def test_the_cost_of_a_method_that_looks(method, visual):
    """On the meta device there is nothing to look at: the lengths are those of the schedule, the operations real."""
    keep = "0.5" if method == "fastv" else "0.3333"
    config = load_config(["model=llava_1_5_7b", f"method={method}", f"method.keep={keep}", "text_tokens=64"])
    found = cost_report(config)
    assert found["lengths"]["visual"] == visual
    assert found["counted"]["decoder"]["ratio"] == pytest.approx(found["conventions"]["profiler"]["ratio"], abs=1e-3)
    with pytest.raises(UserError, match="decides by the picture"):
        cost_report(load_config(["model=llava_1_5_7b", "method=prumerge"]))
