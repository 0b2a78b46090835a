"""``python -m thinsight.cost``: FLOPs in every convention and KV bytes, without weights."""


def main(arguments: list[str]) -> None:
    """Print one JSON object: the cost of a model's prefill, whole and reduced, in every convention."""
    import json

    from thinsight.config.compose import load_config
    from thinsight.costs.meta_device import cost_report

    print(json.dumps(cost_report(load_config(arguments)), indent=1))


if __name__ == "__main__":
    from thinsight.errors import command

    command(main)
