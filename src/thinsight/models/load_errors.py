"""Why a checkpoint or a data set could not be loaded, in one sentence that says what to do."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from thinsight.models.checkpoint import first_line
from thinsight.models.memory import is_out_of_memory

BACK_ENDS = ("sentencepiece", "tiktoken", "protobuf", "tokenizers")
"""Packages that a tokenizer may need; transformers names them in errors of several types."""


def why_not_loaded(whose: str, source: Path | str, error: BaseException) -> str:
    """What the error of transformers, safetensors, torch or the hub means for ``whose`` files.

    ``source``: a folder, or the id of a hub repository.
    """
    reasons = [reason for cause in _chain(error) if (reason := _reason(cause, source))]
    if reasons:
        return f"{whose} {reasons[0]}"
    line = first_line(error)
    if isinstance(source, Path):
        return f"{whose} cannot be read from {source}: files there may be missing, cut short or damaged ({line})"
    return f"{whose} cannot be loaded as the hub's {source} ({line})"


def _reason(error: BaseException, source: Path | str) -> str | None:
    """What one error of a chain says, if it is one that is known."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    text, line = str(error), first_line(error)
    if is_out_of_memory(error):
        return (
            f"does not fit in memory ({line}): take a device with more, model.dtype=float16, model.device_map=auto or "
            "model.quantization=4bit"
        )
    if isinstance(error, ImportError) or "attn_implementation" in text or any(name in text for name in BACK_ENDS):
        return f"cannot be loaded here ({line})"  # nothing is wrong with the files
    if isinstance(error, SafetensorError | hub.SafetensorsParsingError):
        again = (
            "put it there again" if isinstance(source, Path) else "delete it from the hub's cache and fetch it again"
        )
        return f"cannot be read from {source}: files there may be cut short or damaged ({line}); {again}"
    if isinstance(error, hub.GatedRepoError):
        return (
            f"is gated on the hub: accept the terms at https://huggingface.co/{source} and log in "
            "(`hf auth login`, or set HF_TOKEN)"
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return f"is not on the hub as {source}, or is private there: look at the name, or log in (`hf auth login`)"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"is on the hub as {source}, but not in the revision that was asked for"
    if isinstance(error, hub.OfflineModeIsEnabled | hub.LocalEntryNotFoundError | ConnectionError):
        switch = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)), None)
        why = f"{switch} is set" if switch else "it cannot be reached"
        return f"cannot be fetched from the hub as {source} ({why}), and no copy of it is in the local cache"
    if isinstance(error, hub.EntryNotFoundError):
        return f"lacks a file on the hub as {source} ({line})"
    if isinstance(error, hub.HfHubHTTPError):
        return f"cannot be fetched from the hub as {source} ({line})"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        return f"cannot be written to the hub's cache ({error.strerror})"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """What an error was raised from, the first cause first."""
    if error is not None:
        yield from _chain(error.__cause__)
        yield error
