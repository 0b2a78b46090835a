"""The clock: phases and arms, and that the model is left as it was. No test says how fast anything has to be."""

import time

import pytest
import torch
from helpers import tiny_checkpoint as tiny
from omegaconf import OmegaConf

from thinsight.config.methods import load_method
from thinsight.config.schema import ModelConfig, TaskConfig
from thinsight.costs.timing import time_once, time_phases
from thinsight.errors import UserError
from thinsight.models.loading import load_model
from thinsight.tasks.rows import collate, load_rows


def test_three_arms_phase_by_phase(tmp_path):
    folder = tiny.save_model(tmp_path / "model", layers=2)
    model, processor = load_model(OmegaConf.structured(ModelConfig(name="tiny", checkpoint=str(folder))), device="cpu")
    model.set_attn_implementation("eager")
    task = OmegaConf.structured(TaskConfig(name="flat", path=str(tiny.save_task(tmp_path / "t.parquet"))))
    inputs = collate(processor, load_rows(task, 1), task)
    with torch.inference_mode():
        before = model(**inputs).logits
    found = time_phases(model, load_method("vtw", layer=1), inputs, generated=(1, 2), seconds=0.01)
    phases = ["vision", "prefill", "end to end 1", "end to end 2", "decode"]
    assert [(t.arm, t.phase) for t in found] == [
        (arm, phase) for arm in ("plain, sdpa", "plain, eager", "vtw") for phase in phases
    ]
    assert all(t.median > 0 for t in found if t.phase != "decode")
    assert model.config.get_text_config()._attn_implementation == "eager"
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, before)
    with pytest.raises(UserError, match="two lengths"):
        time_phases(model, load_method("identity"), inputs, generated=(4,))


def test_the_median_is_in_seconds():
    calls = []
    timing = time_once("arm", "phase", lambda: calls.append(time.sleep(0.01)), 0.1)
    assert 0.01 <= timing.median < 10  # in milliseconds it would be 10 and more; a busy machine takes longer, not less
    assert 1 <= timing.repeats < len(calls)  # the call to warm up is not timed
