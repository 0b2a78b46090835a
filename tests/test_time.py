"""``thinsight time``: its words, wrong ones, the table on a terminal and the JSON object where there is none."""

import contextlib
import io
import json

import pytest

from thinsight import time as command
from thinsight.__main__ import dispatch
from thinsight.costs.speed import RANDOM_WEIGHTS
from thinsight.errors import UserError
from thinsight.time import Words, table

TINY = "model=llava_1_5_7b model.dtype=float32 model.device=cpu weights=random shape=2x128+2x64 text_tokens=8 repeats=1"


@pytest.fixture(scope="module")
def answer():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        dispatch(["time", *f"{TINY} method=vtw batch=[2,1] answers=[2]".split()])
    return json.loads(out.getvalue())


def test_one_json_object_where_there_is_no_terminal(answer):
    assert answer["note"] == RANDOM_WEIGHTS
    assert (answer["weights"], answer["shape"], answer["layers"], answer["width"]) == ("random", "2x128+2x64", 2, 128)
    assert (answer["visual_tokens"], answer["text_tokens"]) == (576, 8)
    assert {run["batch"] for run in answer["runs"]} == {1, 2}
    phases = {"vision tower", "projector", "decoder", "own work", "prefill", "decode", "end to end 2"}
    for batch in (1, 2):
        *plain, method = [run for run in answer["runs"] if run["batch"] == batch]
        assert [run["arm"] for run in plain] == list(
            dict.fromkeys(f"plain, {answer[name]}" for name in ("fastest_attention", "method_attention"))
        )
        plain = plain[0]
        assert method["method"] == "vtw"
        assert set(plain["seconds"]) == set(method["seconds"]) == phases
        assert method["layer_mean"] == 288  # gone before the second of two layers
    assert answer["versions"]["torch"]
    assert answer["hardware"]["cpu"]


def test_the_table_has_a_line_for_each_phase(answer):
    text = table(answer)
    assert RANDOM_WEIGHTS in text
    assert "one plain arm stands for both" in text or "a second plain arm" in text
    first, second = text.split("batch 1, ms")[1].split("batch 2, ms")
    for block in (first, second):
        lines = [line for line in block.splitlines()[1:] if line]
        heads = ["vision tower", "projector", "decoder", "own work", "prefill", "decode", "end to end 2"]
        assert [line.split("  ")[0] for line in lines] == [*heads, "peak memory, MB"]
        assert "of the plain prefill" in lines[3]


def test_a_terminal_gets_the_table_and_json_on_demand(answer, monkeypatch, capsys):
    monkeypatch.setattr(command, "time_method", lambda *_: answer)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    command.main([])
    assert capsys.readouterr().out == table(answer) + "\n"
    command.main(["--json"])
    assert json.loads(capsys.readouterr().out) == answer


def test_a_batch_that_does_not_fit_is_a_line(answer):
    short = answer | {"runs": [{"batch": 32, "why": "this batch does not fit into the memory of the device"}]}
    assert table(short).endswith("\n\nbatch 32: this batch does not fit into the memory of the device")


def test_words_and_overrides_are_told_apart():
    words, rest = Words.read(["method=vtw", "batch=[8,1]", "answers=[]", "weights=random", "shape=8x512", "seed=3"])
    assert rest == ["method=vtw", "seed=3"]
    assert words == Words("8x512", "random", [1, 8], [], None, float("inf"))
    assert Words.read([]) == (Words(), [])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("weights=randm", "unknown weights 'randm': did you mean random?"),
        ("shape=8x512", "a checkpoint has the shape that it has: shape goes with weights=random"),
        ("weights=random shape=8by512", "shape is LAYERSxWIDTH of the decoder"),
        ("batch=0", "batch is a number from 1 or a list of them"),
        ("batch=[]", "batch is a number from 1 or a list of them"),
        ("answers=[1,x]", "answers is a number from 1 or a list of them"),
        ("repeats=0", "repeats is a number from 1, not 0"),
        ("repeats=1.5", "repeats is a number from 1, not 1.5"),
        ("seconds=long", "seconds is a number from 1, not long"),
        ("bacth=3", "unknown word 'bacth': did you mean batch?"),
        ("method=fastw", "unknown method 'fastw': did you mean fastv?"),
        (f"{TINY} method=par", "with weights=random only a fixed budget (method.keep=0.3333) can be timed"),
    ],
)
def test_a_wrong_word_is_one_sentence(line, sentence):
    with pytest.raises(UserError) as found:
        dispatch(["time", *line.split()])
    assert sentence in str(found.value)


def test_a_checkpoint_is_timed_on_questions(capsys):
    line = "model=pocket method=fastv repeats=1 answers=[] model.device=cpu limit=2 batch=3"
    dispatch(["time", *line.split()])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["weights"], answer["visual_tokens"], answer["answers"]) == ("data/pocket/model", 144, [])
    assert answer["note"] == "Questions of the task easyvqa."
    assert {run["batch"] for run in answer["runs"]} == {3}
