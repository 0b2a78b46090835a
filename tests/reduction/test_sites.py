"""The places where tokens leave, each against something known: in front of the projector, in a block, in a layer."""

import pytest
import torch
from helpers.prompts import BATCHES, IMAGE

from thinsight import reduce
from thinsight.errors import UserError
from thinsight.methods.controls import Grid
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.schedules import Even, Keep
from thinsight.reduction.sites import Decoder, Features, Projected, Vision
from thinsight.reduction.stages import Order, ToNearest, WeightedMerge

CLOSE = {"atol": 2e-5, "rtol": 0}


def pruning(site, keep=0.5) -> Method:
    return Method("pruning", (Reduction(Grid(), site=site, schedule=Keep(keep)),))


def merging(site, keep=0.25, **fields) -> Method:
    return Method("merging", (Reduction(Grid(), ToNearest(), WeightedMerge(), site, Even(keep), **fields),))


def logits(model, method, inputs):
    with reduce(model, method) as trace:
        return model(**inputs, logits_to_keep=1).logits, trace


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("positions", ["keep", "pack"])
def test_the_projector_works_token_by_token(llava, inputs, positions):
    """Pruning in front of it is pruning behind it."""
    ahead, first = logits(llava, pruning(Features(positions)), inputs)
    behind, then = logits(llava, pruning(Projected(positions)), inputs)
    torch.testing.assert_close(ahead, behind, **CLOSE)
    assert first.lengths == then.lengths
    assert first.kept == then.kept


def test_in_the_tower_pruning_is_masking(llava):
    """Patches that leave before a block are not attended to from then on; the tower of the plain model, masked."""
    inputs, block = BATCHES["several images"], 2
    found, trace = logits(llava, pruning(Vision([block], inside=False)), inputs)
    kept = torch.tensor(trace.kept[0][:8])
    alive = torch.zeros(17, dtype=torch.bool)
    alive[0], alive[1 + kept] = True, True
    blocks = llava.model.vision_tower.encoder.layers

    def mask(module, args, kwargs):
        return args[:1], {**kwargs, "attention_mask": alive.expand(1, 1, 17, 17)}

    handles = [b.register_forward_pre_hook(mask, with_kwargs=True) for b in blocks[block:]]
    try:
        expected, _ = logits(llava, pruning(Projected("pack")), inputs)
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(found, expected, **CLOSE)
    assert trace.tower == [[17, 17, 9, 9, 9, 9]] * 4


def test_pruning_inside_a_layer_is_pruning_before_the_next(llava):
    """The MLP works token by token. The choice is the same, since a grid looks at nothing."""
    inside, _ = logits(llava, pruning(Decoder([2], inside=True)), BATCHES["unequal"])
    before, _ = logits(llava, pruning(Decoder([3])), BATCHES["unequal"])
    torch.testing.assert_close(inside, before, **CLOSE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("site", [Vision, Decoder])
def test_a_merged_token_weighs_what_it_stands_for(llava, llava_eager, site, attention):
    """Proportional attention changes the answer, and the same on both kernels; without merging it changes nothing."""
    model = llava if attention == "sdpa" else llava_eager
    inputs = BATCHES["unequal"]
    make = {"layers": [1, 2], "inside": True}
    plain, _ = logits(model, merging(site(**make)), inputs)
    sized, _ = logits(model, merging(site(**make, proportional=True)), inputs)
    assert (plain - sized).abs().max() > 1e-3
    again, _ = logits(llava, merging(site(**make, proportional=True)), inputs)
    torch.testing.assert_close(sized, again, atol=5e-4, rtol=0)
    none, _ = logits(model, pruning(site(**make, proportional=True)), inputs)
    bare, _ = logits(model, pruning(site(**make)), inputs)
    assert torch.equal(none, bare)


def test_proportional_attention_in_the_decoder_by_an_added_mask(llava):
    """log(size) on the logits of every key, put there by hand, prefill and cached steps."""
    inputs = BATCHES["one"]
    how = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [IMAGE]}
    how |= {"return_dict_in_generate": True, "output_logits": True}
    with reduce(llava, merging(Decoder([2], inside=True, proportional=True))):
        sized = llava.generate(**inputs, **how)
    with reduce(llava, merging(Decoder([2], inside=True))) as trace:
        llava(**inputs)
        sizes = torch.ones(len(trace.columns[0]))
        visual = (inputs["input_ids"][0, trace.columns[0]] == IMAGE).nonzero().squeeze(1)
        sizes[visual] = torch.tensor([float(len(sources)) for sources in trace.sources[0]])

    def bias(module, args, kwargs):
        hidden, past = kwargs["hidden_states"], kwargs["past_key_values"].get_seq_length(module.layer_idx)
        keys = past + hidden.shape[1]
        hide = torch.ones(hidden.shape[1], keys, dtype=torch.bool).triu(keys - hidden.shape[1] + 1)
        mask = torch.zeros(hide.shape).masked_fill(hide, -torch.inf)
        mask[:, : len(sizes)] += sizes.log()
        return args, {**kwargs, "attention_mask": mask[None, None]}

    layers = llava.model.language_model.layers[3:]
    handles = [layer.self_attn.register_forward_pre_hook(bias, with_kwargs=True) for layer in layers]
    try:
        with reduce(llava, merging(Decoder([2], inside=True))):
            added = llava.generate(**inputs, **how)
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(torch.stack(sized.logits), torch.stack(added.logits), **CLOSE)
    assert torch.equal(sized.sequences, added.sequences)


