"""Counting on the meta device runs one of many alike layers; the count is that of all."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import thinsight
from thinsight.costs.meta_device import count_prefill
from thinsight.models.families import find_parts
from thinsight.models.loading import meta_model


@pytest.mark.parametrize(
    ("name", "fields"),
    [("identity", {}), ("vtw", {"layer": 5}), ("grid", {"keep": 0.25}), ("pool", {"keep": 0.25})],
)
def test_alike_layers_count_as_if_each_had_run(name, fields):
    model, text, visual = meta_model("pocket"), 20, 144
    method = thinsight.load_method(name, **fields)
    mask = torch.zeros(1, text + visual, dtype=torch.bool)
    mask[:, text // 2 : text // 2 + visual] = True
    embeds = torch.empty(1, text + visual, model.get_input_embeddings().embedding_dim, device="meta")
    with (
        torch.no_grad(),
        thinsight.reduce(model, method, visual=mask) as trace,
        FlopCounterMode(display=False) as every,
    ):
        model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
    counted = count_prefill(model, method, text, visual)
    assert counted.decoder + counted.head == every.get_total_flops()
    assert counted.lengths == list(trace.sequence_lengths[0])
    assert counted.visual == list(trace.lengths[0])


def test_only_one_layer_of_each_length_runs():
    model, ran = meta_model("pocket"), []
    for layer in find_parts(model).layers:
        layer.mlp.register_forward_hook(lambda *_: ran.append(1))
    count_prefill(model, thinsight.load_method("vtw", layer=5), 20, 144)
    assert len(ran) == 2  # whole, and without the picture
