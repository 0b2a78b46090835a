"""The clock: arms, phases, interleaving, bounds, inputs of every family. No test says how fast anything has to be."""

import time
from dataclasses import replace

import pytest
import torch
from helpers import tiny_checkpoint as tiny
from omegaconf import OmegaConf

from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.config.schema import ModelConfig, TaskConfig
from thinsight.costs import timing
from thinsight.costs.budgets import simulate
from thinsight.costs.conventions import PROFILER_LAST
from thinsight.costs.flops import decoder_shape, flops, prefill_flops
from thinsight.costs.inputs import random_inputs, visual_count
from thinsight.costs.shapes import StackSize, read_shape, resized
from thinsight.costs.speed import TimedModel
from thinsight.costs.timing import Arm, Spread, interleaved, peak_bytes, plain_and, speedups, time_pass
from thinsight.errors import UserError
from thinsight.models.families import find_parts
from thinsight.models.image_tokens import largest_image
from thinsight.models.loading import load_model, random_model
from thinsight.reduction.method import Method
from thinsight.tasks.rows import collate, load_rows

SHAPES = {
    "llava_1_5_7b": "3x128+3x64",
    "llava_next_vicuna_7b": "2x128+2x64",
    "llava_onevision": "2x128+2x72",
    "qwen2_vl": "2x128+2x80",
    "qwen2_5_vl_3b": "2x128+2x80",
    "internvl3": "2x128+2x64",
    "smolvlm": "2x64+2x72",
}
PATCHES = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}
SMALLER = {
    "llava_next_vicuna_7b": {"architecture.image_grid_pinpoints": [[336, 672], [672, 336]]},
    "llava_onevision": {"architecture.image_grid_pinpoints": [[384, 768], [768, 384]]},
    "qwen2_vl": {"processor.size": PATCHES},
    "qwen2_5_vl_3b": {"processor.size": PATCHES},
    "internvl3": {"processor.max_patches": 1},
    "smolvlm": {"processor.size": {"longest_edge": 384}},
}
"""Smaller pictures than the largest that these models take."""


def config_of(name: str):
    config = load_config([f"model={name}", "model.dtype=float32", "model.device=cpu", "text_tokens=10"])
    config.model = resized(config.model, SHAPES[name])
    for key, value in SMALLER.get(name, {}).items():
        OmegaConf.update(config.model, key, value, force_add=True)
    return config


@pytest.fixture(scope="module")
def llava_timed():
    config = config_of("llava_1_5_7b")
    model = random_model(config)
    inputs = random_inputs(model, largest_image(model.config, config.model.processor), 1, 10)
    return TimedModel.of(model, config, "random", inputs), inputs


