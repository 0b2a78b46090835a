"""Words of sentences that are made from data."""

from collections.abc import Iterable


def listed(things: Iterable[object]) -> str:
    """``a, b and c``."""
    words = [str(thing) for thing in things]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
