"""One configuration everywhere, and one sentence for whatever is wrong with it."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import thinsight
from thinsight import load_method
from thinsight.config.__main__ import main
from thinsight.config.compose import load_config, load_task, split_overrides, to_yaml
from thinsight.config.methods import read_method
from thinsight.config.schema import names
from thinsight.errors import UserError
from thinsight.evaluation.budget import Budget
from thinsight.evaluation.sweep import sweep_points
from thinsight.paths import ROOT


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=identiy"], "unknown method 'identiy': did you mean identity"),
        (["modle=pocket"], "unknown config key 'modle': did you mean model"),
        (["method=vtw", "method.lyer=3"], "unknown config key 'method.lyer': did you mean method.layer"),
        (
            ["method=identity", "method.layer=3"],
            "unknown config key 'method.layer'",
        ),  # no key stays from another method
        (["sed=1"], "unknown config key 'sed': did you mean seed"),
        (["limit=abc"], "cannot set limit=abc: Value 'abc' of type 'str'"),
        (["limit=0"], "limit must be at least 1, not 0"),
        (["batch_size=-1"], "batch_size must be at least 1, not -1"),
        (["tasks=[exit]"], "unknown task 'exit': did you mean exist"),
        (["method=vtw,random"], "names several values"),
        (["limit"], "cannot read the override 'limit'"),
        (["+limit=3"], "adds a key, and the schema is fixed: write limit=3"),
        (["~task"], "removes a key"),
        (["hydra.run.dir=x"], "unknown config key 'hydra.run.dir'"),
        (["limit=${nothing}"], "does not resolve: Interpolation key 'nothing' not found"),
        (["method=vtw", "sweep=layer"], "unknown sweep 'layer': did you mean layers"),
        (["method=vtw", "sweep.lyer=[1]"], "unknown field to sweep in method vtw 'lyer': did you mean layer"),
        (["method=vtw", "sweep.layer=3"], "cannot set sweep.layer=3"),
        (["method=vtw", "sweep.layer=[]"], "sweep.layer is empty"),
        (["sweep=layers"], "method identity has no field to sweep"),
        (["method=vtw", "method.reductions=3"], "needs a list of reductions"),
        (["seed=18446744073709551616"], "seed must be at most 18446744073709551615, not 18446744073709551616"),
        (["seed=-1"], "seed must be at least 0, not -1"),
        (["text_tokens=99999999999999999999"], "text_tokens must be at most 1048576"),
        (["batch_size=99999999999999999999"], "batch_size must be at most"),
        (["task.max_new_tokens=0"], "task.max_new_tokens must be at least 1, not 0"),
        (["task.max_new_tokens=-3"], "task.max_new_tokens must be at least 1, not -3"),
        (["task.rows=-3"], "task.rows must be at least 0"),
        (["task.gigabytes=nan"], "task.gigabytes must be at least 0, not nan"),
        (["tasks=[exist,read,exist]"], "tasks names exist twice"),
        (["tasks=[exist]", "task=count"], "task=count changes nothing beside tasks=[exist]: leave one of the two out"),
        (["tasks=[exist,read]", "task.path=x"], "task.path holds for one task, and tasks=[exist,read] names 2"),
        (["tasks=[exist]", "overridden=[sufix]"], "unknown field of a task 'sufix': did you mean suffix"),
        (["task.suffix=\udce9"], "'task.suffix=\\udce9' is not UTF-8"),
    ],
)
def test_bad_override_is_one_sentence(overrides, sentence):
    refused(overrides, sentence)


@pytest.mark.parametrize("group", ["model", "task", "preset"])  # methods: see test_a_method_is_read_as_it_is_composed
def test_every_file_in_conf_composes(group):
    assert names(group)
    for name in names(group):
        config = load_config([f"{group}={name}"])
        assert group == "preset" or config[group].name == name


@pytest.mark.parametrize(
    ("group", "base", "line", "found"),
    [
        ("task", "exist", None, "the name exist"),
        ("method", "vtw", None, "the name vtw"),
        ("model", "pocket", None, "the name pocket"),
        ("task", "exist", "", "no name"),
        ("method", "vtw", "", "no name"),
    ],
)
def test_a_file_goes_by_its_name(tmp_path, monkeypatch, group, base, line, found):
    """Or the scores of a copy would stand under the name of what it was copied from."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for module in ("compose", "methods", "schema"):
        monkeypatch.setattr(f"thinsight.config.{module}.CONF", tmp_path / "conf")
    text = (ROOT / "conf" / group / f"{base}.yaml").read_text(encoding="utf-8")
    mine = tmp_path / "conf" / group / "mine.yaml"
    mine.write_text(text if line is None else text.replace(f"name: {base}\n", line), encoding="utf-8")
    sentence = f"conf/{group}/mine.yaml has {found}: it goes by that of its file, so write name: mine"
    refused([f"{group}=mine"], sentence)
    if group == "method":
        with pytest.raises(UserError, match=re.escape(sentence)):
            read_method("mine")
    mine.write_text(text.replace(f"name: {base}\n", "name: mine\n"), encoding="utf-8")
    assert load_config([f"{group}=mine"])[group].name == "mine"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read")
