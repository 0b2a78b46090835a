"""The console command: ``thinsight evaluate ...`` is ``python -m thinsight.evaluate ...``, and so for the others."""

from importlib import import_module

from thinsight.errors import command, nearest

COMMANDS = {
    "evaluate": (
        "thinsight.evaluate",
        "score a method on tasks",
        "thinsight evaluate model=pocket method=vtw task=easyvqa limit=100",
    ),
    "cost": (
        "thinsight.cost",
        "FLOPs in every convention and bytes of the KV cache, without weights",
        "thinsight cost model=llava_1_5_7b method=vtw text_tokens=64",
    ),
    "solve": (
        "thinsight.solve",
        "the fields that bring a method to a budget",
        "thinsight solve model=pocket method=fastv layer_mean=64",
    ),
    "time": (
        "thinsight.time",
        "seconds and memory of a method, beside the plain model and what FLOPs allow",
        "thinsight time model=llava_1_5_7b method=vtw weights=random shape=8x512+6x256",
    ),
    "cluster": (
        "thinsight.cluster",
        "compute the pipeline's runs as jobs: on SLURM, or on all GPUs of this machine",
        "thinsight cluster cluster=slurm shards=4 slurm_partition=gpu",
    ),
    "sweep": (
        "thinsight.sweep",
        "many runs by Hydra's sweepers and launchers, one folder each",
        "thinsight sweep -m method=fastv,vtw method.layer=2,4 limit=100",
    ),
    "replicate": (
        "thinsight.replicate",
        "a model's rows of the papers' tables, behind a check of its baseline",
        "thinsight replicate model=llava_1_5_7b limit=500",
    ),
    "lmms": (
        "thinsight.lmms.__main__",
        "score a method on tasks of lmms-eval, where that is installed",
        "thinsight lmms tasks=[pope,gqa] model=llava_1_5_7b method=vtw limit=100",
    ),
    "report": (
        "thinsight.report.__main__",
        "write the page of an executed notebook, or the index of all pages",
        "thinsight report index",
    ),
}
"""Name -> (module with a ``main``, what it does, an example)."""

HELP = """usage: thinsight COMMAND [argument...]

{commands}

`thinsight COMMAND --help` lists the arguments of a command. Names of models, methods and tasks are those of the files
in conf/; key=value replaces a value there, as in method.layer=4 or sweep.keep=[0.5,0.25]."""


def dispatch(arguments: list[str]) -> None:
    """``COMMAND argument...``: run that command; ``--help`` or nothing lists them. An unknown one is a `UserError`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10}{text}\n{'':12}{example}" for name, (_, text, example) in COMMANDS.items()]
        print(HELP.format(commands="\n".join(lines)))
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise nearest("command", name, COMMANDS)
    import_module(COMMANDS[name][0]).main(rest)


def main() -> None:
    """What the installed ``thinsight`` runs."""
    command(dispatch)


if __name__ == "__main__":
    main()
