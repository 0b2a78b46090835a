"""A method's choices, recorded in one run and made again in another, whatever the second one would choose."""

from dataclasses import replace

from thinsight.reduction.method import Method, Reduction


class Tape:
    """A stage that records what the stage inside it answers, or plays that back in the same order."""

    def __init__(self, stage, answers: list | None = None) -> None:
        self.stage, self.answers, self.playing = stage, answers or [], answers is not None
        self.among, self.needs = getattr(stage, "among", "visual"), () if self.playing else getattr(stage, "needs", ())
        for name in ("adds", "reaches", "adaptive", "alone", "spares", "decides"):
            if hasattr(stage, name):
                setattr(self, name, getattr(stage, name))

    def __call__(self, *given):
        if self.playing:
            return self.answers.pop(0)
        self.answers.append(self.stage(*given))
        return self.answers[-1]


def recording(method: Method) -> Method:
    """The method with every stage on tape."""
    return replace(method, reductions=tuple(_over(r, Tape) for r in method.reductions))


def playback(method: Method) -> Method:
    """A recorded method that makes the same choices again."""
    return replace(
        method, reductions=tuple(_over(r, lambda t: Tape(t.stage, list(t.answers))) for r in method.reductions)
    )


def _over(reduction: Reduction, make) -> Reduction:
    parts = {name: getattr(reduction, name) for name in ("filter", "correlate", "order")}
    return replace(reduction, **{name: make(part) for name, part in parts.items() if part is not None})
