"""Checkpoint -> model and processor: files, device, dtype, one sentence for what is missing.

Nothing here knows which model is small: everything loads through transformers' Auto classes from the standard format.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from thinsight.config.compose import load_config
from thinsight.errors import UserError, nearest
from thinsight.models.checkpoint import checkpoint_source, first_line, resolve_commit
from thinsight.models.families import family_of
from thinsight.models.load_errors import why_not_loaded
from thinsight.models.text import QuestionReader

if TYPE_CHECKING:  # transformers takes seconds to import
    from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin


def open_processor(source: str, revision: str | None = None) -> "ProcessorMixin":
    """The processor in the folder or hub repository ``source``; errors are those of transformers.

    torchvision and PIL resize differently, so the numbers must not depend on which of them is installed.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    loader, kind = (
        AutoProcessor,
        PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(source, revision=revision)), None),
    )
    if kind is not None and "video_processor" in kind.get_attributes():
        name = kind.get_processor_dict(source, revision=revision)[0].get("processor_class", kind.__name__)
        loader = stills(kind) if name == kind.__name__ else AutoProcessor
    return loader.from_pretrained(source, revision=revision, backend="pil")


def stills(kind: type["ProcessorMixin"]) -> type["ProcessorMixin"]:
    """The processor class ``kind`` without its video half, which needs torchvision just to be loaded.

    Pictures are prepared by the same code; `thinsight.reduce` refuses videos anyway.
    """
    parts = [part for part in kind.get_attributes() if part != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: list(parts))})


def load_model(
    name_or_config: str | DictConfig, device: str | None = None, dtype: str | None = None
) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """The model in evaluation mode, with its `QuestionReader`, and its processor (left padding, PIL image backend).

    ``name_or_config``: a name in ``conf/model``, such a node, or a whole config. ``device`` and ``dtype`` replace the
    config's; device "auto" is CUDA if there is one. Missing, incomplete or unreadable weights, an unreachable hub and a
    processor setting that would have no effect are `UserError`s.
    """
    from transformers import AutoModelForImageTextToText

    config = model_config(name_or_config)
    source, place = checkpoint(config), torch_device(device or config.device)
    number = dtype or config.dtype
    number = number if number == AUTO else torch_dtype(number)
    with _loading(config):
        commit = resolve_commit(source, config.revision)
        config = OmegaConf.merge(config, {"revision": commit or config.revision})  # the same for the processor
        model, info = AutoModelForImageTextToText.from_pretrained(
            str(source),
            revision=config.revision,
            dtype=number,
            attn_implementation=config.attn_implementation,
            output_loading_info=True,
            **_spread(config, place),
        )
    # transformers fills what a checkpoint lacks with random numbers and only warns
    gaps = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if gaps:
        raise UserError(f"the weights in {source} do not fit model {config.name}: {gaps[0]} ({len(gaps)} in all).")
    processor = load_processor(config)
    _check_image_token(processor, model.config, f"model {config.name}")
    model.question_reader = QuestionReader(processor, config.text_tower, config.text_sign, config.text_tower_revision)
    model.config._commit_hash = commit  # transformers has the name for it and leaves it empty
    model.eval()
    with _loading(config):
        return model if _spread(config, place) else model.to(place), processor


def _check_image_token(processor: "ProcessorMixin", config: "PreTrainedConfig", whose: str) -> None:
    """Refuse a processor that marks pictures by another token than the model looks for: it would not see them."""
    ours, theirs = getattr(config, "image_token_id", None), getattr(processor, "image_token", None)
    if ours is None or theirs is None:
        return
    found = processor.tokenizer.convert_tokens_to_ids(str(theirs))
    if found != ours:
        raise UserError(
            f"{whose} looks for token {ours} where a picture is, and its tokenizer writes {theirs} as {found}: its "
            "files do not belong together."
        )


