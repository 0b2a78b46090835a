"""The methods in front of the projector, and pooling: by hand, and inside a model."""

import math

import pytest
import torch
from helpers.prompts import BATCHES
from helpers.tower_tokens import image_evidence, layer_attention, patches, run, sequence

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.class_attention import ClassScore
from thinsight.methods.mustdrop import TextReceived
from thinsight.methods.prumerge import AttentionOutliers
from thinsight.reduction.evidence import Evidence, StageNotes
from thinsight.reduction.tokens import Tokens

COSINES = torch.eye(3)  # three directions, for keys and states that are alike or not at all


def one(name: str, number: int = 0, **fields):
    """A reduction of a method."""
    return load_method(name, **fields).reductions[number]


def attended(*scores: float) -> torch.Tensor:
    """(1, columns): a class token's attention to itself (none) and to patches."""
    return torch.tensor([[0.0, *scores]])


def test_fastervlm_by_hand():
    tokens = sequence(torch.arange(7.0)[:, None])
    evidence = image_evidence(tokens, row=attended(0.1, 0.3, 0.05, 0.3, 0.2, 0.05))
    after = run(one("fastervlm", keep=3), tokens, evidence)
    assert patches(after) == [1, 3, 4]
    assert after.states[:, 0].tolist() == [0, 2, 4, 5]
    assert patches(run(one("fastervlm", keep=1), tokens, evidence)) == [1]  # the first of equals


def test_substitutes_for_a_class_token():
    """Two heads, one query in each direction; the second patch's key is the odd one out."""
    keys = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, 2.0], [1.0, 1.0]])
    queries = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    tokens = sequence(torch.zeros(4, 1))
    evidence = image_evidence(tokens, attention_at=layer_attention(tokens.index, queries, keys, 1))
    maps = torch.stack([(queries[:, h, None] * keys[None, :, h]).softmax(1) for h in (0, 1)]).mean(0)
    index = tokens.index[1:]
    torch.testing.assert_close(ClassScore("token")(evidence, index), maps[0, 1:])
    torch.testing.assert_close(ClassScore("received")(evidence, index), maps[1:, 1:].mean(0))
    mean = keys[1:].mean(1)
    torch.testing.assert_close(ClassScore("key_mean")(evidence, index), -mean.sign() * mean.mean().sign())
    whole = (queries @ keys.T / math.sqrt(2)).softmax(1)
    torch.testing.assert_close(ClassScore("token", "next", single=True)(evidence, index), whole[0, 1:])
    with pytest.raises(UserError, match="cls=received"):
        ClassScore("key_mean").weights(evidence, index)
    with pytest.raises(UserError, match="substitute"):
        ClassScore("mean")


@pytest.mark.parametrize("fidelity", ["clean", "official"])
def test_visionzip_by_hand(fidelity):
    """Patch 2 is dominant. Of 0, 1, 3, 4, 5, 6 every third is a target: 0 takes 1 and 5, nothing is like 4."""
    states = torch.tensor([9.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])[:, None]
    metric = COSINES[torch.tensor([2, 0, 0, 2, 0, 1, 0, 0])][None]
    tokens = sequence(states)
    evidence = image_evidence(tokens, row=attended(0.1, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1), metric=metric)
    official = fidelity == "official"
    after = run(one("visionzip", dominant=1 + official, contextual=2, fidelity=fidelity), tokens, evidence)
    summed = 1.0 + (2 + 8 + 32 + 64) / 4
    assert after.states[1:, 0].tolist() == ([9, 4, summed, 16] if official else [summed, 4, 16])
    assert patches(after) == ([-1, 2, 0, 4] if official else [0, 2, 4])
    assert after.sources[after.visual, 1:].sum(0).tolist() == [1] * 7
    assert after.states[0, 0] == 9
    with pytest.raises(UserError, match="go together"):
        one("visionzip", dominant=3)


def test_vispruner_by_hand():
    """Patch 3 is important; of 0, 1, 2, 4, 5 by interest, those in even places are 0, 2, 5, and 2 resembles 4 most."""
    states = torch.tensor([[0, 0], [1, 0], [0, 1], [3, 3], [5, 5], [2, 2.1], [-1, 0]])
    tokens = sequence(states)
    evidence = image_evidence(tokens, row=attended(0.3, 0.25, 0.2, 0.5, 0.15, 0.1))
    assert patches(run(one("vispruner", keep=5, important_ratio=0.2), tokens, evidence)) == [0, 1, 3, 4, 5]
    assert patches(run(one("vispruner", keep=2, important_ratio=1.0), tokens, evidence)) == [0, 3]


