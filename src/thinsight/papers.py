"""How each printing document counts operations and tokens: ``conf/paper/*.yaml``, with where it is known from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from thinsight.config import CONF
from thinsight.conventions import CONVENTIONS
from thinsight.errors import UserError, nearest

TOKENS = ("every layer", "method", "layer mean")
READINGS = ("stated", "fitted", "unknown")


@dataclass(frozen=True)
class Counting:
    """One way of counting, and the lines that it is for (``table``, ``model``, ``row``: regular expressions).

    convention     one of `thinsight.conventions`; None: not known, so all are tried
    text           prompt tokens besides the picture
    tokens         what a setting's token count means: so many in "every layer"; what the "method" keeps, its layers
                   before the cut on top; or the mean over layers that the method is set to, "layer mean"
    reading        "stated" by the document; "fitted": one choice that meets several of its numbers; or "unknown"
    source         the sentence that says so
    fields         method -> its fields where the row does not say them
    share          of the operations, for a document that counts quantised ones as fewer, or one layer
    stands_for     the model and the visual tokens that are meant where a line states neither
    element_bytes  of the cache;  megabyte  how many bytes the document's MB has
    """

    table: str = ""
    model: str = ""
    row: str = ""
    convention: str | None = None
    text: int = 64
    tokens: str = "method"
    reading: str = "unknown"
    source: str = "the document does not say how it counts"
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    share: float = 1.0
    element_bytes: float = 2.0
    megabyte: int = 10**6
    stands_for: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        names = [c.name for c in CONVENTIONS]
        for what, value, known in (
            ("FLOPs convention", self.convention or names[0], names),
            ("reading of tokens", self.tokens, TOKENS),
            ("reading", self.reading, READINGS),
        ):
            if value not in known:
                raise nearest(what, value, known)

    @property
    def known(self) -> bool:
        """Whether a number that is met in this way is reproduced, not merely found."""
        return self.reading != "unknown"

    def fits(self, table: str, model: str, row: str) -> bool:
        """Whether a line is counted so."""
        said = zip((self.table, self.model, self.row), (table, model, row), strict=True)
        return all(re.search(pattern, text) for pattern, text in said)


@cache
def countings() -> Mapping[str, Sequence[Counting]]:
    """Document -> its ways of counting, the first that fits a line first."""
    found = {}
    for path in sorted((CONF / "paper").glob("*.yaml")):
        said = OmegaConf.to_container(OmegaConf.load(path))
        try:
            found[said["paper"]] = tuple(Counting(**way) for way in said["counts"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path.name} is no description of how a paper counts: {error}") from error
    return found


def counting(paper: str, table: str, model: str, row: str) -> Counting:
    """The way that a line of ``paper`` is counted; of a document or table without an entry, that nothing is known."""
    ways = countings().get(paper, ())
    return next((way for way in ways if way.fits(table, model, row)), Counting())
