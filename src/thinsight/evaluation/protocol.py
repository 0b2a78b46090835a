"""The protocol card of a run, and when two runs may be compared."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from thinsight.config.schema import RESERVED
from thinsight.errors import UserError
from thinsight.hardware import hardware_card
from thinsight.models.checkpoint import folder_hash
from thinsight.models.checkpoint_files import files_card
from thinsight.models.loading import checkpoint
from thinsight.tasks.functions import function_name
from thinsight.tasks.hub import provenance
from thinsight.tasks.pictures import READING
from thinsight.tasks.rows import Failure, Row, prompt_text, rows_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "pillow")

IMAGE_SETTINGS = (
    "do_pad", "do_center_crop", "crop_size", "do_resize", "size", "resample", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "do_convert_rgb",
)  # fmt: skip


def protocol_card(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    config: DictConfig,
    tasks: Mapping[str, tuple[DictConfig, Sequence[Row], Sequence[Failure]]],
    weights: str | None,
    reads_tower: bool = False,
) -> dict[str, Any]:
    """The card of one run, as plain data: ``model``, ``files``, ``pictures``, ``processor``, ``tasks``,
    ``decoding``, ``versions``, ``hardware``, ``method``.

    ``tasks``: name -> its config, the rows scored and those that cannot be asked. ``weights``: hash of local weights,
    from `weights_hash`. ``reads_tower``: whether the method reads the text tower. ``hardware``: that of the session
    which finishes the run, with its batch size. Weights that neither a hash nor a commit identifies are a `UserError`.
    """
    revision = getattr(model.config, "_commit_hash", None)
    if weights is None and revision is None:
        raise UserError(
            f"nobody knows which commit of {config.model.checkpoint} was read: name one, model.revision=COMMIT, or "
            "fetch it through the hub's cache"
        )
    return {
        "model": {
            "name": config.model.name,
            "checkpoint": config.model.checkpoint,
            "revision": revision,
            "weights_sha256": weights,
            "dtype": str(model.dtype).removeprefix("torch."),
            **({"quantization": config.model.quantization} if config.model.quantization else {}),
            "device": model.device.type,
            "attention": {
                "decoder": model.config.get_text_config()._attn_implementation,
                "vision": model.config.vision_config._attn_implementation,
            },
        },
        "files": files_card(model, processor, config.model),
        "pictures": READING,
        "processor": processor_card(processor),
        "tasks": {name: _task(processor, *task) for name, task in tasks.items()},
        "decoding": {"strategy": "greedy", "beams": 1, "seed": config.seed},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": hardware_card(model.device) | {"batch_size": config.batch_size},
        "method": _method(config) | ({"text_tower": model.question_reader.clip.card} if reads_tower else {}),
    }


def processor_card(processor: "ProcessorMixin") -> dict[str, Any]:
    """Class, backend and the effective values of a processor, whatever file or default they came from."""
    images, tokenizer = processor.image_processor, processor.tokenizer
    effective = json.loads(images.to_json_string())
    return {
        "class": type(processor).__name__,
        "image_processor": type(images).__name__,
        "backend": str(getattr(images, "backend", "unknown")),
        # None: this class does not have the setting, so setting it would do nothing
        "image": {name: effective.get(name) for name in IMAGE_SETTINGS},
        "patch_size": getattr(processor, "patch_size", None),
        "select": getattr(processor, "vision_feature_select_strategy", None),
        "tokenizer": type(tokenizer).__name__,
        "padding_side": tokenizer.padding_side,
        "chat_template_sha256": _sha(str(processor.chat_template)),
        "around_image": around_image(processor),
    }


def around_image(processor: "ProcessorMixin") -> list[list[str]]:
    """The tokens in front of a picture and behind it where a word and a line break stand there: a tokenizer may begin
    each piece of text with a space of its own, as LLaVA's code does, or only the first."""
    tokenizer, token = processor.tokenizer, str(processor.image_token)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(f"a {token}\na", add_special_tokens=False)["input_ids"])
    if token not in pieces:
        return [pieces]
    return [pieces[: pieces.index(token)], pieces[pieces.index(token) + 1 :]]


LMMS_EVAL = "lmms-eval protocol"
"""The field ``protocol`` of the card of a run that lmms-eval asked and scored (`thinsight.lmms`); ours have none."""


def run_protocol(card: Mapping[str, Any], task: str) -> str:
    """Whose rules asked and scored ``task``, as conf/task calls them; empty where the card names none."""
    protocol = card.get("tasks", {}).get(task, {}).get("protocol", "")
    return "lmms_eval" if protocol == LMMS_EVAL else protocol


def comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Refuse, by a `UserError` that names the fields, two cards that differ in more than the method and the hardware.

    Runs on different hardware are compared: the protocol is one, a few answers may differ (`hardware_differences`).
    """
    if LMMS_EVAL in (harnesses := {first.get("protocol"), second.get("protocol")}) and len(harnesses) > 1:
        raise UserError(
            f"these runs cannot be compared: one has the {LMMS_EVAL}, whose prompts and rules are lmms-eval's own, the "
            "other has Thinsight's"
        )
    parts = (first.keys() | second.keys()) - {"method", "hardware"}
    differing = differences(*({key: card[key] for key in parts if key in card} for card in (first, second)))
    if differing:
        what = "; ".join(differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(f"these runs cannot be compared, they differ in more than the method: {what}{more}.")


def hardware_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """In what the hardware of two cards differs; empty where a card names none (one made before cards did)."""
    a, b = first.get("hardware"), second.get("hardware")
    return differences(a, b) if a and b else []


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields in which two cards differ, each as ``name (value against value)``."""
    a, b = flatten(first), flatten(second)
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return [f"{name} ({a.get(name)} against {b.get(name)})" for name in names]


def flatten(card: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a card by their dotted names."""
    fields = {}
    for key, value in card.items():
        if isinstance(value, Mapping):
            fields |= flatten(value, f"{prefix}{key}.")
        else:
            fields[f"{prefix}{key}"] = value
    return fields


def weights_hash(config: DictConfig) -> str | None:
    """SHA-256 over the weights files of a local checkpoint; None for one on the hub, which its commit identifies."""
    folder = checkpoint(config)
    return folder_hash(folder) if isinstance(folder, Path) else None


def _task(
    processor: "ProcessorMixin", task: DictConfig, rows: Sequence[Row], failures: Sequence[Failure]
) -> dict[str, Any]:
    return {
        "split": task.split,
        "rows": len(rows),
        **({"failed": {failure.id: failure.reason for failure in failures}} if failures else {}),
        "ids_sha256": _sha("\n".join(row.id for row in rows)),
        "rows_sha256": rows_digest(rows),
        "prompt": prompt_text(processor, rows[0], task),
        "metric": function_name(task.metric),
        **_protocol(task),
        "max_new_tokens": task.max_new_tokens,
        **({"source": provenance(task)} if function_name(task.kind) == "hub" else {}),
    }


def _protocol(task: DictConfig) -> dict[str, str]:
    """The task's protocol and the file that its scorer equals; nothing where another metric was put in its place."""
    if not task.protocol or function_name(task.metric) != task.protocol:
        return {}
    return {"protocol": task.protocol, "scorer": task.protocols[task.protocol]}


def _method(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config.method, resolve=True)
    fields = {key: value for key, value in plain.items() if key not in RESERVED}
    return {"name": config.method.name, "fields": fields, "sweep": OmegaConf.to_container(config.sweep, resolve=True)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