def test_outliers_by_quartiles():
    """Of a flat picture one patch stays, although none is an outlier."""
    assert AttentionOutliers().picked(torch.ones(9)).tolist() == [0]
    thirds = AttentionOutliers("thirds", ratio=0.1).picked(torch.arange(20.0))  # two, and every third: floor(10 / 3)
    assert thirds.tolist() == [19, 18, 0, 3, 6, 9, 12, 15]
    training = AttentionOutliers("training", ratio=0.2).picked(
        torch.arange(20.0)
    )  # four, and every fifth from the second on
    assert training.tolist() == [19, 18, 17, 16, 2, 7, 12, 17]


def test_a_fixed_prumerge_plus_is_a_quarter_outliers():
    picked = AttentionOutliers("thirds").fixed(torch.arange(32.0), 15)
    assert picked[:4].tolist() == [31, 30, 29, 28]
    assert picked[4:].tolist() == sorted(set(picked[4:].tolist()))
    assert len(set(picked.tolist())) == 15


def test_evit_by_hand():
    """Two of five stay, and the rest is summed with its attention; it stands where patch 4 stood, the best of it."""
    tokens = sequence(torch.tensor([7.0, 1, 10, 100, 1000, 10000])[:, None])
    evidence = image_evidence(tokens, row=attended(0.05, 0.3, 0.1, 0.25, 0.15))
    fields = {"keep": 3, "layers": [1]}
    after = run(one("evit", **fields), tokens, evidence)
    assert after.states[:, 0].tolist() == pytest.approx([7, 10, 1000, 0.05 * 1 + 0.1 * 100 + 0.15 * 10000])
    assert patches(after) == [1, 3, 4]
    assert after.size.tolist() == [1, 1, 1, 3]
    official = run(one("evit", fidelity="official", keep_rate=0.4, layers=[1]), tokens, evidence)
    assert patches(official) == [1, 3, 4]
    bare = run(one("evit", fuse=False, **fields), tokens, evidence)
    assert patches(bare) == [1, 3, 4]
    assert bare.states[:, 0].tolist() == [7, 10, 1000, 10000]


def test_tome_by_hand():
    """Even places hold the class token and patches 1, 3, 5; 1 goes to 4 and 3 to 0, and stand where the first stood."""
    metric = torch.tensor([[0, 0], [1, 0.1], [0, 1], [-1, 0], [1, 0], [0, 1], [-1, -1]])[None]
    tokens = sequence(torch.tensor([9.0, 1, 2, 3, 4, 5, 6])[:, None])
    evidence = image_evidence(tokens, metric=metric)
    after = run(one("tome", keep=4), tokens, evidence)
    assert after.states[:, 0].tolist() == [9, 2.5, 3.5, 3, 6]
    assert after.size.tolist() == [1, 2, 2, 1, 1]
    assert patches(after) == [0, 1, 2, 5]
    official = run(one("tome", r=2, fidelity="official"), tokens, evidence)
    assert official.states[:, 0].tolist() == [9, 6, 2.5, 3, 3.5]


@pytest.mark.parametrize("fidelity", ["clean", "official"])
def test_mustdrop_windows_by_hand(fidelity):
    """Of four 2 x 2 windows the last two are uniform, the last one more so; each becomes its mean."""
    states = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0]])
    states = torch.cat([states, torch.tensor([[1, 0], [1, 0.1], [0, 3], [0, 3], [1, 0], [1, 0], [0, 1], [0, 5.0]])])
    tokens = sequence(torch.cat([torch.zeros(1, 2), states]))
    fields = {"window": 2, "keep": None, "fidelity": fidelity}
    after = run(one("mustdrop", **fields), tokens, image_evidence(tokens))
    assert patches(after) == ([14, 12] if fidelity == "official" else []) + list(range(8)) + (
        [12, 14] if fidelity == "clean" else []
    )
    merged = after.states[[patches(after).index(12) + 1, patches(after).index(14) + 1]]
    torch.testing.assert_close(merged, torch.tensor([[1, 0.025], [0, 3.0]]))
    none = run(one("mustdrop", window=2, keep=14), tokens, image_evidence(tokens))
    assert len(none) == 17  # merging a whole window would leave too few


def test_mustdrop_in_the_decoder_by_hand():
    """Two text tokens behind five patches: 0 and 4 get little from both, and the class token wanted 4."""
    attention = torch.tensor([[0.001, 0.3, 0.004, 0.3, 0.001], [0.001, 0.2, 0.3, 0.3, 0.001]])
    tokens = Tokens.fresh(torch.arange(7), torch.arange(7) < 5)

    class Text(Evidence):
        def attention(self, rows, columns, source="attention", heads=False):
            return attention[rows - 5][:, columns]

    image = torch.tensor([0] * 5 + [-1] * 2)
    notes = StageNotes(images=[StageNotes(key=torch.tensor([4]))])
    evidence = Text(3, 6, image, lambda: b"", sequence=tokens, notes=notes)
    shown, received = tokens.take(tokens.visual), TextReceived(0.01, 0.01)
    assert received(shown, evidence, None).tolist() == [0]
    assert TextReceived(0.01, 0.0005)(shown, evidence, None).tolist() == []
    assert received(shown, evidence, 2).tolist() == [2, 0]
    assert received(shown, evidence, 5).tolist()[0] == 4  # key tokens are the last to leave
    with pytest.raises(UserError, match="pictures"):
        received(shown, Text(3, 6, image, lambda: b"", sequence=tokens), None)


