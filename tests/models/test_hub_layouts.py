"""Checkpoints laid out as on the hub are loaded out of its cache by their names there, and answer under every kind of
method; the card says which commits they are of, and what stands in their files."""

import json

import datasets
import huggingface_hub.constants
import pytest
from helpers import hub_cache
from helpers import hub_checkpoints as hub

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation.run import evaluate
from thinsight.models.families import find_parts
from thinsight.models.loading import load_model, load_processor, model_config

SMALL = {"llava_1_5_7b": {"layers": 6, "blocks": 6, "side": 56}}

METHODS = {
    "llava_1_5_7b": ["visionzip", "cdpruner", "fastv method.layer=1"],
    "llava_next_mistral_7b": ["prumerge", "divprune", "fastv method.layer=1"],
    "llava_next_vicuna_7b": ["visionzip", "divprune", "fastv method.layer=1"],
    "qwen2_5_vl_7b": ["divprune method.positions=keep", "fastv method.layer=1"],
    "internvl3": ["divprune", "fastv method.layer=1"],
    "smolvlm_256m": ["divprune", "fastv method.layer=1"],
}
"""Model -> one method for each place where it can be reduced: in the tower, behind it, in the decoder."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A hub's cache with two commits of every checkpoint, and of the text tower."""
    folder, patch = tmp_path_factory.mktemp("hub"), pytest.MonkeyPatch()
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    for name in METHODS:
        hub.put_model(name, folder, **SMALL.get(name, {}))
    hub.put_clip(folder, blocks=6, side=56)
    hub.put_benchmark("pope", folder)
    yield folder / "cache"
    patch.undo()


@pytest.fixture(autouse=True)
def alone(cache, tmp_path, monkeypatch):
    """Nothing but that cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def answered(tmp_path, name, method):
    more = ["model.processor.size.longest_edge=1024"] if name == "smolvlm_256m" else []  # few tiles
    words = [f"model={name}", f"method={method.split()[0]}", *method.split()[1:], "tasks=[pope]", "limit=3"]
    return evaluate(load_config([*words, "model.device=cpu", *more]), journal=tmp_path / "journal")


@pytest.mark.parametrize("name", METHODS)
def test_it_answers_under_every_kind_of_method(name, tmp_path):
    """And the plain one's card says what stands in the files."""
    whole = answered(tmp_path, name, "identity")
    cell = whole["scores"]["pope"]["fixed"]
    assert cell["n"] == 3
    card = whole["protocol"]
    assert card["model"]["checkpoint"] == model_config(name).checkpoint
    assert card["model"]["revision"] == hub.NEW
    assert card["tasks"]["pope"]["source"]["revision"] == load_config(["task=pope"]).task.revision
    check_files(name, card)
    for method in METHODS[name]:
        found = answered(tmp_path, name, method)
        reduced = found["scores"]["pope"]["fixed"]
        assert reduced["visual_tokens_mean"] < cell["visual_tokens_mean"]
        if method == "cdpruner":
            tower = found["protocol"]["method"]["text_tower"]
            assert tower == {
                "checkpoint": "openai/clip-vit-large-patch14-336",
                "revision": hub.NEW,
                "weights_sha256": None,
            }


def check_files(name, card):
    repository = hub.REPOSITORIES[name](**SMALL.get(name, {}))
    files = card["files"]
    assert files["dtypes"] == [{"torch.float16": "F16", "torch.bfloat16": "BF16"}[str(repository.dtype)]]
    assert files["parameters"] < 200_000
    own = name == "llava_1_5_7b"
    assert files["chat_template"] == (
        "conf/model" if own else "chat_template.jinja" if repository.twice else "chat_template.json"
    )
    assert files["differs"]["text_config.hidden_size"][1] in (16, 32)
    if own:
        assert files["patch_size"] == "conf/model"
        assert files["settings"]["do_pad"] == [None, True]
        assert files["settings"]["patch_size"] == [None, 14]
        assert card["processor"]["image"]["do_pad"] is True
        assert card["processor"]["around_image"] == [["\u2581a", "\u2581"], ["\u2581", "<0x0A>", "a"]]
    if name.startswith("qwen"):
        assert files["generation"]["ignored"] == {"do_sample": True, "temperature": 1e-06, "repetition_penalty": 1.05}
        assert files["settings"]["size"] == [None, {"shortest_edge": 200704, "longest_edge": 1003520}]


def test_the_numbers_are_those_of_the_shards(cache):
    """The keys of the index are those of the first port; every tensor arrives in the model."""
    from safetensors.torch import load_file

    model, _ = load_model("llava_1_5_7b", device="cpu")
    folder = cache / "models--llava-hf--llava-1.5-7b-hf" / "snapshots" / hub.NEW
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(where.values())) == 3
    for key, tensor in {
        "language_model.model.layers.3.mlp.up_proj.weight": find_parts(model).layers[3].mlp.up_proj.weight,
        "language_model.lm_head.weight": model.lm_head.weight,
        "multi_modal_projector.linear_1.bias": model.model.multi_modal_projector.linear_1.bias,
        "vision_tower.vision_model.embeddings.class_embedding": model.model.vision_tower.embeddings.class_embedding,
    }.items():
        assert load_file(folder / where[key])[key].equal(tensor)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    repository = hub.llava(6, 6, 56)
    folder = repository.save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    hub.write(folder / "config.json", config | {"image_token_index": 7})
    hub_cache.put("llava-hf/llava-1.5-13b-hf", hub.OLD, folder)
    with pytest.raises(
        UserError, match="looks for token 7 where a picture is, and its tokenizer writes <image> as 449"
    ):
        load_model("llava_1_5_13b", device="cpu")


def test_an_older_commit_can_be_named():
    config = load_config(["model=smolvlm_256m", f"model.revision='{hub.OLD}'"])
    assert load_model(config, device="cpu")[0].config._commit_hash == hub.OLD
    assert load_processor("smolvlm_256m").image_processor.max_image_size == {"longest_edge": 512}
