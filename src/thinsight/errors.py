"""What a user did wrong, in one sentence, without a traceback."""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Bad input. Its text is one clear sentence; a command line prints it and exits with status 2."""


def nearest(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown ``name``, with the closest valid names, or all of them if none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."
    return UserError(f"unknown {what} '{name}': {hint}")


def command(main: Callable[[list[str]], None]) -> None:
    """Run ``main`` on the command line's arguments; a `UserError` becomes one line on stderr and exit status 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