def _spread(config: DictConfig, place: torch.device) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that put weights on devices as they are read, and in 4 bits; empty: neither."""
    if config.quantization not in (None, "4bit"):
        raise nearest("quantization", str(config.quantization), ["4bit"])
    if config.device_map is None and config.quantization is None:
        return {}
    needed = ["accelerate", *(["bitsandbytes"] if config.quantization else [])]
    if missing := [package for package in needed if find_spec(package) is None]:
        raise UserError(
            f"model {config.name} cannot be loaded here: device_map and quantization need {' and '.join(needed)} "
            f"(pip install {' '.join(missing)})"
        )
    chosen: dict[str, Any] = {"device_map": config.device_map or {"": str(place)}}
    if config.quantization is not None:
        from transformers import BitsAndBytesConfig

        compute = torch.float16 if config.dtype == AUTO else torch_dtype(config.dtype)
        chosen["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    return chosen


AUTO = "auto"
"""The dtype that the checkpoint itself names."""


def load_processor(name_or_config: str | DictConfig) -> "ProcessorMixin":
    """The processor alone, with the settings of ``config.processor`` put in place and checked to be read."""
    from transformers import AutoConfig

    config = model_config(name_or_config)
    with _loading(config):
        processor = open_processor(str(checkpoint(config)), config.revision)
        shape = AutoConfig.from_pretrained(str(checkpoint(config)), revision=config.revision)
    processor.tokenizer.padding_side = "left"
    special = getattr(family_of(shape), "PROCESSOR_SETTINGS", {})
    for key, value in OmegaConf.to_container(config.processor, resolve=True).items():
        special.get(key, partial(_set, key=key))(processor, value=value)
    return processor


def transformers_config(config: DictConfig) -> "PreTrainedConfig":
    """The transformers config of a model node: its ``architecture``, or what its checkpoint says."""
    from transformers import AutoConfig

    if config.architecture is None:
        with _loading(config):
            return AutoConfig.from_pretrained(str(checkpoint(config)), revision=config.revision)
    with _building(config):
        return AutoConfig.for_model(**OmegaConf.to_container(config.architecture, resolve=True))


def meta_model(name_or_config: str | DictConfig) -> "PreTrainedModel":
    """The same architecture on ``torch.device("meta")``: true shapes, no weights, nothing downloaded."""
    return _untrained(model_config(name_or_config), torch.device("meta"))


def random_model(name_or_config: str | DictConfig, seed: int = 0) -> "PreTrainedModel":
    """The same architecture on its own device with random weights: for time and memory, which hardly depend on them."""
    config = model_config(name_or_config)
    place = torch_device(config.device)
    with torch.random.fork_rng([torch.cuda.current_device()] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        return _untrained(config, place)


def _untrained(config: DictConfig, place: torch.device) -> "PreTrainedModel":
    from transformers import AutoModelForImageTextToText

    shape = transformers_config(config)
    with _building(config), place:
        model = AutoModelForImageTextToText.from_config(
            shape, dtype=effective_dtype(config, shape), attn_implementation=config.attn_implementation
        )
    return model.eval()


def model_config(name_or_config: str | DictConfig) -> DictConfig:
    """The model node of a name in ``conf/model``, of the file ``*.yaml`` of a run's config, of a whole config, or of
    itself."""
    if isinstance(name_or_config, str):
        file = name_or_config.endswith(".yaml")
        return (load_config(path=name_or_config) if file else load_config([f"model={name_or_config}"])).model
    return name_or_config.model if "model" in name_or_config else name_or_config


def checkpoint(config: DictConfig) -> Path | str:
    """The folder that holds the weights (relative to the project's root), or a hub id ``owner/name``."""
    if not config.checkpoint:
        raise UserError(f"model {config.name} names no checkpoint: it has a shape, but no weights to load.")
    source = checkpoint_source(config.checkpoint)
    if source is None:
        raise UserError(
            f"model {config.name} has no weights at {config.checkpoint}: check the folder out again or rebuild it."
        )
    return source


def torch_device(name: str) -> torch.device:
    """The device ``name``; "auto" is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no device '{name}': use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no GPU here: use device auto or cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps was asked for, but torch sees no GPU of Apple's here: use device auto or cpu.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"nothing runs on device {name} here: use auto, cpu, cuda or mps.")
    return device


def effective_dtype(config: DictConfig, shape: "PreTrainedConfig") -> torch.dtype:
    """The type of a model's weights: that of ``config``, or for "auto" what its transformers config ``shape`` says."""
    return (shape.dtype or torch.float32) if config.dtype == AUTO else torch_dtype(config.dtype)


def torch_dtype(name: str) -> torch.dtype:
    """The floating-point type ``name``; "auto" has to be asked of the checkpoint (`effective_dtype`)."""
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name not in known:
        raise nearest("dtype", str(name), known)
    return known[name]


def _set(processor: "ProcessorMixin", key: str, value: Any) -> None:
    """Set one processor setting where it is read."""
    images = processor.image_processor
    if hasattr(processor, key):
        setattr(processor, key, value)
    elif hasattr(images, key):
        setattr(images, key, value)
    else:
        raise nearest("processor setting", key, [*vars(processor), *vars(images)])


@contextmanager
def _building(config: DictConfig) -> Iterator[None]:
    """Turn what transformers, the hub and torch raise at numbers that make no model into one sentence."""
    try:
        yield
    except Exception as error:  # they share no base class
        raise UserError(f"model {config.name} cannot be built: {first_line(error)}.") from error


@contextmanager
def _loading(config: DictConfig) -> Iterator[None]:
    """Turn what transformers, safetensors, torch and the hub raise while loading into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they share no base class
        source = checkpoint_source(config.checkpoint)
        raise UserError(f"{why_not_loaded(f'model {config.name}', source, error)}.") from error
