"""``python -m thinsight.solve``: the value of a method's knob that meets a budget."""

import argparse
import json

from thinsight.config.compose import load_config
from thinsight.config.methods import load_method
from thinsight.config.schema import MEASURES
from thinsight.costs.budgets import prefill_sizes, simulate, solve_budget
from thinsight.errors import UserError, about, command


def main(arguments: list[str]) -> None:
    """``override... MEASURE=TARGET``: print the fields that reach the target, and what they make of a picture."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.solve", description=about(__doc__))
    measures = ", ".join(MEASURES)
    words = f"model=NAME method=NAME and one measure ({measures}) with its target: layer_mean=192, kept=0.3333"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=words)
    arguments = parser.parse_intermixed_args(arguments).overrides
    wanted = [a for a in arguments if a.split("=")[0].split(":")[0] in MEASURES]
    if len(wanted) != 1:
        raise UserError("usage: python -m thinsight.solve model=NAME method=NAME MEASURE=TARGET, e.g. layer_mean=192")
    measure, _, text = wanted[0].partition("=")
    try:
        target = float(text) if "." in text else int(text)
    except ValueError as error:
        raise UserError(f"a budget is a number: a count (192) or a fraction (0.3333), not {text!r}") from error
    config = load_config([a for a in arguments if a not in wanted])
    sizes = prefill_sizes(config)
    fields = solve_budget(config.method, sizes, measure, target)
    counts = simulate(load_method(config.method, **fields), sizes)
    reached = {"kept": counts.kept, "layer_mean": counts.layer_mean, "visual": counts.visual}
    print(json.dumps({"model": config.model.name, "method": config.method.name, "fields": fields, **reached}))


if __name__ == "__main__":
    command(main)