def test_a_file_in_conf_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "method" / "mine.yaml").symlink_to("/proc/self/mem")
    for module in ("compose", "methods", "schema"):
        monkeypatch.setattr(f"thinsight.config.{module}.CONF", tmp_path / "conf")
    refused(["method=mine"], "Input/output error")


def test_every_sweep_composes_with_a_method_that_has_its_fields():
    for name in names("sweep"):
        named = [method for method in names("method") if name.rpartition("/")[2].startswith(method)]
        swept = _first_that_takes(name, ["random", "grid", *named])
        assert (name == "none") == (not swept)


def _first_that_takes(sweep, methods):
    for method in methods:
        with contextlib.suppress(UserError):
            return load_config([f"sweep={sweep}", f"method={method}"]).sweep
    raise AssertionError(f"no method has the fields of the sweep {sweep}")


def test_points_of_a_sweep_are_variants_crossed_with_the_rest():
    wanted = ["method=par", "sweep.keep=[0.5,0.2]", "sweep.points=[{},{merge:mean}]"]
    assert [str(point.budget) for point in sweep_points(load_config(wanted))] == [
        *("keep=0.5", "keep=0.5,merge=mean", "keep=0.2", "keep=0.2,merge=mean"),
    ]
    instead = ["method=par", "sweep.keep=[0.5]", "sweep.points=[{},{keep:0.1}]"]
    assert [str(point.budget) for point in sweep_points(load_config(instead))] == ["keep=0.5", "keep=0.1"]
    with pytest.raises(UserError, match="a budget twice"):
        sweep_points(load_config(["method=par", "sweep.keep=[0.5,0.2]", "sweep.points=[{keep:0.1}]"]))
    (one,) = sweep_points(load_config(["method=par", "sweep.points=[{}]"]))
    assert str(one.budget) == "fixed"
    assert one.method == thinsight.load_method("par")
    assert sweep_points(load_config(["method=par", "sweep.points=[{merge:mean}]"]))[0].method.fields["merge"] == "mean"


@pytest.mark.parametrize(
    ("points", "sentence"),
    [("[]", "empty"), ("[3]", "in braces"), ("[{clusterz:none}]", "did you mean clusters"), ("[{},{}]", "twice")],
)
def test_wrong_points_are_refused(points, sentence):
    with pytest.raises(UserError, match=sentence):
        sweep_points(load_config(["method=par", f"sweep.points={points}"]))


def test_every_method_loads_and_names_its_fields():
    for name in names("method"):
        method = thinsight.load_method(name)
        assert method.name == name


def test_presets_win_over_defaults_and_lose_to_overrides():
    smoke, full = load_config(["preset=smoke"]), load_config(["preset=full"])
    assert full.limit is None
    assert smoke.limit < load_config().limit
    assert load_config(["preset=smoke", "limit=7"]).limit == 7