class TestPhases:
    @pytest.fixture(scope="class")
    def loaded(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("tiny")
        checkpoint = tiny.save_model(folder / "model", layers=2)
        node = OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(checkpoint)))
        model, processor = load_model(node, device="cpu")
        task = OmegaConf.structured(TaskConfig(name="flat", path=str(tiny.save_task(folder / "t.parquet"))))
        return model, collate(processor, load_rows(task, 1), task)

    def test_every_phase_is_there_and_the_model_is_left_as_it_was(self, loaded):
        model, inputs = loaded
        with torch.inference_mode():
            before = model(**inputs).logits
        hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks), len(vars(m))) for m in model.modules()]
        arm = Arm("vtw", load_method("vtw", layer=1), "eager")
        found = time_pass(model, arm, inputs, [1, 3], model.model.multi_modal_projector)
        assert set(found) == {*timing.PREFILL, "end to end 1", "end to end 3", "decode"}
        assert all(seconds > 0 for seconds in found.values())
        assert found["own work"] + found["vision tower"] + found["projector"] < found["prefill"]
        assert found["end to end 3"] == pytest.approx(found["end to end 1"] + 2 * found["decode"])
        assert model.config.get_text_config()._attn_implementation == "sdpa"
        assert hooks == [(len(m._forward_pre_hooks), len(m._forward_hooks), len(vars(m))) for m in model.modules()]
        with torch.inference_mode():
            assert torch.equal(model(**inputs).logits, before)

    def test_a_gpu_is_timed_by_events_that_are_waited_for(self, loaded, monkeypatch):
        """With events of a stand-in: the whole prefill has no events of single hooks in it."""
        model, inputs = loaded
        waited, recorded = [], []

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = time.perf_counter()
                recorded.append(len(waited))

            def elapsed_time(self, end):
                assert len(waited) > recorded[-1]  # nothing is read before it is reached
                return 1000 * (end.at - self.at)

        def started(clock, device):
            clock.device, clock.cuda = device, True

        monkeypatch.setattr(timing.DeviceClock, "__init__", started)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
        found = time_pass(model, Arm("fastv", load_method("fastv", layer=1)), inputs, [1, 2])
        assert recorded.count(1) == 2  # between the first two waits only the pass itself begins and ends
        assert all(found[phase] > 0 for phase in ("own work", "prefill", "decode"))

    def test_the_plain_model_has_no_hook(self, loaded):
        model, inputs = loaded
        assert time_pass(model, Arm("plain"), inputs)["own work"] == 0
        assert time_pass(model, Arm("identity", load_method("identity")), inputs)["own work"] > 0

    def test_flops_of_a_pass_are_told_apart(self, loaded):
        """Four patches of width 16 in one block of the tower that is read, then two layers of width 32."""
        model, inputs = loaded
        shape, length = decoder_shape(model), inputs["input_ids"].shape[1]
        block = 2 * 5 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 5 * 5 * 16
        patches, row = 2 * 4 * 16 * 3 * 14 * 14, 2 * (16 * 32 + 32 * 32)
        whole = timing.prefill_flops(model, load_method("identity"), inputs)
        assert whole == {
            "vision": patches + block + 4 * row,
            "choice": 0,
            "decoder": flops(replace(shape, biases=0), [length] * 2, PROFILER_LAST),
        }
        behind = timing.prefill_flops(model, load_method("divprune", keep=1), inputs)
        assert behind == {
            "vision": whole["vision"],
            "choice": 2 * 4 * 4 * 32,  # cosines of each pair
            "decoder": flops(replace(shape, biases=0), [length - 3] * 2, PROFILER_LAST),
        }
        front = timing.prefill_flops(model, load_method("fastervlm", keep=1), inputs)
        assert front["vision"] == whole["vision"] - 3 * row
        assert front["choice"] == 2 * 5 * 16  # one row of attention
        assert front["decoder"] == behind["decoder"]

    def test_own_work_is_what_stages_take(self, loaded):
        """A filter that sleeps: before the projector, between the halves of a layer, and in front of the decoder."""
        model, inputs = loaded

        class Slow:
            among = "visual"

            def __call__(self, tokens, evidence, leave):
                time.sleep(0.05)
                return torch.arange(leave)

        from thinsight.reduction.method import Reduction
        from thinsight.reduction.schedules import Keep
        from thinsight.reduction.sites import Decoder, Projected, Vision

        for site, phase in (
            (Projected(), "decoder"), (Decoder([1], inside=True), "decoder"), (Vision([0]), "vision tower"),
        ):  # fmt: skip
            arm = Arm("slow", Method("slow", (Reduction(Slow(), site=site, schedule=Keep(1)),)))
            found = time_pass(model, arm, inputs, projector=model.model.multi_modal_projector)
            assert found["own work"] >= 0.05
            assert found[phase] >= 0.05
            assert found["projector"] < 0.05

    def test_arms_are_interleaved_and_warmed_up(self, loaded, monkeypatch):
        model, inputs = loaded
        calls = []

        def one(model, arm, *_):
            calls.append(arm.name)
            return {"prefill": float(len(calls))}

        monkeypatch.setattr(timing, "time_pass", one)
        samples = interleaved(model, [Arm("a"), Arm("b")], inputs, repeats=3)
        assert calls == ["a", "b"] * 4
        assert samples["a"]["prefill"] == [3, 5, 7]  # the first round warms up
        assert speedups(samples, "a", "b")["prefill"] == Spread.of([3 / 4, 5 / 6, 7 / 8])
        calls.clear()
        assert len(interleaved(model, [Arm("a")], inputs, repeats=9, seconds=0)["a"]["prefill"]) == 1

    def test_the_headline_is_the_fastest_attention(self):
        method = Method("m")
        assert [(a.name, a.attention) for a in plain_and(method, "sdpa", "sdpa")] == [
            ("plain, sdpa", "sdpa"), ("m", "sdpa"),
        ]  # fmt: skip
        assert [(a.name, a.method) for a in plain_and(method, "sdpa", "flash")] == [
            ("plain, flash", None), ("plain, sdpa", None), ("m", method),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "sentence"), [({"answers": [0]}, "at least one token"), ({"repeats": 0}, "one repeat")]
    )
    def test_what_cannot_be_timed(self, loaded, options, sentence):
        with pytest.raises(UserError, match=sentence):
            interleaved(loaded[0], [Arm("a")], loaded[1], **options)

    def test_memory_is_counted_above_the_weights(self, loaded):
        model, inputs = loaded
        plain, none = peak_bytes(model, Arm("a"), inputs), peak_bytes(model, Arm("b", load_method("blind")), inputs)
        cache = 2 * 2 * 4 * inputs["input_ids"].shape[1] * 16  # keys and values of two layers, two heads of eight
        assert plain > cache
        assert none < plain


