"""FastV, PyramidDrop, SparseVLM and DART against numbers made with their released codes (tests/golden)."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.golden_tolerance import assert_scores
from helpers.official_files import Spy, build, read, stages, visual
from thinsight import load_method, reduce
from thinsight.methods.sparsevlm import rater_relevance, raters
from thinsight.reduction.attention import LayerAttention
from thinsight.reduction.evidence import Evidence
from thinsight.reduction.stages import WeightedMerge
from thinsight.reduction.tokens import Tokens

NAMES = ("fastv", "pyramiddrop", "sparsevlm", "sparsevlm_v2", "dart")
ATTENTION = ("sdpa", "eager")


def fields(name: str, case: dict) -> dict:
    """A case's hyper-parameters as the method's own knobs."""
    if name == "fastv":
        return {"layer": int(case["K"]), "keep": int(case["keep"])}
    if name == "pyramiddrop":
        return {"layers": case["layer_list"].tolist(), "ratios": case["ratios"].tolist()}
    if name == "dart":
        keep = math.floor(int(case["num_image_tokens"]) * (1 - float(case["reduction_ratio"])))
        pivots = {f"{kind}_pivots": len(case[f"{kind}_pivots"]) for kind in ("image", "text")}
        return {"keep": keep, **pivots} | ({"layer": int(case["K"])} if "K" in case else {})
    layers = [int(case[f"stage{s}.layer"]) + 1 for s in stages(case)]  # on the output of a layer: before the next
    return {"layers": layers, "counts": case["keep_table"][: len(layers)].tolist()}


def official(name: str, case: dict):
    return load_method(name, fidelity="official", **fields(name, case))


def run(golden: Path, name: str, attention: str, case: dict, device: str):
    """A case's prompt, and one token after it if the file has one, under the official method and a spy's eyes."""
    model, method = build(golden / f"{name}.safetensors", attention).to(device), official(name, case)
    spy = Spy(method.reductions[0].filter)
    method = replace(method, reductions=(replace(method.reductions[0], filter=spy),))
    with reduce(model, method, visual=visual(case)) as trace:
        out = model(inputs_embeds=case["inputs_embeds"].to(device), use_cache=True)
        found = {"logits_last": out.logits[:, -1].cpu()}
        lengths = [out.past_key_values.get_seq_length(n) for n in range(model.config.num_hidden_layers)]
        if "decode_embed" in case:
            after = model(inputs_embeds=case["decode_embed"].to(device), past_key_values=out.past_key_values)
            found["decode_logits"] = after.logits[:, -1].cpu()
    return found | {"cache_lengths": torch.tensor(lengths), "kept_sequence": torch.tensor(trace.columns[0])}, spy


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", NAMES)
def test_end_to_end(golden, name, attention, device):
    """Logits of prompt and first generated token, lengths of every layer's cache, columns left."""
    cases = [case for case in read(golden / f"{name}.safetensors")[0] if "inputs_embeds" in case]
    assert cases
    for case in cases:
        found, spy = run(golden, name, attention, case, device)
        for what in found.keys() & case.keys():
            exact = case[what].dtype == torch.int64
            same = found[what][: len(case[what])] if what == "cache_lengths" else found[what]
            torch.testing.assert_close(same, case[what], atol=0 if exact else 1e-3, rtol=0)
        if "logits_last_masked" in case:
            torch.testing.assert_close(found["logits_last"], case["logits_last_masked"], atol=1e-3, rtol=0)
        batch = len(case["inputs_embeds"])
        for stage in stages(case):
            seen = slice(stage * batch, (stage + 1) * batch)
            kept = torch.stack((spy.columns if name == "pyramiddrop" else spy.rows)[seen])
            assert torch.equal(kept, case[f"stage{stage}.kept"].reshape(batch, -1))
            scores = torch.stack(spy.scores[seen])
            assert_scores(scores, case[f"stage{stage}.scores"])
            if f"stage{stage}.heads" in case:
                assert torch.equal(spy.heads[stage], case[f"stage{stage}.heads"])
        if name == "fastv":
            assert torch.equal(spy.rows[0], case["kept_image"])
            assert_scores(spy.scores[0], case["scores"])
        if name == "dart":
            assert torch.equal(spy.columns[0], case["kept"])


