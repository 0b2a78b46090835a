"""Copies of a warm process do what a fresh Python would, with the caller's streams, folder, environment, signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import read, write
from nbformat.v4 import new_code_cell, new_notebook

from thinsight.pipeline.warm import warm_python

PROGRAM = """
import os, sys, time
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], "fractions" in sys.modules, flush=True)
print("aside", file=sys.stderr)
if sys.argv[1:] == ["wait"]:
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def warm():
    """Started with SIGINT as in a terminal: what a shell puts behind ``&`` ignores it, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with warm_python(["fractions", "ipykernel.kernelapp"]) as environment:
        yield environment
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def program(warm, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "here").mkdir()
    paths = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    environment = warm | {"PYTHONPATH": paths, "WORD": "héllo"}

    def start(*arguments, **more):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(["python", *arguments], cwd=tmp_path / "here", env=environment | more, **pipes)

    return start


@pytest.mark.parametrize("status", [0, 3])
def test_a_copy_is_the_process_that_was_asked_for(program, tmp_path, status):
    process = program("-m", "program", str(status))
    out, errors = process.communicate(timeout=60)
    assert out == f"[{str(status)!r}] {tmp_path / 'here'} héllo True\n"
    assert (errors, process.returncode) == ("aside\n", status)


def test_without_a_server_the_process_starts_anew(program, tmp_path):
    process = program("-m", "program", "4", THINSIGHT_WARM=str(tmp_path / "nobody"))
    out, _ = process.communicate(timeout=60)
    assert out.endswith("False\n")
    assert process.returncode == 4
    out, _ = program("-c", "print(6 * 7)").communicate(timeout=60)
    assert out == "42\n"


def test_a_traceback_goes_to_stderr(program):
    process = program("-m", "program", "no number")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("ValueError: invalid literal for int()")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_copy_gets_signals_and_ends_with_its_client(program, number):
    process = program("-m", "program", "wait")
    process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)  # the copy holds the pipes: that they close is its end
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


def test_a_notebook_runs_in_a_warm_kernel(warm, tmp_path):
    source, out = tmp_path / "source.ipynb", tmp_path / "out.ipynb"
    write(new_notebook(cells=[new_code_cell("import sys\n'fractions' in sys.modules")]), source)
    command = [sys.executable, "-m", "thinsight.pipeline.notebook", str(source), str(out)]
    done = subprocess.run(command, env=warm, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read(out, as_version=4).cells[0].outputs[0].data["text/plain"] == "True"


def test_nothing_is_left_running():
    with warm_python([]) as environment:
        socket = Path(environment["THINSIGHT_WARM"])
        assert socket.exists()
    assert not socket.parent.exists()