def test_quartiles():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3, 2, 4, 5)


@pytest.mark.parametrize("name", SHAPES)
def test_inputs_of_every_family_go_through(name):
    """One pass and one token, and as many visual tokens as the model makes of the pictures."""
    config = config_of(name)
    model = random_model(config)
    assert find_parts(model).depth == read_shape(SHAPES[name])[0].layers
    inputs = random_inputs(model, largest_image(model.config, config.model.processor), 2, 10)
    assert inputs["input_ids"].shape == (2, visual_count(model, inputs) + 10)
    assert not torch.equal(inputs["input_ids"][0], inputs["input_ids"][1])
    timed = TimedModel.of(model, config, "random", inputs)
    found = time_pass(model, Arm("vtw", timed.fitted("vtw", layer=1)), inputs, [1], timed.projector)
    assert min(found[phase] for phase in ("vision tower", "projector", "decoder", "own work")) > 0
    assert timed.lengths(Arm("vtw", timed.fitted("vtw", layer=1)), inputs)[0][:2] == [visual_count(model, inputs), 0]


class TestShape:
    @pytest.mark.parametrize(
        "text", ["8", "8x", "x512", "8*512", "8x512+", "8x512+6", "0x512", "8x0", "8x512+0x64", ""]
    )
    def test_what_is_no_shape(self, text):
        with pytest.raises(UserError, match="shape is LAYERSxWIDTH"):
            read_shape(text)

    def test_what_stays_and_what_changes(self):
        assert read_shape("8x512+6x256") == (StackSize(8, 512), StackSize(6, 256))
        node = load_config(["model=qwen2_5_vl_7b"]).model
        changed = resized(node, "8x512+9x160")
        text, vision = changed.architecture.text_config, changed.architecture.vision_config
        assert (text.num_hidden_layers, text.hidden_size, text.num_attention_heads) == (8, 512, 4)
        assert text.num_attention_heads % text.num_key_value_heads == 0
        assert text.vocab_size == node.architecture.text_config.vocab_size
        assert (vision.depth, vision.hidden_size, vision.out_hidden_size) == (9, 160, 512)
        assert list(vision.fullatt_block_indexes) == [7]
        assert changed.checkpoint is None
        assert node.architecture.text_config.hidden_size == 3584  # the model's own node is as it was
        assert resized(node, "8x512").architecture.vision_config.depth == node.architecture.vision_config.depth

    @pytest.mark.parametrize(
        ("model", "shape", "sentence"),
        [
            ("llava_1_5_7b", "8x100", "the width of the decoder is a multiple of its heads' 128, not 100"),
            ("llava_1_5_7b", "8x128+2x65", "the width of the vision tower is a multiple of its heads' 64, not 65"),
            ("pocket", "8x128", "that file has none"),
        ],
    )
    def test_what_does_not_fit(self, model, shape, sentence):
        with pytest.raises(UserError, match=sentence):
            resized(load_config([f"model={model}"]).model, shape)


