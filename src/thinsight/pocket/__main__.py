"""Train pocket from nothing: ``python -m thinsight.pocket [WORK]``; a killed run goes on from its last checkpoint.

In order: the vision tower, the decoder on symbols, the translation of the one into the other, everything together.
The result is saved in the standard format.
"""

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import torch

from thinsight.errors import command
from thinsight.hardware import cpu_name
from thinsight.paths import ROOT
from thinsight.pocket.architecture import new_models, processor
from thinsight.pocket.decoder_stage import DECODER_PHASES, train_decoder
from thinsight.pocket.joint_stage import JOINT_PHASES, Parts, joint, translate
from thinsight.pocket.optimisation import use_full_precision_attention
from thinsight.pocket.supervision import Packer
from thinsight.pocket.vision_stage import train_vision

DECODER_STAGES = [f"decoder/{phase.name}" for phase in DECODER_PHASES]
STAGES = ("vision", *DECODER_STAGES, "translate", *(phase.name for phase in JOINT_PHASES))


def train_all(work: Path) -> Parts:
    """Every stage that ``work`` does not hold yet; finished ones are only loaded."""
    llava, clip = new_models(seed=0)
    use_full_precision_attention(llava, clip)
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
    (folder / "training.json").write_text(json.dumps(record(work), indent=2) + "\n", encoding="utf-8")


def record(work: Path) -> dict:
    """What was trained, on what, for how long, and what each stage measured last on its training questions."""
    stages = {}
    for stage in STAGES:
        log = [json.loads(line) for line in (work / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        clock = [0, *(entry.pop("seconds") for entry in log)]  # starts again where training was resumed
        elapsed = sum(now - before if now >= before else now for before, now in pairwise(clock))
        stages[stage] = {"steps": log[-1].pop("step"), "minutes": round(elapsed / 60, 1), **log[-1]}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__, "stages": stages}


def main(arguments: list[str]) -> None:
    """``[WORK]``."""
    work = Path(arguments[0]) if arguments else ROOT / ".thinsight" / "pocket"
    save(train_all(work), ROOT / "data" / "pocket", work)


if __name__ == "__main__":
    command(main)
