"""The shapes in ``conf/model``: are they the true ones, and what does a picture cost there?"""

import pkgutil
from importlib import import_module

import pytest

from thinsight.config.catalogue import printed_models
from thinsight.config.compose import load_config
from thinsight.config.schema import names
from thinsight.costs.flops import decoder_shape
from thinsight.costs.meta_device import cost_report
from thinsight.models import families
from thinsight.models.image_tokens import largest_image, tokens_of
from thinsight.models.loading import meta_model, model_config, transformers_config

# model: parameters of the checkpoint on the hub; tiles and visual tokens of the largest picture
TRUE = {
    "llava_next_mistral_7b": (7_566_747_648, 5, 5 * 576),
    "llava_onevision": (8_030_807_584, 37, 10 * 729),
    "qwen2_vl": (8_291_375_616, 1, 1280),
    "qwen2_5_vl_3b": (3_754_622_976, 1, 1280),
    "qwen2_5_vl_7b": (8_292_166_656, 1, 1280),
    "internvl3": (7_944_373_760, 13, 13 * 256),
    "smolvlm": (2_246_272_880, 17, 17 * 81),
    "smolvlm_256m": (256_484_928, 17, 17 * 64),
}


@pytest.mark.parametrize("name", TRUE)
def test_the_shapes_in_conf_are_the_true_ones(name):
    model = meta_model(name)
    image = largest_image(model.config, model_config(name).processor)
    assert (sum(p.numel() for p in model.parameters()), image.tiles, image.tokens) == TRUE[name]
    assert tokens_of(name) == image.tokens


# model: patches of a tile, and class tokens; the tower's width and blocks; weights of a block's MLP; keys that a patch
# attends to, all blocks together; numbers that a patch is made of (pixels x colours x frames)
TOWERS = {
    "llava_next_mistral_7b": (576, 1, 1024, 24, 2 * 1024 * 4096, 24 * 577, 588),
    "llava_onevision": (729, 0, 1152, 26, 2 * 1152 * 4304, 26 * 729, 588),
    "qwen2_vl": (5120, 0, 1280, 32, 2 * 1280 * 5120, 32 * 5120, 1176),
    "qwen2_5_vl_3b": (5120, 0, 1280, 32, 3 * 1280 * 3420, 28 * 64 + 4 * 5120, 1176),  # windows of 8 x 8 patches
    "internvl3": (1024, 1, 1024, 24, 2 * 1024 * 4096, 24 * 1025, 588),
    "smolvlm": (729, 0, 1152, 27, 2 * 1152 * 4304, 27 * 729, 588),
    "smolvlm_256m": (1024, 0, 768, 12, 2 * 768 * 3072, 12 * 1024, 768),
}


@pytest.mark.parametrize("name", TOWERS)
def test_the_cost_of_a_picture(name):
    """Torch's counts over the model on the meta device against closed formulae."""
    found = cost_report(load_config([f"model={name}", "method=vtw", "text_tokens=64"]))
    _, tiles, visual = TRUE[name]
    lengths = found["lengths"]["visual"]
    half = len(lengths) // 2
    assert (found["visual_tokens"], found["vision"]["tiles"]) == (visual, tiles)
    assert lengths == [visual] * half + [0] * half
    shape, counted = decoder_shape(meta_model(name)), found["counted"]["decoder"]
    biases = shape.biases * shape.layers * (visual + 64)  # which torch does not count
    assert counted["full"] + biases == found["conventions"]["profiler"]["full"]
    patches, classes, width, blocks, mlp, keys, numbers = TOWERS[name]
    seen = patches + classes
    linear = blocks * seen * (4 * width**2 + mlp) + patches * numbers * width
    assert found["vision"]["vision_tower"] == 2 * tiles * (linear + 2 * seen * keys * width)


def test_settings_of_the_processor_decide_where_it_cuts():
    found = largest_image(
        meta_model("qwen2_vl").config, {"size": {"shortest_edge": 3136, "longest_edge": 28 * 28 * 300}}
    )
    assert (found.size, found.tokens) == ((15 * 28, 20 * 28), 300)
    internvl = meta_model("internvl3").config
    assert [largest_image(internvl, {"max_patches": n}).tiles for n in (1, 6)] == [1, 7]
    assert largest_image(meta_model("smolvlm").config, {"size": {"longest_edge": 384}}).tokens == 81
    small = cost_report(load_config(["model=internvl3", "method=vtw", "model.processor.max_patches=1"]))
    assert small["visual_tokens"] == 256


@pytest.mark.parametrize("name", names("model"))
def test_every_model_has_one_family(name):
    """And is refused in front of its projector, or not, by that family's own file."""
    kind = transformers_config(model_config(name)).model_type
    files = [import_module(f"{families.__name__}.{m.name}") for m in pkgutil.iter_modules(families.__path__)]
    assert [file for file in files if kind in file.MODEL_TYPES] == [families.family_of(meta_model(name).config)]


def test_papers_count_the_tokens_of_the_largest_picture():
    """Under a model's own name; Video-LLaVA and LLaVA-NeXT-13B have only their decoder in conf."""
    own = {title: model for title, model in printed_models().items() if title not in ("Video-LLaVA", "LLaVA-NeXT-13B")}
    assert {title: tokens_of(name) for title, (name, _) in own.items()} == {t: n for t, (_, n) in own.items()}
