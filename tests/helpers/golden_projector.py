"""DivPrune, CDPruner and TRIM against what their official implementations gave (tests/golden)."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import layer_norm, linear, normalize

from helpers.golden_tolerance import assert_scores
from thinsight import load_method
from thinsight.methods.cdpruner import greedy_map, scale_relevance
from thinsight.methods.divprune import dispersed
from thinsight.reduction.evidence import Evidence, Word
from thinsight.reduction.stages import count_outliers
from thinsight.reduction.tokens import Tokens

FEATURES = {"atol": 1e-4, "rtol": 0}


def cases(golden, name: str) -> list[SimpleNamespace]:
    """The cases of a file: its tensors by name, and the line of its metadata."""
    with safe_open(golden / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        lines = json.loads(file.metadata()["cases"])
    found = []
    for number, line in enumerate(lines):
        own = {key.removeprefix(f"{number}."): t for key, t in tensors.items() if key.startswith(f"{number}.")}
        found.append(SimpleNamespace(line=line, **own))
    assert found
    return found


class Tower:
    """A text tower that knows one text; ``patches`` is what a patch becomes in the shared space."""

    def __init__(self, chunks, patches):
        self.chunks, self.patches = chunks, patches

    def texts(self, texts, device):
        return [self.chunks for _ in texts]


def scene(states, tower=None, features=None) -> tuple[Tokens, Evidence]:
    """One image's tokens (N, width), nothing around them."""
    count = len(states)
    tokens = Tokens.fresh(torch.arange(count), torch.ones(count, dtype=torch.bool)).with_states(states)
    providers = {
        "words": lambda: [Word("question", torch.tensor([0]))],
        "features": lambda: features,
        "projector": lambda: lambda rows: rows,
    }
    reader = SimpleNamespace(clip=tower, text_sign=1)
    evidence = Evidence(
        0, 1, torch.zeros(count, dtype=torch.int64), lambda: b"", sequence=tokens, providers=providers, reader=reader
    )
    return tokens, evidence


def test_divprune(golden):
    for case in cases(golden, "divprune"):
        (reduction,) = load_method("divprune", keep=float(case.ratio)).reductions
        tokens, evidence = scene(case.features)
        assert torch.equal(reduction(tokens, evidence).index, case.kept)
        units = normalize(case.features, dim=-1)
        assert torch.equal(dispersed(1 - units @ units.T, len(case.order)), case.order)


def test_cdpruner(golden):
    for case in cases(golden, "cdpruner"):
        (reduction,) = load_method("cdpruner", fidelity="official", keep=int(case.k)).reductions
        tower = Tower(case.text_embeds, lambda features: features)
        scenes = [
            scene(*pair) for pair in zip(case.projected, [tower] * len(case.projected), case.image_embeds, strict=True)
        ]
        raw = torch.stack([reduction.filter.relevance(*one) for one in scenes])
        # the official minimum and maximum are the whole batch's
        bounds = (raw.amin(), raw.amax())
        relevance = scale_relevance(raw, bounds)
        assert_scores(relevance, case.relevance)
        coupled = replace(reduction, filter=replace(reduction.filter, bounds=bounds))
        for sample, (tokens, evidence) in enumerate(scenes):
            kept = coupled(tokens, evidence).index
            assert torch.equal(kept, case.kept[sample])
            assert torch.equal(torch.zeros(len(tokens), dtype=torch.bool).index_fill(0, kept, True), case.mask[sample])
            units, weight = normalize(case.projected[sample], dim=-1), relevance[sample]
            order = greedy_map(weight[:, None] * (units @ units.T) * weight, int(case.k))
            assert torch.equal(order, case.order[sample])
            if len(scenes) == 1:  # then the clean method, too, has the official minimum and maximum
                assert torch.equal(reduction(tokens, evidence).index, kept)


def test_trim(golden):
    for case in cases(golden, "trim"):
        adaptive, width = float(case.k_arg) == -1, case.features.shape[-1]

        def patches(features, case=case, width=width):
            return linear(layer_norm(features, (width,), case.ln_weight, case.ln_bias, 1e-5), case.proj_weight)

        scenes = [
            scene(one, Tower(text[None], patches), one)
            for one, text in zip(case.features, case.text_embeds, strict=True)
        ]
        keep = float(case.ratio)
        (reduction,) = load_method("trim", fidelity="official", keep=keep).reductions
        scores = torch.stack([reduction.filter.relevance(*one).softmax(0) for one in scenes])
        assert_scores(scores, case.scores)
        if adaptive:
            assert count_outliers(scores) / scores.numel() == pytest.approx(keep)  # officially over the flattened batch
        if adaptive and len(scenes) == 1:
            (reduction,) = load_method("trim", fidelity="official", keep=None).reductions
        for (tokens, evidence), kept, output in zip(scenes, case.kept, case.output, strict=True):
            after = reduction(tokens.with_sources(len(tokens)), evidence)
            assert torch.equal(after.origins[:-1], kept)
            torch.testing.assert_close(after.states, output, **FEATURES)