def test_works_from_any_folder_and_twice(tmp_path, monkeypatch):
    before = load_config(["method=vtw"])
    monkeypatch.chdir(tmp_path)
    assert load_config(["method=vtw"]) == before
    assert load_task("exist").name == "exist"


def test_resolved_file_gives_the_same_config_and_takes_overrides(tmp_path):
    config = load_config(["method=vtw", "sweep=layers", "tasks=[exist]"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    again = load_config(path=path)
    assert to_yaml(again) == to_yaml(config)
    assert again.sweep.layer == config.layers
    changed = load_config(["limit=5", "method.layer=3", "sweep.layer=[2]"], path=path)
    assert (changed.limit, changed.method.layer, changed.sweep.layer) == (5, 3, [2])
    assert thinsight.load_method(again.method, layer=4) == thinsight.load_method("vtw", layer=4)


def test_a_resolved_file_knows_what_overrides_set_of_a_task(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_config(["tasks=[exist,read]", "task.suffix=x"])))
    assert load_config(path=path).overridden == ["suffix"]
    assert load_config(["task.max_new_tokens=1"], path=path).overridden == ["max_new_tokens", "suffix"]
    with pytest.raises(UserError, match=r"task.split holds for one task"):
        load_config(["task.split=x"], path=path)
    assert "overridden" not in to_yaml(load_config(["tasks=[exist]"]))  # or what is resolved already would run again


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=random"], "cannot swap its method"),
        (["lmit=3"], "unknown config key 'lmit': did you mean limit"),
        (["limit=x"], "cannot set limit=x"),
    ],
)
def test_bad_override_of_a_resolved_file(tmp_path, overrides, sentence):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_config()))
    with pytest.raises(UserError, match=sentence):
        load_config(overrides, path=path)


@pytest.mark.parametrize("text", ["a: [1", "foo: 1", "- 1", "limit: 1", "limit: x"])
def test_a_file_that_is_no_config(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        load_config(path=path)
    with pytest.raises(UserError, match="no config at"):
        load_config(path=tmp_path / "none.yaml")


def test_resolved_text_is_deterministic_and_free_of_this_machine(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    main([str(first), "method=vtw", "preset=smoke"])
    main([str(second), "method=vtw", "preset=smoke"])
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path) not in first.read_text()
    assert str(ROOT) not in first.read_text()
    assert OmegaConf.load(first).method.reductions[0].site.layers == [OmegaConf.load(first).method.layer]


def test_a_resolved_file_leaves_out_what_only_describes():
    """So that a better sentence about a method runs no evaluation again."""
    config = load_config(["method=vtw"])
    assert config.method.deviations
    assert not {"deviations", "about", "paper", "source", "license", "notes"} & set(
        re.findall(r"\w+(?=:)", to_yaml(config))
    )


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ficoco_v", {"lambda": "abc"}),
        ("ficoco_v", {"window": 0}),
        ("ficoco_v", {"leave": 1.5}),
        ("ficoco_l", {"most": -1}),
        ("par", {"tau_r": "high"}),
        ("grid", {"keep": [1]}),
    ],
)
def test_values_of_the_wrong_kind_are_one_sentence(name, fields):
    with pytest.raises(UserError) as error:
        thinsight.load_method(name, **fields)
    assert "\n" not in str(error.value)


def test_unknown_method_or_field():
    with pytest.raises(UserError, match="unknown method 'identiy': did you mean identity"):
        thinsight.load_method("identiy")
    with pytest.raises(UserError, match="unknown field of method vtw 'lyer': did you mean layer"):
        thinsight.load_method("vtw", lyer=3)
    with pytest.raises(UserError, match="identity has no fields"):
        thinsight.load_method("identity", layer=3)


