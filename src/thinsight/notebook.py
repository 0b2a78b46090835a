"""A strict runner of parameterized notebooks: ``python -m thinsight.notebook NOTEBOOK OUT -p name=value ...``.

Papermill executes; around it stand the rules that it leaves open. A parameter that the notebook does not declare, and a
declared one that nothing reads, are refused (exit 2). When a cell fails (exit 1) the failed notebook is kept as
``OUT's stem.failed.ipynb`` and OUT does not exist. What is written holds no times, so that equal runs give equal bytes.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from nbformat import NO_CONVERT, NotebookNode, read, write
from nbformat.reader import NotJSONError

from thinsight.errors import UserError, command
from thinsight.parameters import check_read, convert

WIDGET = "application/vnd.jupyter.widget-view+json"


def run(source: Path, out: Path, given: dict[str, str]) -> None:
    """Execute ``source`` into ``out``. Raises `UserError` for bad parameters, `SystemExit` (1) for a failing cell."""
    if source.resolve() == out.resolve():
        raise UserError(f"the executed notebook cannot replace its source {source}: name another file")
    failed, part = out.with_suffix(".failed.ipynb"), out.with_suffix(".part.ipynb")
    for stale in (out, failed):  # whatever goes wrong below, an earlier result does not stand for this run's
        stale.unlink(missing_ok=True)
    notebook = load(source)
    parameters = convert(notebook, given)
    check_read(notebook)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _execute(source, part, parameters, failed)
        executed = read(part, as_version=4)
        settle(executed)
        write(executed, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> NotebookNode:
    """The notebook in ``path``, in the present format."""
    if not path.is_file():
        raise UserError(f"no notebook at {path}")
    try:
        notebook = read(path, as_version=NO_CONVERT)
    except (NotJSONError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a notebook") from error
    if notebook.get("nbformat") != 4:
        raise UserError(f"{path} is in notebook format {notebook.get('nbformat')}; save it in format 4")
    return notebook


def settle(notebook: NotebookNode) -> None:
    """Take out, in place, what differs between equal runs: times, the runner's own notes, progress bars, random ids.

    Widgets go as well: without the kernel that they talked to they are names of things that are gone.
    """
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    for index, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = f"injected-parameters-{index}"
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in outputs if WIDGET not in output.get("data", {})]


def _execute(source: Path, part: Path, parameters: dict[str, Any], failed: Path) -> None:
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    logging.getLogger("papermill").setLevel(logging.ERROR)  # its own reading of parameters, which ours replaces
    try:
        execute_notebook(
            str(source),
            str(part),
            parameters,
            kernel_name="python3",
            language="python",
            extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings are about the loopback it talks over
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        part.replace(failed)
        print("\n".join(error.traceback), file=sys.stderr)
        print(f"error: {source} failed with {error.ename}: {error.evalue}", file=sys.stderr)
    except DeadKernelError:
        part.replace(failed)
        print(f"error: the kernel of {source} died, perhaps for want of memory", file=sys.stderr)
    else:
        return
    print(f"the notebook up to there is in {failed}", file=sys.stderr)
    raise SystemExit(1)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.notebook", description="Execute a notebook, strictly.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value")
    options = parser.parse_args(arguments)
    given = {}
    for text in options.parameters:
        name, equals, value = text.partition("=")
        if not equals or name in given:
            raise UserError(f"cannot read '-p {text}': write -p name=value, once for each name")
        given[name] = value
    run(options.notebook, options.out, given)


if __name__ == "__main__":
    command(main)
