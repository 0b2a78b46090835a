"""A checkpoint's processor for still pictures, on Pillow alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def open_processor(source: str, revision: str | None = None) -> "ProcessorMixin":
    """The processor in the folder or hub repository ``source``; errors are those of transformers.

    torchvision and PIL resize differently, so the numbers must not depend on which of them is installed.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    own, kind = AutoProcessor, PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(source, revision=revision)), None)
    if kind is not None and "video_processor" in kind.get_attributes():
        named = kind.get_processor_dict(source, revision=revision)[0].get("processor_class", kind.__name__)
        own = stills(kind) if named == kind.__name__ else AutoProcessor
    return own.from_pretrained(source, revision=revision, backend="pil")


def stills(kind: type["ProcessorMixin"]) -> type["ProcessorMixin"]:
    """The processor class ``kind`` without its video half, which needs torchvision just to be loaded.

    Pictures are prepared by the same code; `thinsight.reduce` refuses videos anyway.
    """
    parts = [part for part in kind.get_attributes() if part != "video_processor"]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: list(parts))})