@pytest.mark.parametrize("name", names("method"))
def test_a_method_is_read_as_it_is_composed(name):
    composed = load_config([f"method={name}"]).method
    assert composed.name == name
    assert OmegaConf.to_container(read_method(name), resolve=False) == OmegaConf.to_container(composed, resolve=False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "mine.yaml cannot be read"),
        ("name: \xe9", "mine.yaml cannot be read"),
        ("name: a\nname: b", "mine.yaml cannot be read"),
        ("\tname: a", "mine.yaml cannot be read"),
        ("name: mine", "list of reductions"),
        ("- 1", "list of reductions"),
    ],
)
def test_a_file_that_is_no_method(tmp_path, monkeypatch, text, sentence):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(text, encoding="latin-1")
    for module in ("thinsight.config.methods", "thinsight.config.schema"):
        monkeypatch.setattr(f"{module}.CONF", tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        read_method("mine")
    assert "\n" not in str(error.value)


def test_a_field_that_changes_nothing_is_refused(tmp_path):
    whole = OmegaConf.create(OmegaConf.to_container(load_config(["method=vtw"]).method, resolve=False))
    whole.reductions[0].site.layers = [2]  # no longer points at the field
    with pytest.raises(UserError, match="layer=5 changes nothing"):
        thinsight.load_method(whole, layer=5)


def test_command_line_exits_with_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "thinsight.config", "out.yaml", "method=identiy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown method 'identiy': did you mean identity?\n"


def test_importing_thinsight_is_fast():
    code = "import sys, thinsight, thinsight.config; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(thinsight.__all__) <= set(dir(thinsight))


@pytest.mark.parametrize("text", ["a: [", "name: \xe9", "name: a\nname: b", "\tname: a", "- 1", "namee: a", "limit: x"])
def test_a_broken_file_in_conf_is_one_sentence(tmp_path, monkeypatch, text):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "task" / "mine.yaml").write_text(text, encoding="latin-1")
    for module in ("thinsight.config.compose", "thinsight.config.schema"):
        monkeypatch.setattr(f"{module}.CONF", tmp_path / "conf")
    with pytest.raises(UserError):
        load_config(["task=mine"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("task.suffix=Yes, or no", '"Yes, or no"'),
        ("task.suffix=a,b", '"a,b"'),
        ("task.suffix=a=b", '"a=b"'),
        ("model.checkpoint=/data/x=1/y", '"/data/x=1/y"'),
        ("model.checkpoint=/data/(x)", '"/data/(x)"'),
        ("model.checkpoint=[x", '"[x"'),
        ("task.suffix=it's", '"it\'s"'),
        ('task.suffix=a"b', r'"a\"b"'),
    ],
)
def test_a_value_that_needs_quotes_is_told_so(override, value):
    """And what is told does what was meant."""
    key, _, wanted = override.partition("=")
    with pytest.raises(UserError) as caught:
        load_config([override])
    assert f"stands in quotes, {key}={value}, in a shell " in str(caught.value)
    assert OmegaConf.select(load_config([f"{key}={value}"]), key) == wanted
    shell = str(caught.value).partition(", in a shell ")[2]
    assert shlex.split(shell) == [f"{key}={value}"]


def test_overrides_may_be_one_text_in_which_quotes_and_brackets_hold_blanks():
    text = """  method=par sweep.keep=[0.5, 0.2]\tmodel.checkpoint='/data/my models/x'  task.suffix="it's  so" """
    lines = ["method=par", "sweep.keep=[0.5, 0.2]", "model.checkpoint='/data/my models/x'", 'task.suffix="it\'s  so"']
    assert split_overrides(text) == lines
    config = load_config(text)
    assert (config.model.checkpoint, config.task.suffix) == ("/data/my models/x", "it's  so")
    assert split_overrides(r"a='it\'s b' c=d\ e") == [r"a='it\'s b'", r"c=d\ e"]
    for torn in ("a='b c", 'a="b', "a=[1, 2", "a={b: (c}"):
        with pytest.raises(UserError, match="lack a closing"):
            split_overrides(torn)


@given(st.lists(st.text(st.characters(exclude_characters="'\"\\\\[](){}", exclude_categories=["Z", "C"]), min_size=1)))
@settings(max_examples=60, deadline=None)
def test_without_quotes_and_brackets_blanks_part_overrides(words):
    assert split_overrides("  ".join(words)) == words


