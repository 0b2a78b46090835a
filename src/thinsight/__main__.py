"""The console command: ``thinsight evaluate ...`` is ``python -m thinsight.evaluate ...``, and so for the others."""

from importlib import import_module

from thinsight.errors import command, nearest

COMMANDS = {
    "evaluate": "score a method on tasks: thinsight evaluate model=pocket method=vtw task=easyvqa limit=100",
    "cost": "FLOPs in every convention and KV bytes, without weights: thinsight cost model=llava_1_5_7b method=vtw",
    "solve": "the knob that brings a method to a budget: thinsight solve model=pocket method=fastv layer_mean=64",
    "report": "write a page of an executed notebook, or the index: thinsight report index",
}


def dispatch(arguments: list[str]) -> None:
    """``COMMAND argument...``: run that command; ``--help`` lists them. An unknown command is a `UserError`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: thinsight COMMAND [argument...]\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<10}{text}")
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise nearest("command", name, COMMANDS)
    home = "thinsight.report.__main__" if name == "report" else f"thinsight.{name}"
    import_module(home).main(rest)


def main() -> None:
    """What the installed ``thinsight`` runs."""
    command(dispatch)


if __name__ == "__main__":
    main()
