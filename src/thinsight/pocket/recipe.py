"""The whole recipe in order, and the saving of its result in the standard format."""

import json
import platform
import shutil
from pathlib import Path

import torch

from thinsight.pocket import decoder_stage, joint_stage, vision_stage
from thinsight.pocket.architecture import new_models, processor
from thinsight.pocket.packing import Packer
from thinsight.pocket.training import use_full_precision_attention

STAGES = ("vision", *(f"decoder/{phase.name}" for phase in decoder_stage.PHASES), "translate", "joint")


def train_all(work: Path) -> joint_stage.Parts:
    """Every stage that ``work`` does not hold yet; finished ones are only loaded."""
    llava, clip = new_models(seed=0)
    use_full_precision_attention(llava)
    use_full_precision_attention(clip)
    packer = Packer(processor().tokenizer)
    heads, alignment = vision_stage.train_vision(work / "vision", clip, packer.tokenizer)
    symbols = decoder_stage.train_decoder(work / "decoder", llava, packer)
    parts = joint_stage.Parts(llava, clip, symbols, heads, alignment)
    joint_stage.translate(work / "translate", parts)
    joint_stage.joint(work / "joint", parts, packer)
    return parts


def save(parts: joint_stage.Parts, folder: Path, work: Path) -> None:
    """``folder/model`` (LLaVA with its processor), ``folder/clip`` (its twin) in fp16, and ``folder/training.json``."""
    words = processor()
    for name, model in (("model", parts.llava), ("clip", parts.clip)):
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        model.set_attn_implementation("sdpa")
        model.to(torch.float16).save_pretrained(target)
        words.save_pretrained(target)
    logs = {stage: (work / stage / "log.jsonl").read_text().splitlines() for stage in STAGES}
    record = {
        "hardware": f"{torch.get_num_threads()} threads of {cpu_name()}",
        "torch": torch.__version__,
        "stages": {stage: json.loads(lines[-1]) for stage, lines in logs.items()},
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
