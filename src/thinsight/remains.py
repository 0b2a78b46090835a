"""What the stages of a reduction left of each picture, read off its trace."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinsight.errors import UserError

if TYPE_CHECKING:
    from thinsight.trace import Trace


@dataclass(frozen=True)
class Remains:
    """What a stage left of one image of ``count`` patches.

    kept    patches that tokens are named after
    groups  for each token that took others in: the patches whose largest share went into it, its own included
    adrift  tokens that show no place of the picture (a class token that is handed on); 0 where it is one of several
            images, since nothing says which of them such a token belongs to
    """

    count: int
    kept: frozenset[int]
    groups: tuple[frozenset[int], ...] = ()
    adrift: int = 0


class Stages:
    """The stages of one sample of a trace."""

    def __init__(self, trace: "Trace", sample: int) -> None:
        every = trace.pictures
        if not -len(every) <= sample < len(every):
            raise UserError(f"this trace has {len(every)} sample(s), so none with the number {sample}")
        self.sizes = every[sample]
        steps, shares = trace.steps, trace.shares
        self.tokens = {
            where: [(name, dict(zip(of, part, strict=True))) for (name, of), part in zip(step, share, strict=True)]
            for where, step, share in ((where, steps[where][sample], shares[where][sample]) for where in steps)
        }

    def whole(self, image: int) -> Remains:
        """All of an image."""
        return Remains(self.sizes[image], frozenset(range(self.sizes[image])))

    def left(self, where: str, image: int) -> Remains:
        """What the place ``where`` left of an image."""
        first, size = sum(self.sizes[:image]), self.sizes[image]
        tokens = self.tokens[where]
        largest: dict[int, tuple[float, int]] = {}
        for number, (_, sources) in enumerate(tokens):
            for patch, share in sources.items():
                if share > largest.get(patch, (0.0, 0))[0]:
                    largest[patch] = (share, number)
        names = {n: patch - first for n, (patch, _) in enumerate(tokens) if first <= patch < first + size}
        members = defaultdict(set)
        for patch, (_, number) in largest.items():
            if first <= patch < first + size:
                members[number] |= {patch - first} | ({names[number]} if number in names else set())
        groups = tuple(frozenset(group) for group in members.values() if len(group) > 1)
        adrift = sum(patch < 0 for patch, _ in tokens) if len(self.sizes) == 1 else 0
        return Remains(size, frozenset(names.values()), groups, adrift)

    def last(self, image: int) -> Remains:
        """What all of them left of an image."""
        return self.left(list(self.tokens)[-1], image) if self.tokens else self.whole(image)
