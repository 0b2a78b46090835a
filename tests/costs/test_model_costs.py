"""Costs without weights: formulae against real tensors and torch's counter, settings against the papers' tables."""

import csv
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.prompts import BATCHES

from thinsight import load_method, reduce
from thinsight.analysis.clocks import timing_frame
from thinsight.config.catalogue import method_entries, method_entry
from thinsight.costs.budgets import simulate
from thinsight.costs.conventions import FASTV, PYRAMIDDROP
from thinsight.costs.flops import DecoderShape, flops, kv_bytes
from thinsight.costs.live_bytes import Alive
from thinsight.costs.memory import memory_traffic, peak_memory, tower_peak, weight_bytes
from thinsight.costs.model_costs import method_cost, method_costs, model_sizes
from thinsight.ledger.published import load_all
from thinsight.models.architecture import TowerSize
from thinsight.papers.efficiency.claims import (
    attention_bytes,
    attention_maps,
    baseline_conventions,
    printed_memory,
    published_budgets,
)
from thinsight.papers.efficiency.clock import Clock
from thinsight.papers.efficiency.page import Efficiency, about_efficiency, efficiency_finding
from thinsight.papers.efficiency.tables import costs_table
from thinsight.paths import ROOT
from thinsight.reduction.attention import LayerAttention

VICUNA_13B = DecoderShape(layers=40, width=5120, ffn=13824, matrices=3, queries=5120, keys=5120, vocabulary=32000)
SHARES = (1 / 3, 2 / 9, 1 / 9)


@pytest.fixture(scope="module")
def sizes():
    names = {"LLaVA-1.5-7B": "llava_1_5_7b", "LLaVA-NeXT-7B": "llava_next_vicuna_7b", "Qwen2.5-VL-7B": "qwen2_5_vl_7b"}
    return {title: model_sizes(name, 64) for title, name in names.items()}


@pytest.fixture(scope="module")
def costs(sizes):
    names = ("random", "fastv", "sparsevlm", "tome", "evit", "ficoco_v", "ficoco_vl", "cdpruner", "vtw", "mustdrop")
    return method_costs(list(sizes.values()), [method_entry(name) for name in names], SHARES)


def published(*columns: str) -> list[dict[str, str]]:
    """The lines of data/published with one of ``columns``, read by hand."""
    rows = []
    for path in sorted((ROOT / "data" / "published").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["column"] in columns]
    return rows


def llama(width: int = 64, ffn: int = 176, heads: int = 4, keys: int = 4, layers: int = 3, device: str = "cpu", **more):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=keys, vocab_size=50,
    )  # fmt: skip
    with torch.device(device):
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize(("dtype", "element"), [(torch.bfloat16, 2), (torch.float32, 4)])
@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (4, 2)])
@pytest.mark.parametrize(("tokens", "ffn"), [(16, 176), (96, 176), (96, 400)])
def test_the_peak_is_that_of_real_tensors(attention, dtype, element, heads, keys, tokens, ffn):
    """Every tensor that a real prefill makes, counted while it lives: the formula equals it to the byte."""
    model = llama(ffn=ffn, heads=heads, keys=keys).to(dtype)
    model.set_attn_implementation("sdpa" if attention == "fused" else "eager")
    embeds = torch.zeros(1, tokens, 64, dtype=dtype)
    with torch.no_grad(), Alive() as alive:
        cache = model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1).past_key_values
    shape, lengths = DecoderShape.of(model.model.layers), [tokens] * 3
    formula = peak_memory(shape, heads, lengths, attention, element)
    assert formula.at == alive.peak + embeds.numel() * element  # the prompt was there before
    real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert formula.cache == real == kv_bytes(shape, lengths, element_bytes=element)
    assert weight_bytes(model)["decoder"] + weight_bytes(model)["head"] == sum(
        p.numel() * element for p in model.parameters()
    )


def test_the_peak_of_a_true_shape_on_the_meta_device():
    """Four layers of Vicuna-7B's width on eager attention, at the prompt of LLaVA-1.5."""
    model = llama(4096, 11008, 32, 32, layers=4, device="meta").half()
    model.set_attn_implementation("eager")
    with torch.no_grad(), Alive() as alive:
        model(
            inputs_embeds=torch.empty(1, 640, 4096, dtype=torch.half, device="meta"), use_cache=True, logits_to_keep=1
        )
    formula = peak_memory(DecoderShape.of(model.model.layers), 32, [640] * 4, "eager")
    assert formula.at == alive.peak  # the prompt's embeddings are made inside here


def test_a_cut_prompt_peaks_early_and_fills_its_cache_late():
    shape = DecoderShape.of(llama().model.layers)
    whole, cut = peak_memory(shape, 4, [96] * 3), peak_memory(shape, 4, [96, 8, 8])
    assert (
        cut.activations == peak_memory(shape, 4, [96, 96, 96]).activations - 96 * 64 * 2
    )  # in layer 0 the input is the prompt
    assert cut.at < cut.activations + cut.cache < whole.at


