"""Which files of the hub were read: the commit of model, text tower and data, on the card and in the run's identity."""

import json

import pytest
import torch
from helpers import hub_cache
from helpers import tiny_checkpoint as tiny

from thinsight.config.compose import load_config
from thinsight.errors import UserError
from thinsight.evaluation.protocol import protocol_card
from thinsight.evaluation.run import Run
from thinsight.models.load_errors import why_not_loaded
from thinsight.models.loading import load_model
from thinsight.models.text import TextTower

OLD, NEW = "1" * 40, "2" * 40
NAME = "thinsight-tests/tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, which cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def two_commits(tmp_path):
    """A model of which two commits are in the cache; overrides of a run of it."""
    for seed, commit in enumerate((OLD, NEW)):
        hub_cache.put(NAME, commit, tiny.save_model(tmp_path / commit, seed=seed))
    tiny.save_task(tmp_path / "flat.parquet")
    return [f"model.checkpoint={NAME}", "task=exist", f"task.path={tmp_path / 'flat.parquet'}", "model.device=cpu"]


def opened(tmp_path, overrides):
    run = Run.open(load_config(overrides), tmp_path / "journal")
    run.journal.close()
    return run


def test_the_card_names_the_commit_that_was_read_and_two_commits_are_two_runs(two_commits, tmp_path):
    newest = opened(tmp_path, two_commits)
    named = [opened(tmp_path, [*two_commits, f"model.revision='{commit}'"]) for commit in (OLD, NEW)]
    assert newest.protocol["model"]["revision"] == NEW
    assert [run.protocol["model"]["revision"] for run in named] == [OLD, NEW]
    assert len({run.journal.head for run in (newest, named[0])}) == 2
    weights = [run.model.state_dict()["lm_head.weight"] for run in (newest, *named)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_the_newest_commit_is_resolved_once_for_weights_and_processor(two_commits, cache, monkeypatch):
    """Between the two the repository moves on: the processor is that of the weights all the same."""
    from transformers import AutoModelForImageTextToText

    place, real = cache / "models--thinsight-tests--tiny", AutoModelForImageTextToText.from_pretrained

    def moving(*arguments, **options):
        (place / "refs" / "main").write_text(OLD)
        return real(*arguments, **options)

    side = place / "snapshots" / OLD / "processor_config.json"
    side.write_text(json.dumps(json.loads(side.read_text()) | {"patch_size": 7}))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", moving)
    model, processor = load_model(load_config(two_commits))
    assert (model.config._commit_hash, processor.patch_size) == (NEW, 14)


def test_weights_that_nothing_identifies_are_refused(two_commits):
    config = load_config(two_commits)
    model, processor = load_model(config)
    model.config._commit_hash = None
    with pytest.raises(UserError, match=f"nobody knows which commit of {NAME} was read: name one, model.revision="):
        protocol_card(model, processor, config, {}, weights=None)


def test_a_text_tower_on_the_hub_has_its_commit_on_the_card(tmp_path):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(text_config=CLIPTextConfig(**small), vision_config=CLIPVisionConfig(**small)))
    clip.save_pretrained(tmp_path / "clip")
    tiny_model = tiny.save_model(tmp_path / "model")
    for file in tiny_model.glob("token*.json"):
        (tmp_path / "clip" / file.name).write_bytes(file.read_bytes())
    hub_cache.put("thinsight-tests/clip", OLD, tmp_path / "clip")
    card = {"checkpoint": "thinsight-tests/clip", "revision": OLD, "weights_sha256": None}
    assert TextTower.load("thinsight-tests/clip").card == card
    with pytest.raises(UserError, match="the text tower thinsight-tests/clip cannot be fetched from the hub"):
        TextTower.load("thinsight-tests/clip", NEW)
    local = TextTower.load(str(tmp_path / "clip")).card
    assert (local["revision"], len(local["weights_sha256"])) == (None, 64)


# Why something could not be loaded


def test_a_damaged_file_in_the_hubs_cache_is_not_called_missing(two_commits, cache):
    (weights,) = (cache / "models--thinsight-tests--tiny" / "snapshots" / NEW).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"cut short or damaged .*; delete it from the hub's cache and fetch it again"):
        load_model(load_config(two_commits))


def test_a_switch_that_closes_the_hub_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"model pocket cannot be fetched from the hub as nobody/nothing \(HF_HUB_OFF"):
        load_model(load_config(["model.checkpoint=nobody/nothing"]))


def raised(name):
    """An error of the hub as transformers passes it on."""
    from huggingface_hub import errors

    kind = getattr(errors, name)
    cause = kind.__new__(kind)
    Exception.__init__(cause, "401 Client Error")
    try:
        raise OSError("own/model is not a local folder and is not a valid model identifier") from cause
    except OSError as error:
        return error


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "GatedRepoError",
            "model x is gated on the hub: accept the terms at https://huggingface.co/own/model and log in",
        ),
        ("RepositoryNotFoundError", "model x is not on the hub as own/model, or is private there"),
        ("RevisionNotFoundError", "model x is on the hub as own/model, but not in the revision"),
        ("OfflineModeIsEnabled", "model x cannot be fetched from the hub as own/model"),
        ("RemoteEntryNotFoundError", "model x lacks a file on the hub as own/model"),
    ],
)
def test_what_the_hub_says_is_told_apart(name, sentence):
    assert why_not_loaded("model x", "own/model", raised(name)).startswith(sentence)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.attn_implementation=kernels-community/flash-attn"], "model pocket cannot be loaded here"),
        (["model.attn_implementation=flash_attention_2"], "model pocket cannot be loaded here"),
        (["model.quantization=4bit"], "model pocket cannot be loaded here: .* need accelerate and bitsandbytes"),
        (["model.quantization=8bit"], "unknown quantization '8bit': did you mean 4bit"),
        (["model.device_map=auto"], "model pocket cannot be loaded here: .* need accelerate .pip install accelerate"),
        (["model.device=mps"], "device mps was asked for, but torch sees no GPU of Apple's here"),
        (["model.device=meta"], "nothing runs on device meta here: use auto, cpu, cuda or mps"),
        (["model.dtype=half"], "unknown dtype 'half'"),
    ],
)
def test_what_this_machine_lacks_is_no_fault_of_the_files(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        load_model(load_config(overrides))


def test_a_dtype_of_auto_is_that_of_the_checkpoint(tmp_path):
    folder = tiny.save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    model, _ = load_model(load_config([f"model.checkpoint={folder}", "model.dtype=auto"]))
    assert model.dtype == torch.bfloat16
