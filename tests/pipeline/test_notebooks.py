"""The notebooks in git are clean sources, and the runner takes nothing on trust."""

import ast
import errno
from pathlib import Path

import nbformat
import pytest
from helpers.workspace import write_notebook

from thinsight.errors import UserError
from thinsight.paths import ROOT
from thinsight.pipeline.notebook import (
    check_parameters_read,
    convert_parameters,
    declared_parameters,
    load_notebook,
    main,
    run_notebook,
    syntax,
)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return load_notebook(request.param)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    found = {path.stem for path in NOTEBOOKS}
    assert {"evaluate", "quickstart", "vtw", "methods", "new_method", "explore"} <= found


def test_no_outputs_and_no_traces_of_a_run(notebook):
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "thinsight"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook.metadata.language_info == {"name": "python"}


def test_parameters_are_declared_and_read(notebook):
    assert declared_parameters(notebook)
    check_parameters_read(notebook)


def test_at_most_fourteen_code_cells_and_no_definitions(notebook):
    assert len(code(notebook)) <= 14
    for cell in code(notebook):
        for node in ast.walk(syntax(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), cell.source


def test_it_begins_with_its_title(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def source(tmp_path, parameters, *cells):
    path = tmp_path / "source.ipynb"
    write_notebook(path, *cells, parameters=parameters)
    return path


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("x: int | None = None", "union type"),
        ("x: Optional[int] = None", "union type"),
        ("x = dict(a=1)", "not a plain literal"),
        ("x = 1; y = 2", "a line of its own"),
        ("x = [\n 1]", "a line of its own"),
        ("x = 1\nx = 2", "write each parameter once"),
        ("x = y = 1", "a parameter is one line"),
        ("import os", "a parameter is one line"),
        ("x: int", "a parameter is one line"),
    ],
)
def test_the_parameters_cell_holds_one_plain_literal_a_line(tmp_path, parameters, sentence):
    with pytest.raises(UserError, match=sentence):
        declared_parameters(load_notebook(source(tmp_path, parameters, "x, y")))


def test_the_last_word_on_what_is_declared(tmp_path):
    path = source(
        tmp_path, 'a: str = ""  # help\nb: float = 0.5\nc: list = [1, 2]\nd = -3\ne: bool = True', "a, b, c, d, e"
    )
    assert declared_parameters(load_notebook(path)) == {"a": "", "b": 0.5, "c": [1, 2], "d": -3, "e": True}


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("print(x)", True),
        ("f'{x}'", True),
        ("%time print(x)", True),
        ("x = x + 1", True),
        ("x += 1", True),
        ("x = 2\nprint(x)", False),
        ("'x'", False),
        ("other.x", False),
    ],
)
def test_a_parameter_that_nothing_reads_is_refused(tmp_path, cell, read):
    notebook = load_notebook(source(tmp_path, "x = 1", cell))
    if read:
        check_parameters_read(notebook)
    else:
        with pytest.raises(UserError, match="nothing in the notebook reads its parameter 'x'"):
            check_parameters_read(notebook)


def test_given_values_take_the_declared_type(tmp_path):
    notebook = load_notebook(source(tmp_path, 'name = "a"\nlayers = [1]\nrate = 0.5\nfast = False\ncount = 3', "1"))
    given = {"name": "12", "layers": "[4, 8]", "rate": "1", "fast": "true", "count": "7"}
    values = convert_parameters(notebook, given)
    assert values == {"name": "12", "layers": [4, 8], "rate": 1, "fast": True, "count": 7}
    assert isinstance(values["rate"], float)  # keep=1 of a fraction is all tokens, not one
    for name, text in {"count": "many", "rate": "fast", "fast": "1", "layers": "3"}.items():
        with pytest.raises(UserError, match=f"parameter '{name}' is a"):
            convert_parameters(notebook, {name: text})
    with pytest.raises(UserError, match="unknown parameter 'cuont': did you mean count"):
        convert_parameters(notebook, {"cuont": "1"})


def test_a_run_leaves_one_notebook_and_equal_runs_equal_bytes(tmp_path):
    path = source(tmp_path, "x = 1", "import sys\nprint('x is', x)\nprint('noise', file=sys.stderr)")
    first, second = tmp_path / "out" / "a.ipynb", tmp_path / "out" / "b.ipynb"
    for out in (first, second):
        main([str(path), str(out), "-p", "x=5"])
    assert sorted(file.name for file in first.parent.iterdir()) == ["a.ipynb", "b.ipynb"]
    assert first.read_bytes() == second.read_bytes()
    assert [output.text for cell in code(load_notebook(first)) for output in cell.outputs] == ["x is 5\n"]


def test_widgets_and_their_state_are_not_kept(tmp_path):
    """They are names of what lived in the kernel, other ones in every run."""
    path = source(tmp_path, "x = 1", "import ipywidgets\nipywidgets.IntSlider(x)", "print(x)")
    for name in ("a", "b"):
        main([str(path), str(tmp_path / f"{name}.ipynb")])
    assert (tmp_path / "a.ipynb").read_bytes() == (tmp_path / "b.ipynb").read_bytes()
    notebook = load_notebook(tmp_path / "a.ipynb")
    assert "widgets" not in notebook.metadata
    assert [output.text for cell in code(notebook) for output in cell.outputs] == ["1\n"]