@pytest.mark.parametrize("ffn", [256, 400])
def test_the_peak_of_a_tower(ffn):
    """As LLaVA runs it, which also holds the states that it reads."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=ffn, num_hidden_layers=3, num_attention_heads=4, image_size=112, patch_size=14
    )
    text = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=64)
    model = LlavaForConditionalGeneration(config).to(torch.bfloat16).eval()
    pixels = torch.zeros(1, 3, 112, 112, dtype=torch.bfloat16)
    with torch.no_grad(), Alive() as alive:
        model.get_image_features(pixel_values=pixels)
    assert tower_peak(TowerSize(65, 64, ffn)) == alive.peak


def test_the_peak_and_the_operations_of_qwens_tower():
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig as Config
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

    from thinsight.costs.meta_device import count_tower, tower_flops
    from thinsight.models.architecture import ImageTokens
    from thinsight.models.loading import meta_model

    config = Config(
        depth=3, hidden_size=128, intermediate_size=342, num_heads=4, out_hidden_size=96, fullatt_block_indexes=[1]
    )
    tower, grid = Tower(config).to(torch.bfloat16).eval(), torch.tensor([[1, 16, 16]])
    patches = torch.zeros(256, 3 * 2 * 14 * 14, dtype=torch.bfloat16)
    with torch.no_grad(), Alive() as alive:
        tower(patches, grid_thw=grid)
    assert tower_peak(TowerSize(256, 128, 342, rotated=True)) == pytest.approx(alive.peak, rel=0.01)
    model = meta_model("qwen2_5_vl_3b")
    for rows, columns in ((7, 10), (8, 8)):  # with windows that are cut, and without
        picture = ImageTokens((28 * rows, 28 * columns), 1, rows * columns)
        assert tower_flops(model, picture) == count_tower(model, picture)


LABELS = {  # layer mean, TFLOPs of visual tokens alone, with 95 others in each layer
    "FastV, K = 2, keeps 192": (216, 1.413, 2.042),
    "FastV, K = 2, keeps 128": (156, 1.020, 1.645),
    "FastV, K = 2, keeps 64": (96, 0.628, 1.251),
    "FastV, K = 3, keeps 64": (112, 0.734, 1.358),
    "FastV, K = 3, R = 50 %": (315, 2.068, 2.701),
    "PyramidDrop, as released": (270, 1.777, 2.408),
    "SparseVLM 192": (206.5, 1.353, 1.981),
    "SparseVLM 128": (145.4, 0.954, 1.579),
    "SparseVLM 64": (82.2, 0.541, 1.163),
    "DART 192": (219.8, 1.438, 2.067),
    "DART 64": (99.8, 0.653, 1.275),
}


def test_what_labels_mean(sizes):
    """The settings that papers argue about, to the last digit of an independent calculation of theirs."""
    table = published_budgets(sizes["LLaVA-1.5-7B"].prefill).set_index("setting")
    for setting, (mean, alone, every) in LABELS.items():
        line = table.loc[setting]
        assert line["layer_mean"] == pytest.approx(mean, abs=0.051)
        assert (line["alone"], line["every"]) == pytest.approx((alone, every), abs=0.0011)
    assert list(table.loc[[f"FastV, K = 2, keeps {b}" for b in (192, 128, 64)], "same"]) == [
        "keep=166",
        "keep=98",
        "keep=30",
    ]
    assert table.loc["FiCoCo-L, 14 a layer", "kept"] == 576 - 27 * 14


def test_costs_are_those_of_the_lengths(sizes, costs):
    one = sizes["LLaVA-1.5-7B"]
    line = costs.query("model == 'llava_1_5_7b' and method == 'fastv'").iloc[0]
    lengths = [640] * 2 + [256] * 30
    assert (line["kept"], line["layer_mean"]) == (192, 216)
    assert line["fastv"] == flops(one.prefill.shape, lengths, FASTV)
    assert line["cache"] == kv_bytes(one.prefill.shape, lengths)
    assert kv_bytes(one.prefill.shape, [636] * 32) / 1e6 == pytest.approx(333.4, abs=0.05)  # FiCoCo's 333 MB
    assert line["activations"] == method_cost(one, one.whole)["activations"]  # its first layers are whole
    vtw = costs.query("model == 'llava_1_5_7b' and method == 'vtw'")["fields"]
    assert list(vtw) == ["layer=11", "layer=7", "layer=4"]
    assert one.weights["decoder"] + one.weights["head"] == pytest.approx(2 * 6.74e9, rel=0.005)


def test_the_tower_saves_what_leaves_inside_it(sizes, costs):
    """ToMe at 192, 128 and 64: 0.183 T of the 23 blocks used, in multiply-adds, become 0.118, 0.107 and 0.097 T."""
    one = sizes["LLaVA-1.5-7B"]
    used = DecoderShape(**{**vars(one.tower), "layers": 23})
    assert flops(used, [577] * 23, FASTV) / 1e12 == pytest.approx(0.183, abs=5e-4)
    for keep, expected in ((192, 0.118), (128, 0.107), (64, 0.097)):
        rows = [
            n + 1 for n in simulate(load_method("tome", keep=keep), one.prefill).tower
        ]  # merged between the two halves
        halves = sum(4 * n * 1024**2 + 2 * n**2 * 1024 + 2 * m * 1024 * 4096 for n, m in pairwise(rows))
        assert halves / 1e12 == pytest.approx(expected, abs=6e-4)
        assert halves < flops(used, rows[:23], FASTV) < 1.05 * halves  # which charges both with what enters
    vision = costs.query("model == 'llava_1_5_7b'").groupby("method")["vision"].max()
    assert vision["random"] == vision["fastv"] == one.vision > vision["ficoco_vl"] > vision["ficoco_v"] > vision["tome"]


def test_tiles_are_reduced_one_by_one(sizes, costs):
    """What five tiles keep each is what the decoder is given, so the tower's lengths fit the decoder's."""
    one = sizes["LLaVA-NeXT-7B"]
    tile = type(one.prefill)(**{**vars(one.prefill), "total": one.prefill.total // one.tiles})
    for name in ("tome", "evit", "ficoco_v", "ficoco_vl"):
        for share in SHARES:
            method = load_method(name, keep=share)
            front = type(method)(name, method.before_projector)
            assert one.tiles * simulate(front, tile).kept == simulate(method, one.prefill).visual[0]
    assert (one.tiles, one.prefill.total) == (5, 2880)


def test_what_is_refused_says_why(costs):
    why = costs[costs["model"] == "qwen2_5_vl_7b"].drop_duplicates("method").set_index("method")["why"]
    assert all(
        "does not read one row for each patch" in why[name] for name in ("tome", "evit", "ficoco_vl", "mustdrop")
    )
    assert not any(why[name] for name in ("random", "fastv", "cdpruner", "vtw"))
    own = costs[(costs["model"] == "llava_1_5_7b") & (costs["method"] == "mustdrop")]["why"]
    assert own.str.contains("decides by the picture").all()


def test_the_board_shows_every_method_once_a_budget(sizes, costs):
    page = Efficiency(sizes, None, costs, None, None, None, None, None)
    html = costs_table(page)
    assert html.count("<table") == len(sizes)
    assert html.count("FastV") == len(sizes) * len(SHARES)
    assert html.count("Not counted") == 3  # MustDrop twice by the picture, and all that Qwen's tower refuses


def test_the_rows_that_are_asked_for(llava, monkeypatch, sizes):
    """Attention is read with as many rows as the table says, and never a whole map; other methods read none."""
    asked = []

    def spied(real):
        def spy(self, rows, columns):
            asked.append(("decoder" if self.causal else "tower", rows.shape[-1]))
            return real(self, rows, columns)

        return spy

    for name in ("attention", "mean_attention"):
        monkeypatch.setattr(LayerAttention, name, spied(getattr(LayerAttention, name)))
    inputs = BATCHES["one"]
    text = inputs["input_ids"].shape[1] - 16
    table = attention_bytes(sizes["LLaVA-1.5-7B"], method_entries()).set_index("method")
    for entry in (entry for entry in method_entries() if "keep" in entry.knobs):
        if {"space", "rewriting"} & set(entry.knobs):
            continue  # it reads the question, and this model has no tokenizer
        for _ in range(2):  # the first time layers are checked to attend as Llama's
            asked.clear()
            with torch.no_grad(), reduce(llava, load_method(entry.name, keep=0.5)) as trace:
                llava(**inputs)
        assert bool(asked) == (entry.name in table.index), entry.name
        if asked:
            where = table.loc[entry.name, "where"]
            most = max(rows for place, rows in asked if place == where)
            visual = trace.lengths[0][0] if where == "decoder" else 16
            bounds = {"one row": (1, 1), "the question's rows": (1, text), "all visual rows": (visual, visual)}
            least, greatest = bounds[table.loc[entry.name, "rows"]]
            assert least <= most <= greatest, entry.name


def test_rows_are_small_beside_maps(sizes):
    one = sizes["LLaVA-NeXT-7B"]
    maps = attention_maps(one)
    assert maps["one row"] == 4 * 32 * 2944
    assert maps["map of one layer"] == 2 * 32 * 2944**2
    assert maps["maps of all layers, kept"] == 32 * maps["map of one layer"] > sum(one.weights.values())
    table = attention_bytes(
        sizes["LLaVA-1.5-7B"], [method_entry("fastv"), method_entry("random"), method_entry("visionzip")]
    ).set_index("method")
    assert table.loc["fastv", "bytes"] == 4 * 32 * 640
    assert table.loc["visionzip", "bytes"] == 4 * 16 * 577


def test_printed_totals_of_the_whole_model(sizes):
    one = sizes["LLaVA-1.5-7B"]
    table = baseline_conventions(load_all(), "LLaVA-1.5-7B", one.prefill.shape, 576)
    rows = [r for r in published("TFLOPs", "GFLOPs") if r["model"] == "LLaVA-1.5-7B" and r["method"] == "vanilla"]
    assert set(table["value"]) == {row["value"] for row in rows if "INT" not in row["row"]}
    texts_of = {
        (value, name): texts for value, name, *texts in table[["value", "convention", "least", "greatest"]].values
    }
    assert texts_of["99.3", "fastv"] == [36, 36]  # one layer, 612 tokens
    assert texts_of["3.23", "fastv"][1] == 46  # 36 + 576 + 10 tokens in VTW's issue 7
    assert ("3.82", "pyramiddrop_visual") in texts_of
    assert texts_of["8.48", "profiler"] == [62, 62]
    assert flops(one.prefill.shape, [576 + 118] * 32, PYRAMIDDROP) / 1e12 == pytest.approx(4.62, abs=5e-3)
    assert table["off"].abs().max() < 0.001


def test_printed_gigabytes_are_bytes_read_and_written():
    """FiCoCo's 13B lines: 576, 84 and fewer visual tokens with 512 of text, at 2 bytes and at half a byte."""
    assert memory_traffic(VICUNA_13B, 40, 1088) / 1e9 == pytest.approx(56.1, abs=0.06)
    assert memory_traffic(VICUNA_13B, 40, 596) / 1e9 == pytest.approx(38.6, abs=0.06)
    assert memory_traffic(VICUNA_13B, 40, 1088, 0.5) / 1e9 == pytest.approx(14.0, abs=0.06)


