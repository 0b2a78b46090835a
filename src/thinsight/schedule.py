"""How many tokens leave at a layer: values, not code."""

from dataclasses import dataclass

from thinsight.errors import UserError
from thinsight.tokens import Tokens


@dataclass(frozen=True)
class Once:
    """Leave ``keep`` visual tokens of the prompt: a count (int), or a fraction of those present (float in 0..1)."""

    keep: int | float = 0

    def __post_init__(self) -> None:
        keep = self.keep
        if isinstance(keep, bool) or not isinstance(keep, int | float):
            raise UserError(f"keep is a count or a fraction of the visual tokens, not {keep!r}")
        if keep < 0 or (isinstance(keep, float) and not keep <= 1):
            raise UserError(f"keep={keep} is neither a count (0, 1, 2, ...) nor a fraction between 0.0 and 1.0")

    def __call__(self, tokens: Tokens) -> int:
        """Number of tokens that leave: the visual ones present, less those kept."""
        visual = int(tokens.visual.sum())
        keep = round(self.keep * visual) if isinstance(self.keep, float) else self.keep
        return max(visual - keep, 0)
