"""How reduce() reaches a model: positions, composition, beams, padding."""

import pytest
import torch
from helpers.masked_reference import masked_logits
from helpers.prompts import BATCHES, IMAGE, PATCHES, batch, prompt

from thinsight import load_method, reduce
from thinsight.errors import UserError
from thinsight.methods.controls import Grid, Random
from thinsight.methods.vtw import AllVisual
from thinsight.models.families import find_tower
from thinsight.reduction.method import Method, Reduction
from thinsight.reduction.schedules import Keep
from thinsight.reduction.sites import Decoder, Projected
from thinsight.reduction.stages import ToNearest, WeightedMerge

CLOSE = {"atol": 5e-5, "rtol": 0}
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}
PADDED = BATCHES["two, padded"]


def without_images(inputs: dict) -> dict:
    """The prompt with its image tokens deleted."""
    rows = [row[(row != IMAGE) & mask.bool()].tolist() for row, mask in zip(*list(inputs.values())[:2], strict=True)]
    return batch(*rows)


def test_blind_is_the_prompt_without_its_image(llava):
    with reduce(llava, load_method("blind")):
        seen = llava.generate(**PADDED, **GREEDY, max_new_tokens=6)[:, PADDED["input_ids"].shape[1] :]
        logits = llava(**PADDED, logits_to_keep=1).logits
    plain = without_images(PADDED)
    torch.testing.assert_close(logits, llava(**plain, logits_to_keep=1).logits, **CLOSE)
    expected = llava.generate(**plain, **GREEDY, max_new_tokens=6)[:, plain["input_ids"].shape[1] :]
    assert torch.equal(seen, expected)


def test_pack_at_the_first_layer_is_the_shortened_prompt_exactly(llava):
    inputs = BATCHES["one"]
    with reduce(llava, load_method("vtw", layer=0, positions="pack")):
        logits = llava(**inputs, logits_to_keep=1).logits
    assert torch.equal(logits, llava(**without_images(inputs), logits_to_keep=1).logits)


