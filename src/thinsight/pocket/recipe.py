"""The whole recipe in order, and the saving of its result in the standard format."""

import json
import os
import shutil
from pathlib import Path

import torch

from thinsight.hardware import cpu_name
from thinsight.pocket.architecture import new_models, processor
from thinsight.pocket.decoder_stage import DECODER_PHASES, train_decoder
from thinsight.pocket.joint_stage import JOINT_PHASES, Parts, joint, translate
from thinsight.pocket.optimisation import use_full_precision_attention
from thinsight.pocket.supervision import Packer
from thinsight.pocket.vision_stage import train_vision

STAGES = (
    "vision",
    *(f"decoder/{phase.name}" for phase in DECODER_PHASES),
    "translate",
    *(phase.name for phase in JOINT_PHASES),
)


def train_all(work: Path) -> Parts:
    """Every stage that ``work`` does not hold yet; finished ones are only loaded."""
    llava, clip = new_models(seed=0)
    use_full_precision_attention(llava)
    use_full_precision_attention(clip)
    packer = Packer(processor().tokenizer)
    heads, alignment = train_vision(work / "vision", clip, packer.tokenizer)
    symbols = train_decoder(work / "decoder", llava, packer)
    parts = Parts(llava, clip, symbols, heads, alignment)
    translate(work / "translate", parts)
    joint(work, parts, packer)
    return parts


def save(parts: Parts, folder: Path, work: Path) -> None:
    """``folder/model`` (LLaVA with its processor), ``folder/clip`` (its twin) in fp16, and ``folder/training.json``."""
    words = processor()
    for name, model in (("model", parts.llava), ("clip", parts.clip)):
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        model.set_attn_implementation("sdpa")
        model.to(torch.float16).save_pretrained(target)
        words.save_pretrained(target)
    (folder / "training.json").write_text(json.dumps(record(work), indent=2) + "\n")


def record(work: Path) -> dict:
    """What was trained, on what, for how long, and what each stage measured last on its training questions."""
    texts = {stage: (work / stage / "log.jsonl").read_text() for stage in STAGES}
    logs = {stage: [json.loads(line) for line in text.splitlines()] for stage, text in texts.items()}
    stages = {
        stage: {"steps": log[-1]["step"], "minutes": round(elapsed(log) / 60, 1)}
        | {name: value for name, value in log[-1].items() if name not in ("step", "seconds")}
        for stage, log in logs.items()
    }
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__, "stages": stages}


def elapsed(log: list[dict]) -> float:
    """Seconds of all sessions together: the clock of a log starts again with each resumption."""
    total, before = 0, 0
    for entry in log:
        total += entry["seconds"] - (before if entry["seconds"] >= before else 0)
        before = entry["seconds"]
    return total