def test_suggestions_are_few_and_near():
    for overrides, sentence in {
        ("methd=vtw",): "'methd': did you mean method?",
        ("method=vtw", "method.lyer=3"): "'method.lyer': did you mean method.layer?",
        ("method=vtw", "lyer=3"): "'lyer': did you mean method.layer or layers?",
        ("batchsize=3",): "'batchsize': did you mean batch_size?",
        ("chekpoint=/x",): "'chekpoint': did you mean model.checkpoint?",
        ("=3",): "cannot read the override '=3'",
        ("qqq=3",): "unknown config key 'qqq': known: batch_size, ",
    }.items():
        with pytest.raises(UserError) as caught:
            load_config(overrides)
        assert sentence in str(caught.value)
        assert len(str(caught.value)) < 250


PROGRAM = """
import os
import sys
from threading import Thread
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.version import getbase
from omegaconf import OmegaConf
import thinsight
from thinsight.models.loading import model_config
ConfigStore.instance().store(name="schema", node={"mine": 1})
ConfigStore.instance().store(name="config", node={"mine": 1})
ConfigStore.instance().store(name="pocket", group="model", node={"mine": 1})
CONFIG = OmegaConf.to_yaml(thinsight.load_config(["method=vtw"]))

def use():
    assert thinsight.load_method("vtw", layer=3).fields["layer"] == 3
    assert OmegaConf.to_yaml(thinsight.load_config(["method=vtw"])) == CONFIG
    assert model_config("pocket").name == "pocket"
    try:
        thinsight.load_config(["method=vtw", "method.lyer=3"])
    except thinsight.errors.UserError as error:
        assert "did you mean method.layer?" in str(error)

def check():
    before = GlobalHydra.instance().hydra, getbase(), set(Singleton._instances)
    store = repr(ConfigStore.instance().repo)
    use()
    failed = []
    def tried():
        try:
            use()
        except BaseException as error:
            failed.append(error)
    threads = [Thread(target=tried) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not failed, failed
    assert (GlobalHydra.instance().hydra, getbase(), set(Singleton._instances)) == before
    assert repr(ConfigStore.instance().repo) == store
"""

WAYS = """

def alone():
    check()
    assert not GlobalHydra.instance().is_initialized()

@hydra.main(config_path=None, version_base="1.1")
def job(cfg):
    check()
    assert hydra.core.hydra_config.HydraConfig.get().job.name

def initialize():
    with hydra.initialize_config_dir(os.getcwd(), version_base=None):
        check()
        assert hydra.compose("theirs") == {"a": 1}
    hydra.initialize_config_dir(os.getcwd(), version_base="1.2")
    check()
    assert hydra.compose("theirs", ["a=2"]) == {"a": 2}

for way in (alone, job, initialize):
    child = os.fork()
    if child == 0:
        way()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, way
"""
"""Three ways, each in a process of its own that finds the imports done."""


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_program_that_uses_hydra_itself_finds_it_as_it_was(tmp_path):
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    (tmp_path / "program.py").write_text(PROGRAM + WAYS)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numbers_of_numpy_and_torch_are_numbers():
    for whole in (np.int64(2), torch.tensor(2), np.array(2)):
        assert load_method("vtw", layer=whole) == load_method("vtw", layer=2)
    for part in (np.float64(0.5), np.float32(0.5), torch.tensor(0.5)):
        assert load_method("random", keep=part) == load_method("random", keep=0.5)
    with pytest.raises(UserError, match="keep"):
        load_method("random", keep=object())


@pytest.mark.parametrize("value", [1e-05, 0.5, 1, 0, True, None, "off", "1e-05 or so", "none", [1, 2], ["a"]])
def test_a_budget_is_read_back_from_its_label(value):
    budget = Budget.of({"keep": value, "seed": 3})
    assert Budget.parse(str(budget)) == budget
