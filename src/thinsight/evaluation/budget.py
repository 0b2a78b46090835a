"""One budget of a run: the swept fields of a method with their values, and the label under which results are filed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

DRAWS = ("seed", "phase")
"""Fields that draw a budget again: a random seed, the phase of a grid."""
FIXED = "fixed"
"""The label of the only budget of a run that sweeps nothing."""


@dataclass(frozen=True)
class Budget:
    """Swept fields with values, in the order of the sweep. Equal fields make equal budgets.

    ``str(budget)`` is its label in metrics.json and predictions.parquet: ``layer=8,keep=0.5``, or ``fixed``.
    """

    items: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Budget:
        """The budget of a mapping field -> value."""
        return cls(tuple(fields.items()))

    @classmethod
    def parse(cls, label: str) -> Budget:
        """The budget of a label; values are read as Python writes them, so that numbers are numbers."""
        if label == FIXED:
            return cls()
        parts: list[str] = []
        for part in label.split(","):  # a value that is a list holds commas itself
            if "=" in part:
                parts.append(part)
            else:
                parts[-1] += f",{part}"
        pairs = [part.partition("=")[::2] for part in parts]
        return cls(tuple((key, _value(value)) for key, value in pairs))

    @property
    def fields(self) -> dict[str, Any]:
        """Field -> value."""
        return dict(self.items)

    @property
    def keep(self) -> float | None:
        """The value of the field ``keep``, or None if it is not swept."""
        return self.fields.get("keep")

    @property
    def without_draws(self) -> Budget:
        """The budget without its seed and phase: what draws of one budget share."""
        return self.without(DRAWS)

    def without(self, names: Iterable[str]) -> Budget:
        """The budget without some fields."""
        dropped = set(names)
        return Budget(tuple(item for item in self.items if item[0] not in dropped))

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.items) or FIXED


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
