"""The values of a sweep -> budgets, each with its method.

The key ``points`` of a sweep holds variants instead of values: each is a mapping of some fields, ``{}`` the method as
it is. They are crossed with whatever else is swept.
"""

from collections import ChainMap
from dataclasses import dataclass
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinsight.config.methods import load_method
from thinsight.config.schema import MEASURES, POINTS
from thinsight.costs.budgets import prefill_sizes, solve_budget
from thinsight.errors import UserError
from thinsight.evaluation.budget import Budget
from thinsight.reduction.method import Method


@dataclass(frozen=True)
class SweepPoint:
    """One budget of a run and the method that has its fields."""

    budget: Budget
    method: Method


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
    return [
        SweepPoint(Budget.of(point), load_method(config.method, **_method_fields(config, point))) for point in points
    ]


def _method_fields(config: DictConfig, point: dict[str, Any]) -> dict[str, Any]:
    """The fields of a point; a measure of a budget (see `thinsight.solve`) is solved for the method's own knob."""
    fields = {key: value for key, value in point.items() if key.split(":")[0] not in MEASURES}
    for measure in set(point) - set(fields):
        fields = solve_budget(config.method, prefill_sizes(config), measure, point[measure], **fields)
    return fields
