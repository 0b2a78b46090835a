"""A process that really has no more memory: a whole batch does not fit, its parts do, and the answers are the same."""

import json
import os
import subprocess
import sys

import pytest
from helpers import benchmark_replicas as replicas
from helpers import hub_checkpoints as hub

MARGIN = 300
"""Megabytes beside what is in use after a first evaluation; a batch of 10 pictures of 672 pixels takes twice that."""

SCRIPT = f"""
import json, resource, sys
import torch
from pathlib import Path
from thinsight.config.compose import load_config
from thinsight.evaluation.run import evaluate
torch.set_num_threads(1)
folder = Path(sys.argv[1])
config = load_config(["model=llava_1_5_7b", f"model.checkpoint={{folder / 'model'}}", "model.dtype=float32",
    "model.device=cpu", "task=pope", f"task.path={{folder / 'pope'}}", "batch_size=10", "limit=10",
    "task.max_new_tokens=2", "method=divprune"])
for name in ("free", "tight"):
    if name == "tight":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + {MARGIN} * 2**20,) * 2)
    evaluate(config, folder / name, folder / "journal")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_a_batch_that_does_not_fit_is_answered_in_parts(tmp_path):
    import pandas as pd

    hub.llava(layers=3, blocks=3, side=672).save(tmp_path / "model")
    replicas.pope(tmp_path / "pope")
    # what is given back is given back to the system, so that the limit is about what is in use
    memory = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=os.environ | memory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for table in ("predictions", "trace"):  # the patches that are kept are those of each picture
        free, tight = (pd.read_parquet(tmp_path / name / f"{table}.parquet") for name in ("free", "tight"))
        assert free.equals(tight)
    cards = [json.loads((tmp_path / name / "protocol.json").read_text())["hardware"] for name in ("free", "tight")]
    assert "smallest_batch" not in cards[0]
    assert 1 <= cards[1]["smallest_batch"] < 10
