"""Shared by all tests: no network, a tiny LLaVA with random weights, and the folder of golden files."""

from pathlib import Path

import pytest
import pytest_socket
import torch

OWN = Path(__file__).parent / "golden"
"""The project's own golden files."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=OWN,
        metavar="DIR",
        help="folder of golden files made with the official implementations (default: tests/golden)",
    )
    parser.addoption(
        "--device",
        default="cpu",
        help="where tests/test_golden.py runs the whole models: cuda compares a GPU with the released codes",
    )
    parser.addoption(
        "--write-docs",
        action="store_true",
        help="write docs/generation.md: tests/runtime/test_generation.py tries all methods on all families (minutes)",
    )


LONG = ("pipeline", "tasks", "methods", "runtime", "evaluation", "report", "papers", "test_replicate.py", "costs")
"""What takes longest begins first, so that no worker is left with it when the others have nothing more to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.relative_to(OWN.parent).parts[0], len(LONG)))


def pytest_runtest_setup() -> None:
    """No test reaches the network; a Jupyter kernel may talk to itself (unix sockets, the loopback)."""
    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1"], allow_unix_socket=True)


pytest.register_assert_rewrite("helpers.golden_decoder", "helpers.golden_projector", "helpers.golden_vision")


class Folder(type(Path())):
    """A folder of golden files; a test whose file another folder lacks is skipped, not failed."""

    def __truediv__(self, name: str) -> Path:
        path = Path(str(self)).joinpath(name)
        if not path.exists() and path.parent != OWN:
            pytest.skip(f"no {name} in {self}")
        return path


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    return Folder(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def llava():
    """A LlavaForConditionalGeneration: 16 visual tokens an image, 6 decoder layers, grouped-query attention."""
    return tiny_llava("sdpa")


@pytest.fixture(scope="session")
def llava_eager(llava):
    """The same weights under eager attention."""
    model = tiny_llava("eager")
    model.load_state_dict(llava.state_dict())
    return model


def tiny_llava(attention: str):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4, image_size=16, patch_size=4
    )
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=120,
        max_position_embeddings=256,
        initializer_range=0.2,  # large enough that attention is not flat and tokens matter to each other
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=100, image_seq_length=16, attn_implementation=attention
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 0
    return model.requires_grad_(False)
