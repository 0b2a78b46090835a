"""The values of a sweep -> methods, one a budget.

The key ``points`` of a sweep holds variants instead of values: each is a mapping of some fields, ``{}`` the method as
it is. They are crossed with whatever else is swept.
"""

import json
from collections import ChainMap
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from thinsight.config.methods import load_method
from thinsight.config.schema import POINTS
from thinsight.errors import UserError

if TYPE_CHECKING:
    from thinsight.reduction.method import Method


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep: the swept ``fields`` and the method that has them."""

    fields: dict[str, Any]
    method: "Method"

    @property
    def name(self) -> str:
        """``layer=8,keep=0.5``; ``fixed`` if nothing is swept."""
        return ",".join(f"{key}={value}" for key, value in self.fields.items()) or "fixed"

    @property
    def json(self) -> str:
        """The swept fields as a JSON object."""
        return json.dumps(self.fields)


def sweep_points(config: DictConfig) -> list[SweepPoint]:
    """Every combination of ``config.sweep``, the last field varying fastest; one budget if there is none."""
    sweep = OmegaConf.to_container(config.sweep, resolve=True)
    for field, values in sweep.items():
        if len({str(value) for value in values}) < len(values):
            raise UserError(f"the sweep of {field} names a value twice: {values}.")
    axes = [values if field == POINTS else [{field: value} for value in values] for field, values in sweep.items()]
    points = [dict(ChainMap(*reversed(parts))) for parts in product(*axes)]
    if len({str(sorted(point.items())) for point in points}) < len(points):
        raise UserError("the sweep names a budget twice: a field that is swept stands among its points as well.")
    return [SweepPoint(point, load_method(config.method, **_fields(config, point))) for point in points]


def _fields(config: DictConfig, point: dict[str, Any]) -> dict[str, Any]:
    """The fields of a point; a measure of a budget (see `thinsight.solve`) is solved for the method's own knob."""
    from thinsight.config.schema import MEASURES
    from thinsight.costs.budgets import solve_budget, stage_of

    fields = {key: value for key, value in point.items() if key.split(":")[0] not in MEASURES}
    for measure in set(point) - set(fields):
        fields = solve_budget(config.method, stage_of(config), measure, point[measure], **fields)
    return fields
