"""What a user did wrong, in one sentence, without a traceback."""

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk, a quota or a file that is full."""


class UserError(Exception):
    """Bad input. Its text is one clear sentence; a command line prints it and exits with status 2."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # a name in it may hold a line break


def nearest(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown ``name``: at most three valid names about as close as the closest, or all if none is.

    A name without a dot may mean the last part of a dotted one. Of many dotted names only the others are listed.
    """
    known = sorted(known)
    closeness = {valid: _closeness(str(name), valid) for valid in known}
    least = max(0.5, max(closeness.values(), default=0) - 0.1)
    close = sorted((valid for valid in known if closeness[valid] >= least), key=closeness.get, reverse=True)[:3]
    listed = [valid for valid in known if "." not in valid] or known
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(listed)}."
    return UserError(f"unknown {what} '{name}': {hint}")


def _closeness(name: str, valid: str) -> float:
    """From 0 to 1, where the two are equal."""
    texts = [valid] if "." in name else [valid, valid.rpartition(".")[2]]
    return max(difflib.SequenceMatcher(None, text, name).ratio() for text in texts)


def check_utf8(text: str) -> None:
    """Refuse an argument of a command line that was no UTF-8: Python puts surrogates for its bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"'{text.encode(errors='backslashreplace').decode()}' is not UTF-8") from error


def check_tree() -> None:
    """Refuse to run in another Thinsight tree than that of this package, whose files would be read and written."""
    package = Path(__file__).resolve().parent
    with suppress(OSError):  # a working directory that is gone lies in no tree
        for folder in (here := Path.cwd(), *here.parents):
            source = folder / "src" / package.name
            if source.is_dir() and (folder / "conf").is_dir() and (folder / "dvc.yaml").is_file():
                if source.resolve() == package:
                    return
                raise UserError(
                    f"this command would work on {package.parents[1]}, but it runs in {folder}: set PYTHONPATH=src in "
                    "its root, or run `make setup` there and use its .venv"
                )


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """What goes wrong with writing ``path``, a full disk above all, as a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error


def about(doc: str | None) -> str:
    """What a command's docstring says behind its name; nothing where Python runs without docstrings (-OO)."""
    return (doc or "").partition(": ")[2]


def command(main: Callable[[list[str]], None]) -> None:
    """Run ``main`` on the command line's arguments; a `UserError` becomes one line on stderr and exit status 2.

    So does a file or an output that cannot be written for want of space. A reader of the output that is gone
    (``| head``) ends the program without a word, with the status that a shell gives to a broken pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream without an encoding, as in a notebook or a test
            stream.reconfigure(errors="backslashreplace")  # a console may lack a sign
    try:
        try:
            check_tree()
            main(sys.argv[1:])
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except UserError as error:
        sentence, status = str(error), 2
    except BrokenPipeError:
        sentence, status = "", 128 + 13
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        sentence, status = f"{error.filename or 'the output'} cannot be written ({error.strerror}).", 2
    else:
        return
    _drop_output()
    if sentence:
        print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


def _drop_output() -> None:
    """Python flushes stdout once more as it ends, and would complain again of what cannot be written."""
    with suppress(AttributeError, OSError, ValueError):  # a stdout without a file, as in a notebook or a test
        sys.stdout.flush()
        return
    with suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