class Backwards(Order):
    """The last patch first."""

    def __call__(self, tokens, evidence):
        return torch.arange(len(tokens)).flip(0)


@pytest.mark.parametrize("site", [Features(), Projected("pack"), Decoder([0], positions="pack")])
def test_an_order_is_what_the_decoder_sees(llava, site):
    """Handing tokens on backwards is giving the decoder the embeddings backwards; names go along."""
    inputs = BATCHES["one"]
    method = Method("backwards", (Reduction(Grid(), site=site, schedule=Keep(0.5), order=Backwards()),))
    found, trace = logits(llava, method, inputs)
    _, straight = logits(llava, pruning(Projected("pack")), inputs)
    assert trace.kept[0] == straight.kept[0][::-1]
    features = llava.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    words = llava.get_input_embeddings()(inputs["input_ids"])[0]
    image = (inputs["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    parts = [words[: image[0]], features[straight.kept[0]].flip(0), words[image[-1] + 1 :]]
    expected = llava(inputs_embeds=torch.cat(parts)[None], logits_to_keep=1).logits
    torch.testing.assert_close(found, expected, **CLOSE)


def test_steps_name_places(llava):
    vision = Reduction(Grid(), ToNearest(), WeightedMerge(), Vision([1, 3]), Even(8))
    method = Method("both", (vision, Reduction(Grid(), site=Decoder([2]), schedule=Keep(4))))
    with reduce(llava, method) as trace:
        llava(**BATCHES["several images"])
    assert list(trace.steps) == ["in vision block 1", "in vision block 3", "before layer 2"]
    assert [len(trace.steps[where][0]) for where in trace.steps] == [24, 16, 4]
    patches = sorted(p for _, members in trace.steps["in vision block 3"][0] for p in members)
    assert patches == list(range(32))


def test_what_comes_encoded_cannot_be_reduced_in_the_tower(llava):
    inputs = dict(BATCHES["one"])
    encoded = llava.model.get_image_features(inputs.pop("pixel_values"))
    with pytest.raises(UserError, match="encoded already"), reduce(llava, pruning(Features())):
        llava(**inputs, mm_encoder_outputs={"image": encoded})


@pytest.mark.parametrize(
    ("site", "sentence"),
    [
        (Vision([5], inside=True), "does not reach the projector"),
        (Vision([9]), "out of range"),
        (Vision([1, 1]), "none twice"),
        (Vision(["two"]), "whole number"),
        (Decoder([2, 2]), "names a layer twice"),
        (Decoder([7]), "out of range"),
    ],
)
def test_wrong_places_are_one_sentence(llava, site, sentence):
    with pytest.raises(UserError, match=sentence), reduce(llava, pruning(site)):
        llava(**BATCHES["one"])


def test_a_fraction_is_a_share_of_the_depth():
    assert Decoder([0.0625, 0.25, 0.5, 1.0]).resolve(32).layers == (2, 8, 16, 32)
    assert Decoder([0.0625]).resolve(12).layers == (1,)
    assert Decoder(None, start=0.125).resolve(32).layers == tuple(range(4, 32))
    assert Vision(start=0.5).blocks(24, 23) == tuple(range(12, 23))
    assert Vision([0.25, 0.5, 0.75]).blocks(24, 23) == (6, 12, 18)
