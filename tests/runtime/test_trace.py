"""The account that a reduction gives of itself, and what methods choose."""

from helpers.prompts import BATCHES, IMAGE, PATCHES, batch, prompt
from transformers import DynamicCache

from thinsight import load_method, reduce

CLOSE = {"atol": 5e-5, "rtol": 0}
GREEDY = {"do_sample": False, "suppress_tokens": [IMAGE]}
PADDED = BATCHES["two, padded"]


def test_trace_reads_well(llava):
    with reduce(llava, load_method("vtw")) as trace:
        assert repr(trace) == "Trace of vtw: nothing has run yet"
        llava.generate(**PADDED, **GREEDY, max_new_tokens=2)
    assert repr(trace).splitlines()[1] == (
        "  0: visual tokens by layer 16 (layers 0-2), 0 (layers 3-5) | all tokens 27 (layers 0-2), 11 (layers 3-5)"
    )


def test_null_layer_is_half_the_depth(llava):
    with reduce(llava, load_method("vtw")) as trace:
        llava(**BATCHES["one"])
    assert trace.lengths == [[16, 16, 16, 0, 0, 0]]


def test_a_random_choice_goes_by_picture_and_question(llava):
    """The same in a plain call and in generate (which encodes pictures ahead), another for another picture or text."""
    same = prompt(3, 0, 4)
    inputs = batch(same, same, prompt(3, 0, 4, seed=1), same)
    inputs["pixel_values"][3] = inputs["pixel_values"][0]
    with reduce(llava, load_method("random", seed=3)) as trace:
        llava(**inputs)
        called = trace.kept
        llava.generate(**inputs, **GREEDY, max_new_tokens=1)
        assert trace.kept == called
        features = llava.get_image_features(inputs["pixel_values"])
        encoded = {key: value for key, value in inputs.items() if key != "pixel_values"}
        llava(**encoded, mm_encoder_outputs={"image": features})
    assert called[0] == called[3]
    assert len({tuple(kept) for kept in called}) == 3


def test_random_layers_stay_in_their_range(llava):
    """Different samples draw different layers, all between low and high, and the seed matters."""
    inputs = batch(*[prompt(3, 0, 4, seed=s) for s in range(12)])
    drawn = []
    for seed in (0, 1):
        with reduce(llava, load_method("vtw_random_layer", low=2, high=4, seed=seed)) as trace:
            llava(**inputs)
        drawn.append([lengths.count(16) for lengths in trace.lengths])
        assert set(drawn[-1]) == {2, 3, 4}
    assert drawn[0] != drawn[1]


def test_random_tokens_come_from_the_whole_prompt(llava):
    inputs = batch(*[prompt(8, 0, 8, seed=s) for s in range(8)])
    with reduce(llava, load_method("vtw_random_tokens")) as trace:
        llava(**inputs)
    last = inputs["input_ids"].shape[1] - 1
    assert all(columns[-1] == last for columns in trace.columns)
    assert all(len(columns) == 17 for columns in trace.columns)
    assert any(kept for kept in trace.kept)


def test_budgets_are_nested_and_seeds_differ(llava):
    def kept(**fields):
        with reduce(llava, load_method("random", **fields)) as trace:
            llava(**BATCHES["one"])
        return set(trace.kept[0])

    assert len(kept(keep=3)) == 3
    assert kept(keep=3) < kept(keep=0.5) < kept(keep=12)
    assert kept(keep=8, seed=1) != kept(keep=8)
    assert kept(keep=99) == set(range(PATCHES))


def test_the_cache_is_let_go(llava):
    """A context that sees many prompts does not hold on to their caches."""
    import weakref

    with reduce(llava, load_method("vtw")):
        cache = DynamicCache()
        llava(**BATCHES["one"], past_key_values=cache)
        gone = weakref.ref(cache)
        llava(**BATCHES["one"])
        del cache
        assert gone() is None