def test_the_memory_table_holds_what_is_printed(sizes):
    one = {"LLaVA-1.5-7B": sizes["LLaVA-1.5-7B"]}
    table = printed_memory(
        load_all(), one, [method_entry("fastv"), method_entry("fastervlm"), method_entry("sparsevlm")]
    )
    rows = [row for row in published("memory GB") if row["model"] == "LLaVA-1.5-7B"]
    assert Counter(table["printed"]) == Counter(row["value"] for row in rows)
    calculated = table[table["cache"] != ""]
    assert set(calculated["by"]) == {"FiCoCo"}
    assert 0 < calculated["meets"].sum() < len(calculated)
    assert not table[table["cache"] == ""]["meets"].any()


def test_the_finding_is_made_of_the_tables(sizes, costs):
    whole = baseline_conventions(load_all(), "LLaVA-1.5-7B", sizes["LLaVA-1.5-7B"].prefill.shape, 576)
    printed = printed_memory(load_all(), sizes, [method_entry("fastv")])
    clock = Clock([], timing_frame([]), [method_entry("fastv")], load_all())
    facts = Efficiency(sizes, whole, costs, None, None, printed, None, clock).facts
    text = efficiency_finding(json.loads(json.dumps(facts)))
    assert facts["lowest"] == "3.228"
    assert facts["highest"] == "8.54"
    assert facts["label"] == 64
    assert all(words in text for words in ("A label of 64 tokens", "Qwen2.5-VL-7B", "not run"))


def test_every_printed_number_on_efficiency_is_in_the_ledger():
    chosen = about_efficiency(load_all())
    kinds = ("TFLOPs", "GFLOPs", "KV MB", "memory GB", "images/s", "latency", "end-to-end time", "FLOPs saving")
    rows = published(*kinds)
    assert Counter(chosen[chosen["column"].isin(kinds)]["value"]) == Counter(row["value"] for row in rows)
    assert not chosen["column"].isin(("POPE", "GQA", "average", "relative average", "MMBench")).any()


PAGE = ROOT / "data" / "pages" / "efficiency"


@pytest.mark.skipif(not (PAGE / "ledger.csv").exists(), reason="the page has not been made")
def test_the_page_shows_the_printed_numbers():
    with Path(PAGE / "ledger.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = {(r["paper"], r["version"], r["table"], r["model"], r["row"], r["column"]): r["value"]
            for r in published(*{line["column"] for line in lines})}  # fmt: skip
    shown = {(r["paper"], r["version"], r["table"], r["model"], r["row"], r["column"]): r["printed"] for r in lines}
    assert shown
    assert shown.items() <= rows.items()