@pytest.mark.parametrize("name", ["sparsevlm", "sparsevlm_v2"])
def test_raters(golden, name):
    for case in read(golden / f"{name}.safetensors")[0]:
        embeds, image = case["inputs_embeds"][0], torch.where(visual(case)[0], 0, -1)
        start, count = int(case["image_start"]), int(case["num_image_tokens"])
        columns = torch.arange(start, start + count)
        text = torch.arange(start + count, len(embeds))
        scores = rater_relevance(embeds, columns, text)
        assert_scores(scores[None], case["rater_scores"])
        every = Tokens.fresh(torch.arange(len(embeds)), image >= 0)
        evidence = Evidence(3, 8, image, bytes, sequence=every, providers={"embeddings": lambda e=embeds: e})
        shown, votes = raters(columns, evidence)
        assert torch.equal(shown, text)
        assert torch.equal(votes.nonzero().squeeze(1), case["raters"])


def test_recycling(golden):
    """Clusters of the recycled tokens, and the new tokens that they make, with nothing but those leaving."""
    cases = read(golden / "sparsevlm.safetensors")[0]
    for case in cases:
        recycle = official("sparsevlm", case).reductions[0].correlate
        for stage in stages(case):
            part = {n.split(".")[1]: t for n, t in case.items() if n.startswith(f"stage{stage}.")}
            removed = part["scores"].shape[1] - len(part["kept"])
            pooled, width = part["recycle_in"].shape[1:]
            assert recycle.pool(removed) == pooled
            assert recycle.adds(removed, 1) == int(part["cluster_num"])
            states = torch.zeros(removed + 1, width)  # one stays
            states[:pooled] = part["recycle_in"][0]
            tokens = Tokens.fresh(torch.arange(removed + 1), torch.ones(removed + 1, dtype=torch.bool))
            tokens = tokens.with_states(states).with_sources(removed + 1)
            routes = recycle(tokens, torch.arange(removed), None)
            assert torch.equal(routes.new[:pooled].argmax(1)[None], part["cluster_assign"])
            assert not routes.new[pooled:].any()
            if "cluster_centres" in part:
                assert torch.equal(routes.anchor[None], part["cluster_centres"])
            merged = WeightedMerge(sized=False)(tokens, torch.arange(removed), routes)
            torch.testing.assert_close(merged.states[None, 1:], part["recycled"], atol=1e-4, rtol=0)


def test_pivots(golden):
    """DART's choice from given keys and states."""
    cases = [case for case in read(golden / "dart.safetensors")[0] if "states" in case]
    for case in cases:
        start, total, columns = int(case["image_start"]), int(case["num_image_tokens"]), case["states"].shape[1]
        index = torch.arange(columns)
        image = torch.where((index >= start) & (index < start + total), 0, -1)
        every = Tokens.fresh(index, image >= 0).with_states(case["states"][0])
        look = LayerAttention(index, lambda at: None, case["keys"][0], 1.0, causal=True)
        attention_at, providers = {"attention": lambda look=look: look}, {"norm": lambda: lambda states: states}
        evidence = Evidence(2, 32, image, bytes, sequence=every, attention_at=attention_at, providers=providers)
        reduction = official("dart", case).reductions[0]
        tokens = every.take(every.visual)
        first, then = reduction.filter.pivots(tokens.index, evidence)
        assert torch.equal(first, case["image_pivots"])
        assert torch.equal(then, case["text_pivots"])
        assert torch.equal(reduction.filter.visited(first, then, evidence), case["pivot_order"])
        assert reduction.tokens_left(total, 0, 1, total) == (len(case["kept"]), 0)
        assert torch.equal(reduction(tokens, evidence).index, case["kept"])


def test_plain_llama(golden):
    cases = read(golden / "fastv.safetensors")[0]
    for case in cases:
        logits = build(golden / "fastv.safetensors", "sdpa")(inputs_embeds=case["inputs_embeds"]).logits[:, -1]
        torch.testing.assert_close(logits, case["logits_last_dense"], atol=1e-3, rtol=0)
