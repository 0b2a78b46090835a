"""Files made with released codes on a small bare Llama: reading them, and what the tests need of the model."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from thinsight.reduction.evidence import Evidence
from thinsight.reduction.tokens import Tokens


@cache
def read(path: Path) -> tuple[list[dict], dict, dict]:
    """The cases of a file, its weights and its metadata."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    weights = {n.removeprefix("weights."): t.float() for n, t in tensors.items() if n.startswith("weights.")}
    numbers = sorted({int(name.split(".")[0]) for name in tensors if name[0].isdigit()})
    cases = [{n.split(".", 1)[1]: t for n, t in tensors.items() if n.startswith(f"{number}.")} for number in numbers]
    return cases, weights, metadata


@cache
def build(path: Path, attention: str) -> LlamaForCausalLM:
    """The bare Llama that a file describes. Where it cuts behind the last layer, one more follows that adds nothing."""
    cases, weights, metadata = read(path)
    sizes = json.loads(metadata["model"])
    depth = len([name for name in weights if name.endswith("q_proj.weight")])
    more = max(
        [int(case[f"stage{s}.layer"]) + 2 for case in cases for s in stages(case) if f"stage{s}.layer" in case] + [0]
    )
    for name in [name for name in weights if name.startswith("layers.0.")] if more > depth else ():
        weights = weights | {name.replace(".0.", f".{depth}.", 1): torch.zeros_like(weights[name])}
    config = LlamaConfig(
        vocab_size=len(weights["lm_head"]),
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=max(depth, more),
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        rms_norm_eps=sizes["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": sizes["rope_theta"]},
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attention,
    )
    model = LlamaForCausalLM(config)
    state = {f"model.{name}": tensor for name, tensor in weights.items() if name != "lm_head"}
    missing = model.load_state_dict(state | {"lm_head.weight": weights["lm_head"]}, strict=False)
    assert missing.missing_keys == ["model.embed_tokens.weight"]
    assert not missing.unexpected_keys
    return model.eval().requires_grad_(False)


def stages(case: dict) -> list[int]:
    return sorted({int(name.removeprefix("stage").split(".")[0]) for name in case if name.startswith("stage")})


def visual(case: dict) -> torch.Tensor:
    """(batch, columns) the visual ones."""
    start, columns = case["image_start"].reshape(-1, 1), torch.arange(case["inputs_embeds"].shape[1])
    return (columns >= start) & (columns < start + case["num_image_tokens"])


@dataclass
class Spy:
    """A filter that notes its scores, its heads if it chooses some, and what it keeps: rows of the visual tokens, and
    their columns."""

    filter: object
    scores: list = field(default_factory=list)
    heads: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    columns: list = field(default_factory=list)

    def __getattr__(self, name: str):
        return getattr(self.filter, name)

    def __call__(self, tokens: Tokens, evidence: Evidence, leave: int) -> torch.Tensor:
        leaving = self.filter(tokens, evidence, leave)
        if hasattr(self.filter, "scores"):
            self.scores.extend(self.filter.scores(tokens.index, evidence).cpu())
        if hasattr(self.filter, "chosen"):
            self.heads.extend(self.filter.chosen(self.filter.attention(tokens.index, evidence)).cpu())
        rows = tokens.rest(leaving)
        self.rows.extend(rows.cpu())
        self.columns.extend(tokens.index.gather(-1, rows).cpu())
        return leaving