def test_key_tokens_are_noted_by_number():
    tokens = sequence(torch.zeros(7, 1))
    evidence = image_evidence(tokens, row=attended(0.1, 0.3, 0.05, 0.3, 0.2, 0.05))
    assert run(one("mustdrop", 1, key_share=0.25), tokens, evidence) is not None
    assert evidence.notes.key.tolist() == [1, 3]


def test_pooling_by_hand():
    """4 of 16 are the means of 2 x 2 windows; images do not mix."""
    states = torch.arange(16.0)[:, None]
    tokens = sequence(torch.cat([states, 100 + states]), 0)
    image = torch.tensor([0] * 16 + [1] * 16)
    after = run(one("pool", keep=8), tokens, Evidence(0, 6, image, lambda: b""))
    means = torch.tensor([2.5, 4.5, 10.5, 12.5])
    torch.testing.assert_close(after.states[:, 0], torch.cat([means, 100 + means]))
    assert after.size.tolist() == [4] * 8
    whole = run(one("pool", keep=1), sequence(states, 0), Evidence(0, 6, image[:16], lambda: b""))
    assert whole.states.tolist() == [[7.5]]
    row = run(one("pool", keep=2), sequence(states[:6], 0), Evidence(0, 6, image[:6], lambda: b""))
    assert row.states[:, 0].tolist() == [1, 4]


ONCE = ("fastervlm", "visionzip", "vispruner", "prumerge", "prumerge_plus")
BLOCKS = {"evit": [16, 16, 16, 10, 7, 5], "tome": [16, 13, 11, 9, 7, 5]}  # tokens that enter each block of the tower


@pytest.mark.parametrize("fidelity", ["clean", "official"])
@pytest.mark.parametrize("name", [*ONCE, *BLOCKS, "mustdrop", "pool"])
def test_counts_in_a_model(llava, name, fidelity):
    """Five of sixteen patches, with two images in the first prompt and one in the second."""
    fields = {"keep": 10 if name in ("mustdrop", "pool") else 5}
    if fidelity == "official" and "fidelity" in load_method(name).fields:
        fields["fidelity"] = fidelity
    with reduce(llava, load_method(name, **fields)) as trace:
        logits = llava(**BATCHES["several images"]).logits
    assert logits.isfinite().all()
    assert [len(kept) for kept in trace.kept] == [10, 10]
    if name in BLOCKS:
        assert [[n - 1 for n in image] for image in trace.tower] == [BLOCKS[name]] * 4
    if name == "mustdrop":
        assert trace.lengths == [[32, 23, 17, 13, 10, 10]] * 2
    else:
        assert trace.lengths == [[10] * 6] * 2
    if name in ("tome", "pool"):
        assert all(
            sorted(patch for token in sources for patch in token) == list(range(32)) for sources in trace.sources
        )


@pytest.fixture(scope="module")
def siglip():
    """A LLaVA whose tower has no class token and is read to its last block."""
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=16, patch_size=4,
        vision_use_head=False,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4, vocab_size=120, pad_token_id=0
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=100, image_seq_length=16, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    return LlavaForConditionalGeneration(config).eval().requires_grad_(False)


LAST = {"prumerge": {"block": "attention"}, "prumerge_plus": {"block": "attention"}}
LAST |= {"mustdrop": {"key_block": "attention"}}


@pytest.mark.parametrize("name", [*ONCE, *BLOCKS, "mustdrop"])
def test_a_tower_without_a_class_token(siglip, name):
    substitute = {"cls": "received"} if name != "tome" else {"fidelity": "official"}
    with reduce(siglip, load_method(name, keep=5, **substitute, **LAST.get(name, {}))) as trace:
        assert siglip(**BATCHES["one"]).logits.isfinite().all()
    assert len(trace.kept[0]) == 5
    if name != "tome":
        with pytest.raises(UserError, match="field cls"), reduce(siglip, load_method(name, **LAST.get(name, {}))):
            pass
    if name in LAST:
        with pytest.raises(UserError, match="none behind it"), reduce(siglip, load_method(name, **substitute)):
            siglip(**BATCHES["one"])


@pytest.mark.parametrize("name", ["fastervlm", "visionzip", "vispruner", "prumerge", "evit", "mustdrop"])
def test_a_substitute_needs_no_class_token(name):
    assert "cls" in load_method(name).needs
    assert "cls" not in load_method(name, cls="received").needs
    if name == "visionzip":
        assert "cls" in load_method(name, cls="received", class_token=True).needs
