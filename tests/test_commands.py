"""The command line: ``thinsight COMMAND`` and ``python -m thinsight.COMMAND`` are one, wrong words are one sentence."""

import errno
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from thinsight.__main__ import COMMANDS, dispatch
from thinsight.errors import UserError, command
from thinsight.paths import ROOT


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


def shell(line, **more):
    """Status, stdout and stderr of a shell's line in which ``thinsight`` is the command."""
    line = line.replace("thinsight ", f"{sys.executable} -m thinsight ")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, **more)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", ["cost model=pocket method=vtw text_tokens=8", "--help"])
def test_a_reader_that_is_gone_is_no_error(arguments):
    """The command ends without a word, with the status of a broken pipe, as the tools of a shell do."""
    line = f"set -o pipefail; (sleep 0.5; thinsight {arguments}; echo status $? >&2) | true"
    _, _, text = shell(line)
    assert text in ("status 141\n", "status 0\n")  # argparse itself says nothing of a help that it could not write


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_an_output_that_is_full_is_one_sentence():
    status, _, text = shell("thinsight --help > /dev/full")
    assert (status, text) == (2, "error: the output cannot be written (No space left on device).\n")


def test_a_full_disk_anywhere_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full(arguments):
        print("before")
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))

    monkeypatch.setattr(sys, "argv", ["thinsight"])
    with pytest.raises(SystemExit) as stop:
        command(full)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("before\n", f"error: {tmp_path}/file cannot be written (No space left on device).\n")
    with pytest.raises(FileNotFoundError):  # other errors of files are the program's
        command(lambda arguments: (tmp_path / "none").read_text())


def test_a_sentence_stays_one_line_whatever_name_it_holds():
    assert str(UserError("no file a\nb\r\nc")) == "no file a b c"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_console_that_lacks_a_sign_is_no_error(encoding):
    code = "from thinsight.errors import command; command(lambda _: print('1 \\u2192 2 \\u00e9'))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"1 \\u2192 2 ")


@pytest.fixture
def other_tree(tmp_path):
    """A folder below another tree, as far as a tree is known by."""
    for folder in ("src/thinsight", "conf/task"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dvc.yaml").touch()
    return tmp_path


@pytest.mark.parametrize("folder", [".", "conf/task"])
@pytest.mark.parametrize("arguments", [["cost", "method=vtw"], ["--help"]])
def test_a_command_refuses_to_work_on_one_tree_from_another(other_tree, monkeypatch, capsys, folder, arguments):
    monkeypatch.chdir(other_tree / folder)
    status, text = refused(arguments, capsys, monkeypatch)
    assert status == 2
    assert text.startswith(f"error: this command would work on {ROOT}, but it runs in {other_tree}: set PYTHONPATH=src")


@pytest.mark.parametrize("left_out", ["dvc.yaml", "conf", "src/thinsight"])
def test_a_folder_that_is_no_tree_and_the_own_tree_are_no_error(other_tree, monkeypatch, left_out):
    (other_tree / left_out).rename(other_tree / "elsewhere")
    monkeypatch.setattr(sys, "argv", ["thinsight"])
    for folder in (other_tree, ROOT, ROOT / "conf"):
        monkeypatch.chdir(folder)
        command(lambda arguments: None)


def test_a_python_without_docstrings_has_help():
    line = [sys.executable, "-OO", "-m", "thinsight.cost", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
