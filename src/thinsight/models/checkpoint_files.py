"""What a checkpoint's own files say, beside what is used of it: for the protocol card of a run.

Files of a repository change, and some of them nobody here has seen; so what was found is said with each result.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from thinsight.models.loading import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

IMAGES, WHOLE, OWN = "preprocessor_config.json", "processor_config.json", "conf/model"

TEMPLATES = ("chat_template.jinja", "chat_template.json", WHOLE, "tokenizer_config.json")
"""Where a chat template may stand, in the order in which transformers takes it."""

USED = ("eos_token_id", "bos_token_id", "pad_token_id")
"""What greedy decoding takes of generation_config.json (see `thinsight.evaluation.answer`)."""


def files_card(model: "PreTrainedModel", processor: "ProcessorMixin", config: DictConfig) -> dict[str, Any]:
    """What was found in the files of ``config``, a node of conf/model, and what of it is used.

    parameters     numbers that were loaded;  dtypes  their types in the files, as safetensors has them; null where
                   torch has pickled them
    differs        fields of ``architecture`` in conf/model for which config.json has another value: [conf, file]
    chat_template  the file that it is of, or conf/model
    patch_size     the same of the size of a patch; null where the processor has none of its own
    settings       settings of the processor in conf/model for which its files have another value: [file, used]
    generation     generation_config.json: what is used, and ``ignored``, as sampling is
    """
    read = _Files(checkpoint(config), getattr(model.config, "_commit_hash", None))
    settings = OmegaConf.to_container(config.processor, resolve=True)
    images, whole = read.json(IMAGES), read.json(WHOLE)
    written = {**images, **whole.get("image_processor", {}), **whole}
    generation = read.json("generation_config.json")
    ignored = {k: v for k, v in generation.items() if k not in USED and k[0] != "_" and k != "transformers_version"}
    places = [name for name, file in ((WHOLE, whole), (IMAGES, images)) if "patch_size" in file]
    template = next((name for name in TEMPLATES if read.has_template(name)), None)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtypes": sorted({kind for file in read.weights() for kind in _dtypes(file)}) or None,
        "differs": _differences(config, model),
        "chat_template": OWN if "chat_template" in settings else template,
        "patch_size": OWN if "patch_size" in settings else next(iter(places), None),
        "settings": {
            name: [written.get(name), value]
            for name, value in settings.items()
            if name != "chat_template" and written.get(name) != value
        },
        "generation": {**{name: generation.get(name) for name in USED}, "ignored": ignored},
    }


class _Files:
    """The files of a folder, or of a commit of a hub repository; those that are not there are empty."""

    def __init__(self, source: Path | str, commit: str | None) -> None:
        self.source, self.commit = source, commit

    def path(self, name: str) -> Path | None:
        """Where a file lies; it is fetched if need be."""
        from transformers.utils import cached_file

        found = cached_file(
            str(self.source),
            name,
            revision=self.commit,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return Path(found) if found else None

    def json(self, name: str) -> dict[str, Any]:
        """What a file holds."""
        path = self.path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path else {}

    def has_template(self, name: str) -> bool:
        """Whether a file holds the chat template."""
        return bool(self.path(name)) if name.endswith(".jinja") else bool(self.json(name).get("chat_template"))

    def weights(self) -> list[Path]:
        """The files of weights that safetensors has written."""
        index = self.json("model.safetensors.index.json")
        names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
        return [path for name in names if (path := self.path(name))]


def _dtypes(file: Path) -> Iterator[str]:
    """The types of the numbers in a file, read off its header."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  it is no mapping
            yield tensors.get_slice(name).get_dtype()


def _differences(config: DictConfig, model: "PreTrainedModel") -> dict[str, list[Any]]:
    """Fields of the architecture in conf/model whose value is not the model's."""
    from transformers import AutoConfig

    if config.architecture is None:
        return {}
    named = OmegaConf.to_container(config.architecture, resolve=True)
    ours, theirs = (_flat(shape.to_dict()) for shape in (AutoConfig.for_model(**named), model.config))
    fields = [field for field in _flat(named) if field in ours]
    return {field: [ours[field], theirs.get(field)] for field in fields if ours[field] != theirs.get(field)}


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names."""
    flat = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
