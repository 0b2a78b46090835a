"""params.yaml in every mood: read as it is written, or one sentence that names the line or the key."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from thinsight.errors import UserError
from thinsight.paths import ROOT
from thinsight.pipeline.params import Params, read_params
from thinsight.pipeline.plan import main, write_plan

PLAIN = {
    "preset": "smoke",
    "overrides": '""',
    "tasks": "exist,read",
    "runs": "\n  plain: method=identity\n  vtw: method=vtw sweep=layers   # a remark",
    "pages": "[vtw, par]",
}


def written(tmp_path, encoding="utf-8", **changed):
    """A params.yaml with some values replaced, None for a key that is not there."""
    lines = {**PLAIN, **changed}
    path = tmp_path / "params.yaml"
    text = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    path.write_bytes(text.encode(encoding))
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_params(path)
    assert "params.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_projects_own_file_is_read_as_yaml_reads_it():
    plain, read = yaml.safe_load((ROOT / "params.yaml").read_text()), read_params(ROOT / "params.yaml")
    assert (read.preset, list(read.tasks), list(read.pages)) == (
        plain["preset"],
        plain["tasks"].split(","),
        plain["pages"],
    )
    assert {run: " ".join(lines) for run, lines in read.runs.items()} == plain["runs"]


@pytest.mark.parametrize("nothing", ["", "~", "null", "''", '""', "# nothing yet", "[]"])
def test_what_is_left_empty_is_nothing(tmp_path, nothing):
    runs = f"\n  plain: {nothing}\n  vtw: method=vtw"
    read = read_params(written(tmp_path, overrides=nothing, tasks=nothing, pages=nothing, runs=runs))
    assert (read.overrides, read.tasks, read.pages) == ((), (), ())
    assert read.runs == {"plain": (), "vtw": ("method=vtw",)}


@pytest.mark.parametrize(
    "tasks", ["exist,read", "[exist, read]", "'exist, read'", "\n  - exist\n  - read", "exist,read,"]
)
def test_tasks_are_a_text_or_a_list(tmp_path, tasks):
    assert read_params(written(tmp_path, tasks=tasks)).tasks == ("exist", "read")


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        ("\"model.checkpoint='/data/my models/x' limit=3\"", ("model.checkpoint='/data/my models/x'", "limit=3")),
        ("[\"model.checkpoint='/data/my models/x'\", limit=3]", ("model.checkpoint='/data/my models/x'", "limit=3")),
        ("'task.suffix=\"Yes, or  no?\"'", ('task.suffix="Yes, or  no?"',)),
        ("sweep.keep=[0.5, 0.2]  limit=3", ("sweep.keep=[0.5, 0.2]", "limit=3")),
        ("'method=par sweep.points=[{}, {merge: mean}]'", ("method=par", "sweep.points=[{}, {merge: mean}]")),
    ],
)
def test_a_value_may_hold_blanks(tmp_path, overrides, lines):
    assert read_params(written(tmp_path, overrides=overrides)).overrides == lines
    runs = {"runs": f"\n  a: {overrides}"}
    assert read_params(written(tmp_path, **runs)).runs == {"a": lines}


@pytest.mark.parametrize("name", ["on", "yes", "No", "'2024'", '"1e3"', "'true'", "trsm-20", "a.b", "_x", "7b", "1x"])
def test_a_name_is_what_is_written(tmp_path, name):
    assert list(read_params(written(tmp_path, runs=f"\n  {name}: method=vtw")).runs) == [name.strip("'\"")]


@pytest.mark.parametrize(
    "name", ["2024", "1e3", "1.5", "007", "0x10", "1_000", "true", "False", "null", "~", "2024-01-01"]
)
def test_a_name_that_yaml_reads_as_something_else_is_to_be_quoted(tmp_path, name):
    """DVC would leave the run out without a word."""
    assert "line 5: the name" in refusal(written(tmp_path, runs=f"\n  {name}: method=vtw"))
    assert "put it in quotes" in refusal(written(tmp_path, runs=f"\n  {name}: method=vtw"))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"runs": ""}, "runs in params.yaml are lines"),
        ({"runs": "[a, b]"}, "runs in params.yaml are lines"),
        ({"runs": "method=vtw"}, "runs in params.yaml are lines"),
        ({"runs": "\n  a: {method: vtw}"}, "run a in params.yaml must be a text or a list of overrides"),
        ({"runs": "\n  a: [[method=vtw]]"}, "run a in params.yaml must be a text or a list of overrides"),
        ({"runs": "\n  a/b: method=vtw"}, "the name of a run in params.yaml is made of letters"),
        ({"runs": "\n  ../x: method=vtw"}, "the name of a run in params.yaml is made of letters"),
        ({"runs": "\n  'a b': method=vtw"}, "the name of a run in params.yaml is made of letters"),
        ({"runs": "\n  a: method=vtw\n  a: method=par"}, "line 6: the key a is there twice"),
        ({"runs": "\n\ta: method=vtw"}, "line 5 is not YAML"),
        ({"runs": '\n  a: "task.suffix=\'x"'}, "run a in params.yaml: the overrides 'task.suffix='x' lack a closing '"),
        ({"overrides": "{limit: 3}"}, "overrides in params.yaml must be a text or a list"),
        ({"preset": ""}, "preset in params.yaml is the name of a file"),
        ({"preset": "[a]"}, "preset in params.yaml is the name of a file"),
        ({"preset": None}, "lacks the key preset"),
        ({"pages": "{a: b}"}, "pages in params.yaml must be a text or a list"),
        ({"pages": "[../x]"}, "the name of a page in params.yaml"),
        ({"taks": "exist"}, "unknown key of params.yaml 'taks': did you mean tasks?"),
        ({"preset\npreset": "x"}, "is not YAML"),
        ({"tasks": "[a"}, "is not YAML"),
        ({"tasks": "a: b"}, "is not YAML"),
        ({"tasks": "*x"}, "is not YAML"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, changed, sentence):
    assert sentence in refusal(written(tmp_path, **changed))


def test_a_file_that_is_none(tmp_path):
    assert "no params.yaml" in refusal(tmp_path / "params.yaml")
    for text in ("", "- a\n- b", "just words", "3"):
        (tmp_path / "params.yaml").write_text(text)
        assert "no list of keys with values" in refusal(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("preset: smoke\npreset: full\n")
    assert "line 2: the key preset is there twice" in refusal(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"preset: \xe9")
    assert "cannot be read as UTF-8" in refusal(tmp_path / "params.yaml")


def test_a_byte_order_mark_and_windows_lines_change_nothing(tmp_path):
    plain = read_params(written(tmp_path))
    assert read_params(written(tmp_path, encoding="utf-8-sig")) == plain
    (tmp_path / "params.yaml").write_bytes(written(tmp_path).read_bytes().replace(b"\n", b"\r\n"))
    assert read_params(tmp_path / "params.yaml") == plain


@given(st.text(max_size=40), st.sampled_from(list(PLAIN)))
@settings(max_examples=150, deadline=None)
def test_whatever_stands_there_is_params_or_one_sentence(tmp_path_factory, text, key):
    path = written(tmp_path_factory.mktemp("p"), "utf-8", **{key: text})
    try:
        assert isinstance(read_params(path), Params)
    except UserError as error:
        assert "params.yaml" in str(error)  # noqa: PT017


def test_a_run_that_does_not_compose_is_named(tmp_path):
    values = {"preset": "smoke", "overrides": None, "tasks": ["exist"], "runs": {"a": "method=vtww"}, "pages": []}
    with pytest.raises(UserError, match=r"run a in params.yaml: unknown method 'vtww': did you mean vtw"):
        write_plan(values, tmp_path)
    assert not list(tmp_path.iterdir())
    write_plan(values | {"runs": {"a": None, "b": "model.checkpoint='/data/my models/x'"}}, tmp_path)
    assert "checkpoint: /data/my models/x" in (tmp_path / "configs" / "b.yaml").read_text()
    assert "run: a\n" in (tmp_path / "configs" / "a.yaml").read_text()
    for names in ({2024: None}, {True: None}, {1e3: None}):
        with pytest.raises(UserError, match="name of a run"):
            write_plan(values | {"runs": names}, tmp_path)


def test_the_command_reads_the_file_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr("thinsight.pipeline.plan.ROOT", tmp_path)
    with pytest.raises(UserError, match=r"no params.yaml"):
        main([])
