"""The command line: ``thinsight COMMAND`` and ``python -m thinsight.COMMAND`` are one, wrong words are one sentence."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from thinsight.__main__ import COMMANDS, dispatch
from thinsight.errors import UserError, command


def refused(arguments, capsys, monkeypatch):
    """The exit status and what stands on stderr."""
    monkeypatch.setattr(sys, "argv", ["thinsight", *arguments])
    with pytest.raises(SystemExit) as stop:
        command(dispatch)
    printed = capsys.readouterr()
    assert printed.out == ""
    return stop.value.code, printed.err


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command_with_an_example(arguments, capsys):
    dispatch(arguments)
    text = capsys.readouterr().out
    for name, (module, about, example) in COMMANDS.items():
        assert f"  {name} " in text
        assert about in text
        assert example.startswith(f"thinsight {name} ")
        assert example in text
        assert callable(import_module(module).main)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        dispatch([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m thinsight.{name}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evalute"], "unknown command 'evalute': did you mean evaluate?"),
        (["evaluate", "method=identiy"], "unknown method 'identiy': did you mean identity?"),
        (["evaluate", "task.metric=exakt"], "unknown metric of task easyvqa 'exakt': did you mean exact?"),
        (["cost", "modle=pocket"], "unknown config key 'modle': did you mean model or models?"),
        (
            ["solve", "method=random", "kept=many"],
            "a budget is a number: a count (192) or a fraction (0.3333), not 'many'",
        ),
    ],
)
def test_a_wrong_word_is_one_sentence_and_status_2(arguments, sentence, capsys, monkeypatch):
    status, text = refused(arguments, capsys, monkeypatch)
    assert status == 2
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert text.removeprefix("error: ").split("?")[0].split(" or ")[0] in sentence


def test_an_unknown_option_is_status_2(capsys, monkeypatch):
    status, text = refused(["evaluate", "--outt", "x"], capsys, monkeypatch)
    assert status == 2
    assert "unrecognized arguments: --outt" in text


def test_cost_runs_through_the_console_command(capsys):
    dispatch(["cost", "model=pocket", "method=vtw", "text_tokens=8"])
    assert json.loads(capsys.readouterr().out)


def test_the_installed_command_answers():
    script = Path(sys.executable).with_name("thinsight")
    line = [str(script)] if script.is_file() else [sys.executable, "-m", "thinsight"]
    done = subprocess.run([*line, "evalute"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command 'evalute': did you mean evaluate?\n"


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        raise ValueError("a bug")

    monkeypatch.setattr(sys, "argv", ["thinsight"])
    with pytest.raises(ValueError, match="a bug"):
        command(broken)
    with pytest.raises(UserError):
        dispatch(["nothing"])
