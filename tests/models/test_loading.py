"""Loading from the standard format, and one sentence for everything that can be wrong with a checkpoint."""

import json
import shutil

import pytest
import torch
from helpers import tiny_checkpoint as tiny
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from thinsight.config.compose import load_config
from thinsight.config.schema import ModelConfig, names
from thinsight.errors import UserError
from thinsight.evaluation.protocol import processor_card
from thinsight.models.loading import checkpoint, load_model, load_processor, meta_model, model_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


def config(folder, **fields):
    return OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(folder), **fields))


def test_a_saved_model_comes_back_whole(saved, tmp_path):
    model, processor = load_model(config(saved))
    model.save_pretrained(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not model.training
    assert (model.dtype, model.device.type) == (torch.float32, "cuda" if torch.cuda.is_available() else "cpu")
    assert processor.tokenizer.padding_side == "left"
    assert processor.image_processor.backend == "pil"


def test_arguments_go_before_the_config(saved):
    model, _ = load_model(config(saved, dtype="float16", attn_implementation="eager"), device="cpu", dtype="bfloat16")
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")
    assert model.config.get_text_config()._attn_implementation == "eager"


def test_the_meta_model_is_the_same_architecture(saved):
    real, shape = load_model(config(saved))[0], meta_model(config(saved))
    assert {k: v.shape for k, v in real.state_dict().items()} == {k: v.shape for k, v in shape.state_dict().items()}
    assert all(parameter.is_meta for parameter in shape.parameters())


@pytest.mark.parametrize(("name", "billions"), [("llava_1_5_7b", 7.06), ("llava_1_5_13b", 13.35)])
def test_the_shapes_in_conf_are_the_true_ones(name, billions):
    """Parameter counts of the checkpoints on the hub."""
    assert sum(p.numel() for p in meta_model(name).parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("name", names("model"))
def test_every_model_file_names_a_checkpoint(name):
    assert model_config(name).name == name
    assert model_config(load_config([f"model={name}"])) == model_config(name)
    assert model_config(name).checkpoint


def test_missing_weights_are_not_filled_with_random_numbers(folder):
    weights = load_file(folder / "model.safetensors")
    dropped = next(key for key in weights if "layers.1.mlp" in key)
    save_file({key: value for key, value in weights.items() if key != dropped}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"do not fit model tiny: .*layers\.1\.mlp.* \(1 in all\)"):
        load_model(config(folder))


def test_damaged_files_are_one_sentence(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model tiny cannot be read from .*: files there may be ") as e:
        load_model(config(folder))
    assert "\n" not in str(e.value)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_model(config(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_model(config(folder))


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no weights at .*gone"):
        checkpoint(config(tmp_path / "gone"))
    with pytest.raises(UserError, match="no weights at data/nowhere"):
        checkpoint(config("data/nowhere"))
    with pytest.raises(UserError, match="names no checkpoint"):
        checkpoint(OmegaConf.structured(ModelConfig(name="tiny")))


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    """The tests have no network, which is just the case; only the waiting between attempts is left out."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match="model tiny cannot be fetched from the hub as nobody/nothing") as error:
        load_model(config("nobody/nothing"))
    assert "\n" not in str(error.value)


def test_unknown_devices_and_types_are_one_sentence(saved):
    with pytest.raises(UserError, match="no device 'gpu'"):
        load_model(config(saved), device="gpu")
    with pytest.raises(UserError, match="did you mean float16"):
        load_model(config(saved), dtype="float61")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="sees no GPU"):
            load_model(config(saved), device="cuda")


def test_a_way_of_attention_that_is_not_there_is_no_fault_of_the_files(saved):
    for name, reason in {"flash_attention_2": "FlashAttention2", "none": "Specified `attn_implementation"}.items():
        with pytest.raises(UserError, match=f"model tiny cannot be loaded here .{reason}"):
            load_model(config(saved, attn_implementation=name))
        with pytest.raises(UserError, match=f"model tiny cannot be built: {reason}"):
            meta_model(config(saved, attn_implementation=name))


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("num_attention_heads=7", "The hidden size .4096. is not a multiple of the number of attention heads"),
        ("num_hidden_layers=x", "Field 'num_hidden_layers' expected int"),
        ("hidden_act=x", "'x'"),
    ],
)
def test_a_shape_that_makes_no_model_is_one_sentence(field, reason):
    chosen = load_config(["model=llava_1_5_7b", f"model.architecture.text_config.{field}"])
    with pytest.raises(UserError, match=f"model llava_1_5_7b cannot be built: .*{reason}") as error:
        meta_model(chosen)
    assert "\n" not in str(error.value)


def test_padding_is_the_mean_colour_square_and_not_ignored(saved):
    """A wide picture: CLIP's processor crops its ends away, LLaVA's pads to a square; the card says which."""
    plain, padded = load_processor(config(saved)), load_processor(config(saved, processor={"do_pad": True}))
    wide = Image.new("RGB", (56, 28), (255, 0, 0))
    cropped, whole = (p.image_processor(wide, return_tensors="pt")["pixel_values"][0] for p in (plain, padded))
    assert cropped[0].std() < 1e-6  # red all over
    grey = torch.tensor([int(255 * mean) / 255 for mean in plain.image_processor.image_mean])
    normal = (grey - torch.tensor(plain.image_processor.image_mean)) / torch.tensor(plain.image_processor.image_std)
    assert torch.allclose(whole[:, 0, 0], normal, atol=0.01)
    assert torch.allclose(whole[:, 14, 14], cropped[:, 14, 14], atol=0.05)
    cards = processor_card(plain), processor_card(padded)
    assert [card["image"]["do_pad"] for card in cards] == [None, True]
    assert [card["image_processor"] for card in cards] == ["CLIPImageProcessorPil", "LlavaImageProcessorPil"]
    assert json.loads(json.dumps(cards[1])) == cards[1]


def test_a_setting_that_nothing_reads_is_refused(saved):
    with pytest.raises(UserError, match="did you mean patch_size"):
        load_processor(config(saved, processor={"patch_sise": 14}))
    assert load_processor(config(saved, processor={"do_center_crop": False})).image_processor.do_center_crop is False
