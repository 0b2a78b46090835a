"""``python -m thinsight.cost``: FLOPs in every convention and bytes of the KV cache, on the meta device."""

import argparse
import json

from thinsight.config.compose import load_config
from thinsight.errors import about, command


def main(arguments: list[str]) -> None:
    """``override...``: print one JSON object, the cost of a model's prefill, whole and reduced, in every convention."""
    parser = argparse.ArgumentParser(prog="python -m thinsight.cost", description=about(__doc__))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="model=NAME method=NAME text_tokens=64")
    config = load_config(parser.parse_intermixed_args(arguments).overrides)

    from thinsight.costs.meta_device import cost_report  # loads torch; a wrong name is answered without it

    print(json.dumps(cost_report(config), indent=1))


if __name__ == "__main__":
    command(main)
