"""Key-value caches that know which prompt filled them, also when they are copied, cropped, reordered or repeated."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thinsight.errors import UserError
from thinsight.runtime.decoder import DecoderState
from thinsight.runtime.layout import Layouts


@dataclass
class Filled:
    """What a cache remembers of the prompt that filled it.

    state    the prompt
    context  the `thinsight.runtime.attach.Attachment` in which that happened
    layouts  what each layer holds of the prompt, row by row of the cache as it is now
    drafts   how many columns at its end are guesses of an assistant, which may be taken back
    """

    state: DecoderState
    context: Any
    layouts: Layouts
    drafts: int

    def __deepcopy__(self, memo: dict) -> "Filled":
        """Of a copied cache: a prompt does not change any more once it has gone through."""
        return replace(self)


class FilledCache:
    """Base that a transformers cache gets besides its own class when a prompt fills it inside ``reduce``."""

    filled: Filled

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer; outside the context in which layers were shortened a `UserError`."""
        if self.filled.context.closed and self.filled.layouts.reduced:
            raise UserError(
                "this cache was filled inside a reduce() that has been left, and its layers differ in length: go on "
                "inside the context, or let the plain model read the prompt again"
            )
        return super().update(*args, **kwargs)

    def crop(self, count: int) -> None:
        """Remove the last ``-count`` tokens of every layer; ``count`` above 0: until the first layer has so many."""
        filled, past = self.filled, int(self.get_seq_length())
        leave = min(max(past - count, 0) if count > 0 else -count, past)
        into = max(leave - (past - filled.layouts.base.held), 0)  # how many of them came with the prompt
        if into > filled.drafts and filled.layouts.reduced:
            raise UserError(
                "crop() reaches into the prompt, whose tokens were chosen with all of it in sight: let the shorter "
                "prompt go through reduce() again"
            )
        if into:
            filled.layouts, filled.drafts = filled.layouts.without_last(into), filled.drafts - into
        super().crop(-leave)

    def reset(self) -> None:
        """Forget everything; the next prompt fills the cache anew."""
        super().reset()
        self.filled.layouts = Layouts(self.filled.layouts.full)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order (beam search)."""
        super().reorder_cache(beam_idx)
        self.filled.layouts = self.filled.layouts.rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only some rows."""
        super().batch_select_indices(indices)
        self.filled.layouts = self.filled.layouts.rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row several times."""
        super().batch_repeat_interleave(repeats)
        count = len(self.filled.layouts.base.columns)
        self.filled.layouts = self.filled.layouts.rows(torch.arange(count).repeat_interleave(repeats))

    def __deepcopy__(self, memo: dict) -> "FilledCache":
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        vars(copy).update({name: deepcopy(value, memo) for name, value in vars(self).items()})
        return copy

    def __reduce_ex__(self, protocol: int) -> Any:
        raise UserError("a cache that was filled inside reduce() cannot be pickled: copy.deepcopy copies it")


def fill(cache: Any, state: DecoderState, context: Any) -> None:
    """Note on ``cache`` that the prompt of ``state`` is about to fill it."""
    kind = type(cache)
    if not isinstance(cache, FilledCache):
        cache.__class__ = type(kind.__name__, (FilledCache, kind), {"__module__": kind.__module__})
    cache.filled = Filled(state, context, state.layouts, state.drafts)


def filled_by(cache: object) -> Filled | None:
    """What a cache remembers; None where it was filled outside ``reduce``."""
    return getattr(cache, "filled", None)
