"""Samples of the decoder, or images of the vision tower, that go through one reduction together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinsight.reduction.evidence import Evidence, StageNotes
from thinsight.reduction.method import Reduction, apply_reduction
from thinsight.reduction.ties import noticing
from thinsight.reduction.tokens import Tokens
from thinsight.runtime.hooks import full_precision

Look = Callable[[list[int], Tokens], tuple[Tokens, Evidence]]
"""(numbers of samples, their tokens side by side) -> the tokens with states, and what a stage may ask about them."""


def reduce_side_by_side(
    reduction: Reduction,
    before: Mapping[int, Tokens],
    notes: Sequence[StageNotes],
    look: Look,
    columns: int,
    noticed: Any,
    leave: int | None = None,
) -> dict[int, Tokens]:
    """Number of a sample -> its tokens after ``reduction``, of those of which something has left or merged.

    before   number -> tokens, alike in everything that stages depend on; one sample if the reduction works ``alone``
    notes    by number: what stages leave is added
    columns  of the prompt, or of the tower's sequence
    noticed  where scores that are no numbers are noted (see `thinsight.reduction.ties.noticing`)
    leave    how many leave of each, where the filter has decided it
    """
    samples, numbers = list(before), None
    tokens, evidence = look(samples, Tokens.stacked(list(before.values())))
    with full_precision(tokens.states.device), noticing(noticed):
        if reduction.alone:
            only, own = tokens.first(), replace(evidence.only(), notes=notes[samples[0]])
            after = apply_reduction(reduction, only, own, columns)
            return {} if after is only else {samples[0]: after}
        if reduction.decides and leave is None:
            numbers = reduction.leaving(tokens, evidence)
        else:
            after = apply_reduction(reduction, tokens, evidence, columns, leave)
    if numbers is not None:
        groups = {number: [s for s, n in zip(samples, numbers, strict=True) if n == number] for number in set(numbers)}
        parts = {number: {sample: before[sample] for sample in group} for number, group in sorted(groups.items())}
        each = [reduce_side_by_side(reduction, p, notes, look, columns, noticed, n) for n, p in parts.items()]
        return {sample: tokens for reduced in each for sample, tokens in reduced.items()}
    for sample, left in zip(samples, evidence.notes.of_samples(len(samples)), strict=True):
        notes[sample].update(left)
    if len(after) == len(tokens) and (after.made is None or after.made is tokens.made):
        return {}
    lengths = [len(own) - (len(tokens) - len(after)) for own in before.values()]
    return dict(zip(samples, after.split(lengths), strict=True))