def test_keep_and_pack_differ(llava):
    logits = []
    for positions in ("keep", "pack"):
        with reduce(llava, load_method("vtw", positions=positions)):
            logits.append(llava(**BATCHES["one"], logits_to_keep=1).logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_reductions_at_several_layers_compose(llava):
    """16 -> 12 before layer 0, -> 5 before layer 2, -> 0 before layer 4, and back to packed numbers in between."""
    method = Method(
        "three",
        (
            Reduction(Random(1), site=Projected("keep"), schedule=Keep(12)),
            Reduction(Grid(), site=Decoder([2], "pack"), schedule=Keep(5)),
            Reduction(AllVisual(), site=Decoder([4])),
        ),
    )
    with reduce(llava, method) as trace:
        out = llava.generate(**PADDED, **GREEDY, max_new_tokens=5, return_dict_in_generate=True, output_logits=True)
    assert trace.lengths == [[12, 12, 5, 5, 0, 0]] * 2
    assert trace.sequence_lengths[1] == [n + 6 for n in trace.lengths[1]]
    held = [out.past_key_values.get_seq_length(layer) for layer in range(6)]
    assert held == [11 + n + 4 for n in trace.lengths[0]]
    sites = [r.site for r in method.reductions]
    assert [r.site for r in method.resolve(6).reductions] == sites
    for sample in range(2):  # each sample alone, and all steps of the answer at once instead of one by one
        row = PADDED["attention_mask"][sample].bool()
        new = out.sequences[sample : sample + 1, 27:]
        with reduce(llava, method):
            ids = PADDED["input_ids"][sample, row][None]
            first = llava(input_ids=ids, pixel_values=PADDED["pixel_values"][sample : sample + 1])
            rest = llava(input_ids=new[:, :-1], past_key_values=first.past_key_values).logits
        logits = torch.cat([first.logits[:, -1:], rest], 1)[0]
        torch.testing.assert_close(torch.stack(out.logits, 1)[sample], logits, **CLOSE)


def test_merging_conserves_and_is_traced(llava):
    """A merge before the first layer equals the plain model on embeddings that were merged by hand."""
    method = Method("merge", (Reduction(Grid(), ToNearest(), WeightedMerge(), Projected("pack"), Keep(4)),))
    inputs = BATCHES["one"]
    with reduce(llava, method) as trace:
        logits = llava(**inputs, logits_to_keep=1).logits
    (sources,) = trace.sources
    assert sorted(patch for group in sources for patch in group) == list(range(PATCHES))
    assert all(kept in group for kept, group in zip(trace.kept[0], sources, strict=True))
    start = inputs["input_ids"][0].tolist().index(IMAGE)
    features = llava.get_image_features(inputs["pixel_values"]).pooler_output[0]
    text = llava.get_input_embeddings()(inputs["input_ids"])[0]
    merged = torch.stack([features[group].mean(0) for group in sources])
    embeds = torch.cat([text[:start], merged, text[start + PATCHES :]])[None]
    expected = llava(inputs_embeds=embeds, logits_to_keep=1).logits
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_merging_inside_the_decoder_changes_only_the_stayers(llava):
    method = Method("merge", (Reduction(Grid(), ToNearest(), WeightedMerge(), Decoder([3]), Keep(4)),))
    layer, seen = llava.model.language_model.layers[3], []

    def look(_, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    llava(**BATCHES["one"])
    handle.remove()
    with reduce(llava, method) as trace:
        handle = layer.register_forward_pre_hook(look, with_kwargs=True)
        llava(**BATCHES["one"])
        handle.remove()
    before, after = seen[0][0], seen[1][0]
    (columns,) = trace.columns
    start = BATCHES["one"]["input_ids"][0].tolist().index(IMAGE)
    for row, column in enumerate(columns):
        group = [column]
        if column - start in trace.kept[0]:
            group = [start + patch for patch in trace.sources[0][trace.kept[0].index(column - start)]]
        torch.testing.assert_close(after[row], before[group].mean(0), atol=1e-5, rtol=0)


def test_beams(llava):
    """The best beam's score is what a teacher-forced run with hidden columns gives to its tokens."""
    with reduce(llava, load_method("vtw")) as trace:
        out = llava.generate(
            **PADDED, **GREEDY, num_beams=3, max_new_tokens=4, return_dict_in_generate=True, output_scores=True
        )
        llava(**PADDED)
    new = out.sequences[:, PADDED["input_ids"].shape[1] :]
    logits = masked_logits(llava, PADDED, trace, generated=new[:, :-1])
    scores = logits.log_softmax(-1).gather(2, new[:, :, None]).sum((1, 2)) / new.shape[1]
    torch.testing.assert_close(scores, out.sequences_scores, **CLOSE)


def test_several_answers_to_one_prompt(llava):
    with reduce(llava, load_method("random")) as trace:
        ids = llava.generate(**PADDED, num_return_sequences=2, do_sample=True, max_new_tokens=3)
    assert len(ids) == 4
    assert trace.kept[0] == trace.kept[1] != trace.kept[2]


def test_visual_mask_for_a_bare_decoder(llava):
    """A mask finds the same columns as the image token does, and is repeated for several answers."""
    ids, mask = PADDED["input_ids"], PADDED["attention_mask"]
    seen = {}
    handle = llava.model.language_model.register_forward_pre_hook(lambda _, a, kw: seen.update(kw), with_kwargs=True)
    with reduce(llava, load_method("grid", layer=2)) as whole:
        expected = llava.model(**PADDED).last_hidden_state
    handle.remove()
    decoder = llava.model.language_model
    with reduce(decoder, load_method("grid", layer=2), visual=ids == IMAGE) as trace:
        found = decoder(inputs_embeds=seen["inputs_embeds"], attention_mask=mask).last_hidden_state
    assert torch.equal(found, expected)
    assert trace.kept == whole.kept
    with reduce(decoder, load_method("vtw"), visual=(ids == IMAGE)[:1]) as trace:
        decoder(inputs_embeds=seen["inputs_embeds"][:1].repeat(3, 1, 1))
    assert trace.lengths == [[16, 16, 16, 0, 0, 0]] * 3


def test_no_image_is_no_reduction(llava):
    inputs = batch(prompt(9), prompt(4, seed=1))
    plain = llava.generate(**inputs, **GREEDY, max_new_tokens=4)
    with reduce(llava, load_method("vtw")) as trace:
        assert torch.equal(llava.generate(**inputs, **GREEDY, max_new_tokens=4), plain)
    assert trace.lengths == [[0] * 6] * 2


def test_a_generated_image_token_is_a_word(llava):
    with reduce(llava, load_method("vtw")) as trace:
        cache = llava(**BATCHES["one"]).past_key_values
        llava(input_ids=torch.tensor([[IMAGE]]), past_key_values=cache)
    assert trace.prefills == 1
    assert [cache.get_seq_length(layer) for layer in range(6)] == [28] * 3 + [12] * 3


def test_without_cache(llava):
    for method in (load_method("vtw"), load_method("random"), load_method("blind")):
        with reduce(llava, method):
            cached = llava.generate(**PADDED, **GREEDY, max_new_tokens=1)
            assert torch.equal(llava.generate(**PADDED, **GREEDY, max_new_tokens=1, use_cache=False), cached)


def test_gaps_between_positions_are_no_packed_sequences(llava):
    """Without mask and cache, transformers would take a gap for the border between two sequences."""
    inputs = {key: value for key, value in BATCHES["one"].items() if key != "attention_mask"}
    with reduce(llava, load_method("random")):
        expected = llava(**inputs, logits_to_keep=1).logits
        torch.testing.assert_close(llava(**inputs, use_cache=False, logits_to_keep=1).logits, expected, **CLOSE)


def test_right_padding(llava):
    """Rows in front of right padding are those of the sample alone."""
    row = torch.tensor([prompt(2, 0, 3, seed=1)])
    padded = torch.nn.functional.pad(row, (0, 5))
    long = torch.tensor([prompt(4, 0, 6)])
    inputs = {
        "input_ids": torch.cat([padded, long]),
        "attention_mask": torch.cat([(torch.arange(27) < 22).long()[None], torch.ones(1, 27, dtype=torch.long)]),
        "pixel_values": PADDED["pixel_values"],
    }
    with reduce(llava, load_method("vtw")):
        logits = llava(**inputs).logits
        alone = llava(input_ids=row, pixel_values=PADDED["pixel_values"][:1]).logits
    torch.testing.assert_close(logits[0, : alone.shape[1]], alone[0], **CLOSE)


def test_nothing_is_left_when_a_model_turns_out_unfit(llava):
    """Attention that cannot be looked at is found while hooks are registered: those go again."""
    attention = llava.model.language_model.layers[1].self_attn
    attention.q_norm = torch.nn.Identity()
    try:
        with pytest.raises(UserError, match="cannot be looked at"), reduce(llava, load_method("fastv", layer=2)):
            pass
    finally:
        del attention.q_norm
    with reduce(llava, load_method("fastv", layer=2)) as trace:
        llava(**BATCHES["one"])
    assert trace.prefills == 1


def test_a_replaced_forward_is_not_bypassed(llava):
    """Libraries that spread a model over devices put their own forward on a layer."""
    layer = llava.model.language_model.layers[3]
    layer.forward = layer.forward
    try:
        with pytest.raises(UserError, match="one device"), reduce(llava, load_method("ficoco_l")):
            pass
        assert "forward" in vars(layer)
    finally:
        del layer.forward


@pytest.mark.parametrize("name", ["vtw", "tome", "dart", "sparsevlm"])
def test_a_prompt_that_ends_with_its_picture_is_refused(llava, name):
    inputs = {key: value[:, : 1 + 4 + 16] if key != "pixel_values" else value for key, value in BATCHES["one"].items()}
    with pytest.raises(UserError, match="put text behind it"), reduce(llava, load_method(name)):
        llava(**inputs)


@pytest.mark.parametrize("name", ["tome", "prumerge"])
def test_a_call_that_failed_leaves_no_picture_behind(llava, name):
    inputs = BATCHES["one"]
    short = {**inputs, "input_ids": inputs["input_ids"].clone()}
    short["input_ids"][0, 5] = 7
    with reduce(llava, load_method(name)) as trace:
        llava(**inputs)
        once = trace.sources, trace.tower
        with pytest.raises(ValueError, match="do not match"):
            llava(**short)
        llava(**inputs)
        assert (trace.sources, trace.tower) == once


@pytest.mark.parametrize("name", ["identity", "fastv", "fastervlm"])
def test_blocks_that_nothing_reads_do_not_run(llava, name):
    """Blocks behind the layer that the projector reads; who encodes pictures himself gets all outputs of the tower."""
    tower, inputs, ran = find_tower(llava), BATCHES["one"], []
    plain, features = llava(**inputs).logits, llava.get_image_features(inputs["pixel_values"]).last_hidden_state
    handles = [
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(tower.blocks)
    ]
    assert tower.used < len(tower.blocks)
    with reduce(llava, load_method(name)):
        logits = llava(**inputs).logits
        assert ran == list(range(tower.used))
        ran.clear()
        encoded = llava.get_image_features(inputs["pixel_values"]).last_hidden_state
    assert ran == list(range(len(tower.blocks)))
    for handle in handles:
        handle.remove()
    if name == "identity":
        assert torch.equal(logits, plain)
        assert torch.equal(encoded, features)