class TestBounds:
    def test_they_are_the_flops_of_the_costs(self, llava_timed):
        """Of a method in the decoder: those of its schedule in the convention; the tower is as it was."""
        timed, inputs = llava_timed
        method, sizes = timed.budgeted("fastv", 1 / 9), timed.sizes
        visual, tower = timed.lengths(Arm("fastv", method), inputs)
        assert visual == simulate(method, sizes.prefill).visual
        assert tower == []
        bounds = timed.bounds(timed.whole(inputs), visual, tower, [1, 5])
        counts = [prefill_flops(sizes.prefill.shape, n, 10, PROFILER_LAST) for n in (sizes.whole, visual)]
        assert bounds["decoder"] == pytest.approx(counts[0] / counts[1])
        assert bounds["prefill"] == pytest.approx((sizes.vision + counts[0]) / (sizes.vision + counts[1]))
        assert bounds["vision tower"] == bounds["projector"] == 1
        lengths = [[n + 10 for n in layers] for layers in (sizes.whole, visual)]
        steps = [[[n + 1 for n in layers]] for layers in lengths]
        shape = sizes.prefill.shape
        one = [
            flops(shape, n, PROFILER_LAST, steps=s) - flops(shape, n, PROFILER_LAST)
            for n, s in zip(lengths, steps, strict=True)
        ]
        assert timed.bounds(timed.whole(inputs), visual, tower, [2])["decode"] == pytest.approx(one[0] / one[1])
        assert bounds["end to end 1"] == bounds["prefill"] > bounds["end to end 5"] > 1

    def test_what_leaves_in_the_tower_and_in_front_of_the_projector(self, llava_timed):
        timed, inputs = llava_timed
        whole = timed.whole(inputs)
        merged = timed.bounds(whole, *timed.lengths(Arm("tome", timed.budgeted("tome", 1 / 3)), inputs))
        chosen = timed.bounds(whole, *timed.lengths(Arm("fastervlm", timed.budgeted("fastervlm", 1 / 3)), inputs))
        assert merged["vision tower"] > 1
        assert chosen["vision tower"] == 1
        assert chosen["projector"] == merged["projector"] == pytest.approx(3, rel=0.01)

    def test_one_record_an_arm(self, llava_timed):
        timed, inputs = llava_timed
        methods = [timed.budgeted("vtw", 1 / 9), timed.budgeted("tome", 1 / 9)]
        tower = load_method("evit", layers=[2], keep=64)  # a block that the projector does not read
        plain, *_, vtw, tome, refused = timed.compare([*methods, tower], inputs, answers=[1, 2], repeats=2)
        assert "method" not in plain
        assert (vtw["method"], tome["method"]) == ("vtw", "tome")
        assert set(vtw["speedup"]) == set(vtw["bound"])
        assert plain["repeats"] == vtw["repeats"] == 2
        assert all(s["low"] <= s["median"] <= s["high"] for r in (plain, vtw) for s in r["seconds"].values())
        assert vtw["own_share"] > 0
        assert vtw["peak_bytes"] > 0
        assert "does not reach the projector" in refused["why"]

    @pytest.mark.parametrize("name", ["par", "prumerge", "vtw_random_layer"])
    def test_random_weights_take_fixed_budgets(self, llava_timed, name):
        with pytest.raises(UserError, match="weights=random only a fixed budget"):
            llava_timed[0].fitted(name)

    def test_what_random_weights_lack_is_replaced(self, llava_timed):
        fields = llava_timed[0].budgeted("par", 1 / 9).fields
        assert (fields["space"], fields["rewriting"], fields["keep"]) == ("llm", "none", 1 / 9)