def test_a_failing_cell_leaves_nothing_that_looks_like_a_result(tmp_path, capsys):
    path, out = source(tmp_path, "x = 1", "print('before')", "1 / (x - 1)"), tmp_path / "out.ipynb"
    out.write_text("of an earlier run")
    with pytest.raises(SystemExit) as caught:
        run_notebook(path, out, {})
    assert caught.value.code == 1
    assert not out.exists()
    assert "ZeroDivisionError" in capsys.readouterr().err
    kept = nbformat.read(tmp_path / "out.failed.ipynb", as_version=4)
    assert any(output.output_type == "error" for cell in code(kept) for output in cell.outputs)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.failed.ipynb", "source.ipynb"]
    main([str(path), str(out), "-p", "x=2"])
    assert not (tmp_path / "out.failed.ipynb").exists()


ENDS = {
    "import sys; sys.exit(0)": "ended by the cell 'import sys; sys.exit(0)'",
    "raise SystemExit": "ended by the cell 'raise SystemExit'",
    "import sys; sys.exit(3)": "failed with SystemExit: 3",
    "exit()": "ended by the cell 'exit()'",
    "quit()": "ended by the cell 'quit()'",
    "quit(keep_kernel=True)": "ended by the cell 'quit(keep_kernel=True)'",
    "import os; os._exit(0)": "died",
}


@pytest.mark.parametrize("cell", ENDS)
@pytest.mark.parametrize("below", [["print('below')"], []], ids=["between", "last"])
def test_a_cell_that_ends_the_notebook_is_a_failure(tmp_path, capsys, cell, below):
    path, out = source(tmp_path, "x = 1", "print(x)", cell, *below), tmp_path / "out.ipynb"
    out.write_text("of an earlier run")
    with pytest.raises(SystemExit) as caught:
        run_notebook(path, out, {})
    assert caught.value.code == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.failed.ipynb", "source.ipynb"]
    assert ENDS[cell] in capsys.readouterr().err


def test_a_cell_that_never_ran_is_a_failure(tmp_path, capsys):
    path = source(tmp_path, "x = 1", "print(x)", "print('left out')", "", "# a remark")
    notebook = load_notebook(path)
    notebook.cells[3].metadata.tags = ["skip-execution"]
    nbformat.write(notebook, path)
    with pytest.raises(SystemExit) as caught:
        run_notebook(path, tmp_path / "out.ipynb", {})
    assert caught.value.code == 1
    assert "the cell 'print('left out')' did not run" in capsys.readouterr().err
    assert not (tmp_path / "out.ipynb").exists()


def test_a_full_disk_is_one_sentence_and_leaves_no_output(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("thinsight.pipeline.notebook.write", full)
    with pytest.raises(UserError, match=r"out.ipynb cannot be written \(No space left on device\)"):
        run_notebook(source(tmp_path, "x = 1", "x"), tmp_path / "out.ipynb", {})
    assert [file.name for file in tmp_path.iterdir()] == ["source.ipynb"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", '{"nbformat": 4}', '{"nbformat": 5}', '{"nbformat": 4, "cells": 3}', "\ufeff{}"]
    + [
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [' + cell + "]}"
        for cell in ("{}", "3", '{"cell_type": "code", "source": null, "metadata": {}, "outputs": []}')
    ],
)
def test_a_file_that_is_no_notebook_is_one_sentence(tmp_path, text):
    (tmp_path / "bad.ipynb").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"bad.ipynb is not a notebook"):
        load_notebook(tmp_path / "bad.ipynb")


@pytest.mark.parametrize(
    ("arguments", "sentence"), [(["-p", "y=1"], "unknown parameter 'y'"), (["-p", "x=a"], "parameter 'x' is a int")]
)
def test_bad_parameters_stop_it_before_anything_runs(tmp_path, arguments, sentence):
    path, out = source(tmp_path, "x = 1", "x"), tmp_path / "out.ipynb"
    out.write_text("of an earlier run")
    with pytest.raises(UserError, match=sentence):
        main([str(path), str(out), *arguments])
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["-p", "x"], ["-p", "x=1", "-p", "x=2"]])
def test_a_command_line_that_cannot_be_read(tmp_path, arguments):
    with pytest.raises(UserError, match="once for each name"):
        main([str(source(tmp_path, "x = 1", "x")), str(tmp_path / "out.ipynb"), *arguments])


def test_what_is_no_notebook(tmp_path):
    bad = tmp_path / "bad.ipynb"
    bad.write_text("no notebook")
    for path, sentence in ((tmp_path / "none.ipynb", "no notebook at"), (bad, "is not a notebook")):
        with pytest.raises(UserError, match=sentence):
            run_notebook(path, tmp_path / "out.ipynb", {})
    with pytest.raises(UserError, match="cannot replace its source"):
        run_notebook(source(tmp_path, "x = 1", "x"), tmp_path / "source.ipynb", {})


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("", r"^\. is a folder: name the file"),
        (".", r"^\. is a folder: name the file"),
        ("folder", "^folder is a folder: name the file"),
        ("source.ipynb/y.ipynb", r"^source.ipynb/y.ipynb cannot be written \(Not a directory\)"),
        ("a" * 300, r"cannot be written \(File name too long\)"),
        ("/proc/x.ipynb", r"^/proc/x.ipynb cannot be written \(No such file or directory\)"),
    ],
)
def test_a_place_that_takes_no_notebook_is_one_sentence(tmp_path, monkeypatch, out, sentence):
    if out.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("needs a folder that takes no files")
    path = source(tmp_path, "x = 1", "x")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        main([str(path), out])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "source.ipynb"]


def test_a_value_that_is_no_utf_8_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"'x=\\udce9' is not UTF-8"):
        main([str(source(tmp_path, "x = ''", "x")), str(tmp_path / "out.ipynb"), "-p", "x=\udce9"])
