"""One batch answered under a method."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from transformers import BatchFeature, GenerationConfig

from thinsight.errors import UserError
from thinsight.reduction.method import Method
from thinsight.runtime.attach import reduce
from thinsight.tasks import metrics
from thinsight.tasks.functions import task_function
from thinsight.tasks.rows import Failure, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def answer(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    method: "Method",
    inputs: BatchFeature,
    rows: Sequence[Row],
    task: DictConfig,
) -> list[dict[str, Any]]:
    """Records of a batch, one per row, as plain data (``correct`` a share where the metric is one, ``group`` and
    its size if any).

    ``inputs``: from `rows.collate`, on the model's device. A record has ``id, kind, answer, prediction, correct``,
    ``generated`` (tokens, the end token included), ``visual`` and ``lengths`` (tokens entering each decoder layer,
    visual and all, padding excluded), ``picture`` (visual tokens of the prompt), ``kept`` (patches alive at the end).
    """
    with torch.inference_mode(), reduce(model, method) as trace:
        tokens = model.generate(**inputs, generation_config=_greedy(model, task.max_new_tokens))
    if trace.prefills != 1:
        raise UserError(f"one prompt was expected to pass the decoder, and {trace.prefills} did.")
    tokens = tokens[:, inputs["input_ids"].shape[1] :].cpu()
    pictures = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    ends, score = _ends(model), task_function(task, "metric", metrics)
    return [
        {
            "id": row.id,
            "kind": row.kind,
            "answer": row.answer,
            "prediction": text.strip(),
            "correct": score(text.strip(), row.answer, row.answers),
            "generated": _generated(tokens[i], ends),
            "picture": pictures[i],
            "visual": list(trace.lengths[i]),
            "lengths": list(trace.sequence_lengths[i]),
            "kept": list(kept),
            **({"group": row.group, "group_size": row.group_size} if row.group else {}),
        }
        for i, (row, text, kept) in enumerate(zip(rows, texts, trace.kept, strict=True))
    ]


FAILED = "failed"
"""What the record of a row that could not be asked has in place of an answer: the reason."""


def failed_record(failure: Failure) -> dict[str, Any]:
    """The record of a row that could not be asked."""
    group = {"group": failure.group} if failure.group else {}
    return {"id": failure.id, "kind": failure.kind, FAILED: failure.reason, **group}


def check_reduced(method: "Method", records: Sequence[dict[str, Any]]) -> None:
    """Fail if ``method`` says that it reduces and no length of any row changed: that is the plain model's score."""
    lengths = [(r["picture"], n) for r in records if FAILED not in r for n in r["visual"]]
    if method.reductions and lengths and all(n == picture for picture, n in lengths):
        raise UserError(
            f"method {method.name} with {method.fields} removed no visual token from any row, so this is the plain "
            "model: choose a budget that reduces, or run method=identity."
        )


def _greedy(model: "PreTrainedModel", max_new_tokens: int) -> GenerationConfig:
    """Greedy decoding, whatever sampling a checkpoint's own generation config asks for."""
    defaults = model.generation_config
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=defaults.eos_token_id,
        bos_token_id=defaults.bos_token_id,
        pad_token_id=defaults.pad_token_id if defaults.pad_token_id is not None else _ends(model)[0],
    )


def _ends(model: "PreTrainedModel") -> list[int]:
    """The end tokens of ``model``."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        raise UserError("the model's generation config names no end token (eos_token_id).")
    return [ends] if isinstance(ends, int) else list(ends)


def _generated(tokens: torch.Tensor, ends: list[int]) -> int:
    """Tokens of one answer up to and including its end token; what follows pads the batch. ``tokens``: (new,)."""
    stops = torch.isin(tokens, torch.tensor(ends)).nonzero()
    return int(stops[0]) + 1 if len(stops) else len(tokens)
