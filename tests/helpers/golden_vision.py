"""The methods in front of the projector against numbers made with their released codes (tests/golden)."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import gelu, layer_norm, linear

from helpers.golden_tolerance import assert_scores
from helpers.tower_tokens import image_evidence, layer_attention, patches, run, sequence
from thinsight import load_method
from thinsight.methods.mustdrop import similar_windows, tiles
from thinsight.reduction.attention import split_heads
from thinsight.reduction.stages import count_outliers

FEATURES = {"atol": 1e-4, "rtol": 0}


@cache
def read(path: Path) -> list[dict]:
    """The cases of a file: tensors by name, and whatever its metadata says of each."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        records = json.loads(file.metadata()["cases"])
    found = [{"record": record} for record in records]
    for name, tensor in tensors.items():
        number, _, rest = name.partition(".")
        found[int(number)][rest] = tensor
    assert found
    return found


def samples(case: dict, name: str):
    """Number of each sample of a case."""
    return range(len(case[name]))


def blank_class(attention: torch.Tensor) -> torch.Tensor:
    """(heads, patches) with a column for the class token in front."""
    return torch.nn.functional.pad(attention, (1, 0))


def behind_class(features: torch.Tensor) -> torch.Tensor:
    """(patches, width) with a class token in front."""
    return torch.nn.functional.pad(features, (0, 0, 1, 0))


def test_fastervlm(golden):
    for case in read(golden / "fastervlm.safetensors"):
        (reduction,) = load_method("fastervlm", keep=int(case["k"])).reductions
        for b in samples(case, "cls_attention"):
            tokens = sequence(torch.zeros(case["cls_attention"].shape[-1] + 1, 1))
            evidence = image_evidence(tokens, row=blank_class(case["cls_attention"][b]))
            scores = reduction.filter.class_score(evidence, tokens.index[1:])
            assert_scores(scores, case["scores"][b])
            assert patches(run(reduction, tokens, evidence)) == case["kept"][b].tolist()


def test_vispruner(golden):
    for case in read(golden / "vispruner.safetensors"):
        keep = int(case["k"])
        fields = {"keep": keep, "important_ratio": float(case["important_ratio"])}
        (reduction,) = load_method("vispruner", **fields).reductions
        for b in samples(case, "features"):
            tokens = sequence(behind_class(case["features"][b]))
            evidence = image_evidence(tokens, row=blank_class(case["cls_attention"][b]))
            important, diverse = reduction.filter.parts(tokens.take(tokens.visual), evidence, keep)
            assert important.tolist() == case["important"][b].tolist()
            assert diverse.tolist() == case["diverse"][b].tolist()
            assert patches(run(reduction, tokens, evidence)) == case["kept"][b].tolist()


def test_visionzip(golden):
    for case in read(golden / "visionzip.safetensors"):
        fields = {name: int(case[name]) for name in ("dominant", "contextual")}
        (reduction,) = load_method("visionzip", fidelity="official", **fields).reductions
        for b in samples(case, "hidden"):
            tokens = sequence(case["hidden"][b])
            evidence = image_evidence(tokens, row=case["cls_attention"][b], metric=case["metric"][b][None])
            after = run(reduction, tokens, evidence)
            ranked = [0, *evidence.notes.ranked.tolist()]
            assert ranked == case["dominant_indices"][b].tolist()
            gone = torch.tensor([i for i in range(1, len(tokens)) if i not in ranked])
            targets = gone[case["target_indices"]]
            assert after.origins[after.visual].tolist() == [0, *sorted(ranked[1:]), *targets.tolist()]
            others = gone[~torch.isin(gone, targets)]
            contextual = after.sources[after.visual][-len(targets) :, others]
            assert torch.equal(contextual.argmax(0), case["assignment"][b])
            torch.testing.assert_close(after.states[after.visual], case["output"][b], **FEATURES)


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_prumerge(golden, name):
    for case in read(golden / f"{name}.safetensors"):
        ratio, batch = float(case["ratio"]), len(case["features"])
        fields = {} if batch == 1 else {"ratio": ratio}  # the released code takes it over the whole batch
        if not case["adaptive"]:
            fields = {"ratio": ratio, "sample": "training"}
        (reduction,) = load_method(name, fidelity="official", **fields).reductions
        if case["adaptive"]:
            scores = case["cls_attention"]
            assert count_outliers(scores, reduction.filter.fence) / scores.numel() == pytest.approx(ratio)
        for b in range(batch):
            features, keys = case["features"][b], case["k"][b]
            tokens = sequence(behind_class(features))
            width = keys.shape[-1] // (2 - keys.shape[-1] % 2)
            queries = torch.cat([case["q_cls"][b], torch.zeros_like(keys[1:])])
            evidence = image_evidence(tokens, attention_at=layer_attention(tokens.index, queries, keys, width))
            scores = reduction.filter.class_score(evidence, tokens.index[1:])
            assert_scores(scores, case["cls_attention"][b])
            after = run(reduction, tokens, evidence)
            assert patches(after)[:-1] == case["kept"][b].tolist()
            torch.testing.assert_close(after.states[1:], case["output"][b], **FEATURES)


