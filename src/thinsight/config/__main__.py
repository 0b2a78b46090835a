"""``python -m thinsight.config OUT override...``: write a resolved config."""

from pathlib import Path

from thinsight.config.compose import load_config, to_yaml
from thinsight.errors import UserError, command
from thinsight.paths import save_whole


def main(arguments: list[str]) -> None:
    """``OUT override...``: write the resolved config to OUT."""
    if not arguments or arguments[0].startswith("-") or "=" in arguments[0]:
        raise UserError("usage: python -m thinsight.config OUT override...")
    out = Path(arguments[0])
    text = to_yaml(load_config(arguments[1:]))
    save_whole(out, text)


if __name__ == "__main__":
    command(main)