def test_evit(golden):
    for case in read(golden / "evit.safetensors"):
        rate, fuse, count = float(case["keep_rate"]), bool(case["fuse"]), int(case["heads"])
        (reduction,) = load_method("evit", fidelity="official", keep_rate=rate, fuse=fuse).reductions
        blocks = sorted({int(n.removeprefix("block").split(".")[0]) for n in case if n.startswith("block")})
        for b in samples(case, "x"):
            tokens, columns = sequence(case["x"][b]), case["x"].shape[1]
            for s in blocks:
                weights = {n.split(".", 1)[1]: t.float() for n, t in case.items() if n.startswith(f"block{s}.")}
                states, queries, keys = attend(tokens.states, weights, count)
                width = states.shape[-1] // count
                evidence = image_evidence(
                    tokens, columns=columns, attention_at=layer_attention(tokens.index, queries, keys, width), stage=s
                )
                order = tokens.index[1:]
                scores = reduction.filter.class_score(evidence, order)
                assert_scores(scores, case[f"step{s}.cls_attention"][b])
                after = run(reduction, tokens.with_states(states), evidence)
                kept = case[f"step{s}.kept"][b]
                assert evidence.notes.ranked.tolist() == order[kept].tolist()
                if fuse:
                    torch.testing.assert_close(after.states[-1:], case[f"step{s}.fused"][b], **FEATURES)
                tokens = after.with_states(after.states + mlp(after.states, weights))
                torch.testing.assert_close(tokens.states, case[f"step{s}.out"][b], **FEATURES)


def attend(states: torch.Tensor, weights: dict, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first half of a block (norm, attention, residual), and its queries and keys (tokens, width)."""
    normed = layer_norm(states, states.shape[-1:], weights["norm1.weight"], weights["norm1.bias"], 1e-6)
    queries, keys, values = linear(normed, weights["attn.qkv.weight"], weights["attn.qkv.bias"]).chunk(3, -1)
    width = states.shape[-1] // count
    q, k, v = (split_heads(part, width) for part in (queries, keys, values))
    mixed = ((q @ k.transpose(1, 2)) * width**-0.5).softmax(-1) @ v
    return (
        states + linear(mixed.transpose(0, 1).flatten(1), weights["attn.proj.weight"], weights["attn.proj.bias"]),
        queries,
        keys,
    )


def mlp(states: torch.Tensor, weights: dict) -> torch.Tensor:
    """The second half of a block without its residual."""
    normed = layer_norm(states, states.shape[-1:], weights["norm2.weight"], weights["norm2.bias"], 1e-6)
    hidden = gelu(linear(normed, weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]))
    return linear(hidden, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


def test_tome(golden):
    for case in read(golden / "tome.safetensors"):
        schedule, removed = case["record"].get("schedule"), case["r"].tolist()
        (reduction,) = load_method("tome", fidelity="official", r=removed).reductions
        if schedule is not None and len(schedule) == 2 < len(removed):
            published = load_method("tome", r=schedule[0], inflection=float(schedule[1])).reductions[0].schedule
            assert published.removed(len(removed)) == removed
        classes, total = int(case["class_token"]) + int(case["distill_token"]), case["x"].shape[1]
        for b in samples(case, "x"):
            tokens = sequence(case["x"][b], classes).with_sources(total)
            for s in range(len(removed)):
                metric = torch.zeros(total, case[f"W{s}"].shape[1])
                metric[tokens.index] = tokens.states @ case[f"W{s}"]
                facts = {"stage": s, "stages": len(removed), "metric": metric[None]}
                tokens = run(reduction, tokens, image_evidence(tokens, classes, total, **facts))
                assert torch.equal(tokens.sources.argmax(0), case[f"step{s}.group"][b])
                torch.testing.assert_close(tokens.size[:, None], case[f"step{s}.size"][b])
                if f"step{s}.x" in case:
                    torch.testing.assert_close(tokens.states, case[f"step{s}.x"][b], **FEATURES)
            assert torch.equal(tokens.sources, case["source"][b].float())


def test_mustdrop(golden):
    for case in read(golden / "mustdrop_vision.safetensors"):
        fields = {"threshold": float(case["threshold"]), "window": int(case["window"]), "keep": None}
        batch, r = len(case["x"]), int(case["r"])
        found = []
        for b in range(batch):
            tokens = sequence(case["x"][b])
            evidence = image_evidence(tokens)
            members = tiles(evidence.cells(tokens.index[1:]), fields["window"])
            similarity = similar_windows(tokens.states[1:], members)
            assert_scores(similarity, case["similarity"][b])
            found.append(int((similarity >= fields["threshold"]).sum()))
            # the number of windows is the batch's minimum there: alone a picture has its own
            own = {} if found[-1] == r else {"windows": r}
            reduction = load_method("mustdrop", fidelity="official", **fields, **own).reductions[0]
            after = run(reduction, tokens, evidence)
            at = {int(m[len(m) // 2]) + 1: w for w, m in enumerate(members)}
            assert [at[i] for i in evidence.notes.ranked.tolist()] == case["windows"][b].tolist()
            torch.testing.assert_close(after.states, case["output"][b], **FEATURES)
            torch.testing.assert_close(after.size[:, None], case["size"][b])
            assert torch.equal(after.sources.argmax(0), case["group"][b])
        assert min(found) == r
